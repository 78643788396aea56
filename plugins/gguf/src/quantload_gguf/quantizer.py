"""`GgufQuantizer`: ggml blocks as a quantization method."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantload.errors import ConfigError, QuantloadError, UnsupportedOperationError
from quantload.quantizers.spec import ModuleSpec, TensorHeader
from quantload.quantizers.weight import WeightQuantizer
from quantload.verdict import Verdict
from quantload_gguf.config import WRITABLE, GgufConfig
from quantload_gguf.ggml import ggml_type
from quantload_gguf.layout import TYPE, WEIGHT, claim, weight_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from quantload.weights.packed import PackedWeight

logger = logging.getLogger("quantload.gguf")


class GgufQuantizer(WeightQuantizer):
    """Reads blocks of every type; quantizes to the simple ones."""

    quantization_config: GgufConfig
    file_format = "gguf"

    def __init__(self, quantization_config: GgufConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.modules_to_not_convert += quantization_config.modules_to_not_convert or []

    @property
    def is_compileable(self) -> bool:
        """Decoding is plain torch, and the kernel an operator."""
        return True

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """Every `weight` of a packed type, or of bytes that the config knows the type of."""
        found = {}
        for name, header in headers.items():
            spec = claim(name, header, self.quantization_config)
            if spec is not None:
                found[spec.name] = spec
        return found

    def empty(self, spec: ModuleSpec) -> PackedWeight:
        """A weight on meta."""
        import torch

        assert spec.shape is not None
        kind = ggml_type(spec.params.get(TYPE) or self._type_for(spec))
        shape = (*spec.shape[:-1], kind.row_bytes(spec.shape[-1]))
        blocks = torch.empty(shape, dtype=torch.uint8, device="meta")
        return weight_of(
            spec.replace(params={TYPE: kind.name}), {WEIGHT: blocks}, self.quantization_config
        )

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """The blocks as they are."""
        return weight_of(spec, tensors, self.quantization_config)

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """The blocks as they were."""
        return {WEIGHT: weight.storage()["blocks"]}

    def can_quantize(self) -> Verdict:
        """Whether the config names a type that weights can be quantized to."""
        names = {self.quantization_config.type, *self.quantization_config.types.values()}
        wrong = sorted(str(name) for name in names if name not in WRITABLE)
        if not wrong:
            return Verdict.yes()
        found = "no type is given" if wrong == ["None"] else f"found {', '.join(wrong)}"
        return Verdict.no(
            f"gguf quantizes to {', '.join(WRITABLE)}; {found}",
            'GgufConfig(type="Q8_0")',
        )

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> PackedWeight:
        """Quantize to the type the config gives for the module.

        Raises:
            ConfigError: the config gives none that weights can be quantized to.
            UnsupportedOperationError: the numbers are not finite.
        """
        return self._blocks(spec, weight.to(device or weight.device), self._type_for(spec))

    def _blocks(self, spec: ModuleSpec, weight: Tensor, name: str) -> PackedWeight:
        from quantload_gguf.blocks import quantize

        try:
            blocks = quantize(weight, name)
        except QuantloadError as error:
            raise type(error)(f"{spec.name}: {error}") from error
        dtype = spec.dtype or weight.dtype
        params = {TYPE: name}
        own = spec.replace(shape=tuple(weight.shape), params=params, dtype=dtype)
        return weight_of(own, {WEIGHT: blocks}, self.quantization_config)

    def can_requantize(self, spec: ModuleSpec, like: PackedWeight) -> Verdict:
        """Whether the type of the blocks is one that weights can be quantized to."""
        name = _type_name(like)
        if name in WRITABLE:
            return Verdict.yes()
        return Verdict.no(f"gguf quantizes to {', '.join(WRITABLE)}; the blocks are {name}")

    def requantize(self, spec: ModuleSpec, like: PackedWeight, weight: Tensor) -> PackedWeight:
        """Blocks of the type that the module has; see `WeightQuantizer.requantize`."""
        able = self.can_requantize(spec, like)
        if not able:
            raise UnsupportedOperationError(f"{spec.name}: {able.reason}")
        return self._blocks(spec.replace(dtype=like.dtype), weight, _type_name(like))

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """Linear layers whose rows fill blocks; others stay float."""
        found = super().targets(model)
        fitting = {}
        for name, spec in found.items():
            wanted = self.quantization_config.type_of(name)
            kind = ggml_type(wanted) if wanted is not None else None
            if kind is not None and spec.shape is not None and spec.shape[-1] % kind.elements:
                logger.info(
                    "%s stays float: its rows of %d do not fill blocks of %d",
                    name,
                    spec.shape[-1],
                    kind.elements,
                )
            else:
                fitting[name] = spec
        return fitting

    def _type_for(self, spec: ModuleSpec) -> str:
        found = self.quantization_config.type_of(spec.name)
        if found is None:
            raise ConfigError(
                f"{spec.name}: GgufConfig.type is not given; expected one of "
                f"{', '.join(WRITABLE)} to quantize to",
                field="type",
                allowed=", ".join(WRITABLE),
            )
        return found


def _type_name(weight: PackedWeight) -> str:
    from quantload_gguf.weight import GgufWeight

    return weight.ggml_type.name if isinstance(weight, GgufWeight) else weight.layout

"""`BitsAndBytesQuantizer`: NF4, FP4 and LLM.int8, read, made and written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from quantload.plugin import (
    CheckpointError,
    ConfigError,
    ModuleSpec,
    UnsupportedOperationError,
    Verdict,
    WeightQuantizer,
)
from quantload.quantizers.targets import quantizable_modules
from quantload_bitsandbytes.config import BitsAndBytesConfig
from quantload_bitsandbytes.skipping import float_modules, tied_modules

# What needs torch is imported where it is used: making a quantizer does not.
if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from quantload.plugin import PackedWeight, TensorHeader
    from quantload_bitsandbytes.workspace import Workspace

logger = logging.getLogger("quantload.bitsandbytes")


class BitsAndBytesQuantizer(WeightQuantizer):
    """Packs by what a checkpoint holds, and quantizes by what the config says.

    Args:
        quantization_config: the config.
        **kwargs: see `HfQuantizer`.

    Raises:
        ConfigError: the config asks for 16-bit main weights.
    """

    quantization_config: BitsAndBytesConfig

    def __init__(self, quantization_config: BitsAndBytesConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if quantization_config.load_in_8bit and quantization_config.llm_int8_has_fp16_weight:
            raise ConfigError(
                "llm_int8_has_fp16_weight is true: such a model keeps its weights in 16 bits and "
                "packs nothing, so there is nothing to load packed; leave it false, or load the "
                "model without a quantization config",
                field="llm_int8_has_fp16_weight",
                value=True,
                allowed="false",
            )
        self._stays_float: tuple[str, ...] = ()

    @cached_property
    def _workspace(self) -> Workspace:
        from quantload_bitsandbytes.workspace import Workspace

        return Workspace()

    # -- reading -------------------------------------------------------------------

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """See `WeightQuantizer.claims`; the tensors' names and dtypes decide."""
        from quantload_bitsandbytes.layout import claimed_modules

        found = claimed_modules(headers)
        self._compare_with_config(found)
        return found

    def _compare_with_config(self, specs: Mapping[str, ModuleSpec]) -> None:
        said = self.quantization_config.quantization_method()
        held = {spec.params.get("quant_type", "llm_int8") for spec in specs.values()}
        if said is not None and held - {said}:
            logger.warning(
                "the config says %s, the checkpoint's tensors are %s; they are read as what they "
                "are",
                said,
                " and ".join(sorted(held)),
            )

    def empty(self, spec: ModuleSpec) -> PackedWeight:
        """See `WeightQuantizer.empty`."""
        from quantload_bitsandbytes import making, packing4, packing8

        config = self.quantization_config
        if not spec.tensors:
            method = config.quantization_method()
            if method == "llm_int8":
                return packing8.empty(spec, self._compute_dtype(spec), config.llm_int8_threshold)
            state = making.planned_state(spec, config)
            return packing4.empty(spec, state, config.bnb_4bit_quant_storage, self._dtype4)
        if "SCB" in spec.tensors:
            return packing8.empty(spec, self._compute_dtype(spec), config.llm_int8_threshold)
        state, storage = making.stored_state(spec, config)
        return packing4.empty(spec, state, storage, self._dtype4)

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """See `WeightQuantizer.pack_weight`."""
        from quantload_bitsandbytes import packing4, packing8

        missing = sorted(set(spec.tensors) - set(tensors))
        if missing:
            raise CheckpointError(
                f"{spec.name}: expected {', '.join(sorted(spec.tensors))}; "
                f"{', '.join(missing)} is missing"
            )
        if "SCB" in tensors:
            threshold = self.quantization_config.llm_int8_threshold
            return packing8.pack(spec, tensors, self._compute_dtype(spec), threshold)
        return packing4.pack(spec, tensors, self._dtype4)

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """See `WeightQuantizer.unpack_weight`."""
        from quantload_bitsandbytes import packing4, packing8
        from quantload_bitsandbytes.weights import Bnb4Weight, Bnb8Weight

        if isinstance(weight, Bnb4Weight):
            return packing4.unpack(weight)
        if isinstance(weight, Bnb8Weight):
            return packing8.unpack(weight)
        raise UnsupportedOperationError(
            f"{spec.name}: a {type(weight).__name__} cannot be written as a bitsandbytes layer"
        )

    @property
    def _dtype4(self) -> torch.dtype:
        return cast("torch.dtype", self.quantization_config.bnb_4bit_compute_dtype)

    @staticmethod
    def _compute_dtype(spec: ModuleSpec) -> torch.dtype:
        import torch

        return spec.dtype or torch.get_default_dtype()

    # -- making --------------------------------------------------------------------

    def can_quantize(self) -> Verdict:
        """Whether the config says to which width."""
        if self.quantization_config.is_quantizable():
            return Verdict.yes()
        return Verdict.no("the config says neither load_in_4bit nor load_in_8bit")

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> PackedWeight:
        """Quantize a float weight `[out_features, in_features]`; see `WeightQuantizer`.

        Raises:
            CheckpointError: the weight holds a NaN or an infinity (for LLM.int8 also what
                float16 cannot hold).
            ConfigError: the config says no width.
            UnsupportedOperationError: the packed bytes do not fill whole elements of
                `bnb_4bit_quant_storage`.
        """
        import torch

        from quantload_bitsandbytes import making

        able = self.can_quantize()
        if not able:
            raise ConfigError(able.reason)
        config = self.quantization_config
        place = weight.device if device is None else torch.device(device)
        source = weight.detach().to(place)
        if config.load_in_8bit:
            dtype = spec.dtype or weight.dtype
            return making.make_8bit(spec, source, dtype, config, self._workspace)
        return making.make_4bit(spec, source, self._dtype4, config, self._workspace)

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """Linear layers, less what `llm_int8_skip_modules` says, as `transformers` reads it.

        None stands for the output head, what is tied, and the last module. What is tied
        stays float in any case: its weight is another module's.
        """
        listed = self.quantization_config.llm_int8_skip_modules
        patterns = [*(listed or []), *self.modules_to_not_convert, *float_modules(model)]
        keep = None if listed is None else tied_modules(model)
        found = quantizable_modules(model, patterns, keep)
        return {name: spec for name, spec in found.items() if not self._offloaded(name)}

    # -- the verbs of the loader -----------------------------------------------------

    def update_device_map(self, device_map: Any) -> Any:
        """The current GPU where nothing was said and there is one.

        A map that was written out also tells which modules
        `llm_int8_enable_fp32_cpu_offload` keeps float.
        """
        import torch

        self._stays_float = ()
        if device_map is None and torch.cuda.is_available():
            return {"": torch.cuda.current_device()}
        if isinstance(device_map, Mapping):
            self._remember_offloaded(device_map)
        return device_map

    def _remember_offloaded(self, device_map: Mapping[str, Any]) -> None:
        if not self.quantization_config.llm_int8_enable_fp32_cpu_offload:
            return
        slow = {name for name, place in device_map.items() if str(place) in ("cpu", "disk")}
        if len(slow) < len(device_map):
            self._stays_float = tuple(sorted(slow))

    def _offloaded(self, name: str) -> bool:
        return any(name == key or name.startswith(f"{key}.") for key in self._stays_float)

    def adjust_max_memory(self, max_memory: dict[Any, Any]) -> dict[Any, Any]:
        """Leave a tenth of each device for the buffers of quantization."""
        return {
            place: limit * 0.9 if isinstance(limit, (int, float)) else limit
            for place, limit in max_memory.items()
        }

    @property
    def is_compileable(self) -> bool:
        """The products are registered ops, with a fake and a gradient."""
        return True

    def dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """Float modules in the place of packed ones.

        Without a `dtype`, in that of the model's float tensors: 4-bit layers compute in a
        dtype of their own, which the rest of the model need not have.
        """
        return super().dequantize(model, dtype or _float_dtype(model))


def _float_dtype(model: nn.Module) -> torch.dtype | None:
    """Dtype of the first float parameter that is not part of a packed weight."""
    from quantload.plugin import PackedWeight

    for module in model.modules():
        if isinstance(module, PackedWeight):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                return parameter.dtype
    return None

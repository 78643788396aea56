"""`AwqQuantizer`: AWQ checkpoints, read, made and written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantload.plugin import (
    CheckpointError,
    ConfigError,
    ModuleSpec,
    UnsupportedOperationError,
    WeightQuantizer,
)
from quantload.quantizers.overrides import override_for
from quantload.quantizers.spec import Header
from quantload.quantizers.targets import matches, quantizable_modules
from quantload.weights.affine import AffineWeight
from quantload.weights.affine.checks import FLOATS, check_dtype
from quantload.weights.affine.headers import by_module
from quantload.weights.affine.rtn import round_to_nearest
from quantload_awq import layout
from quantload_awq.activation import ScaledActivation
from quantload_awq.config import AwqConfig, override_fields
from quantload_awq.expressible import misfits
from quantload_awq.headers import DTYPES, LEAVES, read_headers

if TYPE_CHECKING:
    from quantload.plugin import PackedWeight, TensorHeader

logger = logging.getLogger("quantload.awq")

_FAST = ("gemv_fast", "llm-awq")


class AwqQuantizer(WeightQuantizer):
    """Reads what a checkpoint's tensors show; the config says what they cannot.

    Args:
        quantization_config: the config.
        **kwargs: see `HfQuantizer`.

    Raises:
        ConfigError: a float model is to be quantized for Marlin, which has no such layers.
    """

    quantization_config: AwqConfig

    def __init__(self, quantization_config: AwqConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._told: set[str] = set()
        self._packed = False
        if not self.pre_quantized and quantization_config.version == "marlin":
            _check_marlin(quantization_config)

    # -- reading -------------------------------------------------------------------

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """See `WeightQuantizer.claims`: a module is packed where it has a `qweight`.

        An activation that has `scales` and nothing else is claimed as a wrapper.
        """
        config = self.quantization_config
        found: dict[str, ModuleSpec] = {}
        for name, own in by_module(headers, (*LEAVES, "g_idx"), extra=("bias",)).items():
            if set(own) == {"scales"} and len(own["scales"].shape) == 1:
                check_dtype(f"{name}.scales", own["scales"], FLOATS)
                found[name] = ModuleSpec(name, "wrapper", tensors=own)
                continue
            mine = self._config_for(name)
            shape = read_headers(name, own, mine)
            if shape.layout != config.version:
                self._note(shape.layout)
            params = {
                "bits": mine.bits,
                "group_size": shape.group_size,
                "zero_point": mine.zero_point,
                "version": shape.layout,
            }
            logical = (shape.rows, shape.columns)
            found[name] = ModuleSpec(name, shape=logical, tensors=own, params=params)
        self._compare_with_skips(found)
        self._packed = self._packed or bool(found)
        return found

    def _config_for(self, module: ModuleSpec | str) -> AwqConfig:
        """The config of one module, after the overrides in `dynamic`."""
        config = self.quantization_config
        if not config.dynamic:
            return config
        if isinstance(module, ModuleSpec) and "bits" in module.params:
            # a claim went by the name in the checkpoint; the model may have another
            changes = override_fields(module.params)
        else:
            name = module if isinstance(module, str) else module.name
            changes = override_fields(override_for(config.dynamic, name) or {})
        return config.replace(**changes) if changes else config

    def _note(self, shown: str) -> None:
        if shown not in self._told:
            self._told.add(shown)
            logger.warning(
                "the config says version=%r, and layers have the tensors of %r: they are read as "
                "what they are",
                self.quantization_config.version,
                shown,
            )

    def _compare_with_skips(self, found: Mapping[str, ModuleSpec]) -> None:
        skips = self.quantization_config.modules_to_not_convert or []
        listed = [name for name in found if matches(name, skips)]
        if listed:
            logger.info(
                "%d modules are packed although modules_to_not_convert lists them: %s",
                len(listed),
                ", ".join(listed[:5]),
            )

    def empty(self, spec: ModuleSpec) -> PackedWeight:
        """See `WeightQuantizer.empty`."""
        dtype = spec.dtype or torch.float16
        return layout.empty(spec, spec.tensors, self._config_for(spec), dtype)

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """See `WeightQuantizer.pack_weight`."""
        headers = {name: Header.of(tensor) for name, tensor in tensors.items()}
        return layout.read(spec, headers, tensors, self._config_for(spec))

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """See `WeightQuantizer.unpack_weight`.

        A weight that another method read is written in this config's layout.

        Raises:
            UnsupportedOperationError: the layout cannot express the weight.
        """
        if not isinstance(weight, AffineWeight):
            raise UnsupportedOperationError(
                f"{spec.name}: a {type(weight).__name__} cannot be written as an AWQ layer"
            )
        return layout.write(spec.name, weight, self._config_for(spec))

    def wrap(self, spec: ModuleSpec, module: nn.Module) -> nn.Module:
        """The activation with its scales; see `WeightQuantizer.wrap`."""
        scales = spec.tensors["scales"]
        return ScaledActivation.empty(module, scales.shape[0], DTYPES[scales.dtype])

    # -- making --------------------------------------------------------------------

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """The layers to quantize; see `WeightQuantizer.targets`.

        Those that `dynamic` skips stay float. Those whose shapes the layout does not have
        do, too, and are written into `modules_to_not_convert`, unless the checkpoint has
        packed layers: then its config stays as it is.
        """
        config = self.quantization_config
        skip = [*(config.modules_to_not_convert or []), *self.modules_to_not_convert]
        found, left = {}, []
        for name, spec in quantizable_modules(model, skip).items():
            assert spec.shape is not None
            if override_for(config.dynamic, name) is None:
                continue
            rows, columns = spec.shape
            mine = self._config_for(name)
            size = columns if mine.group_size == -1 else mine.group_size
            if misfits(mine.version, mine.bits, rows, columns, size):
                left.append(name)
            else:
                found[name] = spec
        if left and not self._packed:
            logger.info(
                "%d layers stay float, for their shapes do not fit %s in groups of %d: %s",
                len(left),
                config.version,
                config.group_size,
                ", ".join(left[:5]),
            )
            listed = [*(config.modules_to_not_convert or []), *left]
            self.quantization_config = config.replace(modules_to_not_convert=listed)
        return found

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> PackedWeight:
        """Round a float weight to the nearest codes; see `WeightQuantizer.quantize`.

        Raises:
            CheckpointError: the weight holds NaN or infinite values.
            UnsupportedOperationError: the layout has no such shape.
        """
        config = self._config_for(spec)
        rows, columns = weight.shape
        size = columns if config.group_size == -1 else config.group_size
        reasons = misfits(config.version, config.bits, rows, columns, size)
        if reasons:
            raise UnsupportedOperationError(
                f"{spec.name}: cannot be quantized as AWQ {config.version}: {'; '.join(reasons)}"
            )
        source = weight.detach().to(weight.device if device is None else torch.device(device))
        try:
            rounded = round_to_nearest(
                source, bits=config.bits, group_size=size, symmetric=not config.zero_point
            )
        except CheckpointError as error:
            raise CheckpointError(f"{spec.name}.weight: {error}") from error
        made = AffineWeight.from_codes(
            rounded.codes,
            rounded.scales,
            None if config.version == "marlin" else rounded.zeros,
            bits=config.bits,
            group_size=size,
            dtype=spec.dtype or weight.dtype,
        )
        return made.with_offsets(rounded=True) if config.version in _FAST else made

    # -- the verbs of the loader -----------------------------------------------------

    @property
    def is_compileable(self) -> bool:
        """The reference is plain torch, and kernels are registered operators."""
        return True


def _check_marlin(config: AwqConfig) -> None:
    if config.bits != 4 or config.zero_point:
        raise ConfigError(
            f"AwqConfig: the marlin layout has 4 bits and no zero-points, found bits="
            f"{config.bits} and zero_point={config.zero_point}",
            field="version",
            value="marlin",
            allowed="'gemm', or bits=4 and zero_point=false",
        )

"""`HqqQuantizer`: HQQ layers in and out of checkpoints, and made from float ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantload.plugin import (
    CheckpointError,
    Header,
    ModuleSpec,
    PackedWeight,
    TensorHeader,
    UnsupportedOperationError,
    WeightQuantizer,
)
from quantload_hqq import weights
from quantload_hqq.config import HqqConfig
from quantload_hqq.layer import (
    CORE,
    FLOATS,
    SETTINGS,
    Layer,
    check_headers,
    checked,
    from_headers,
    settings_of,
)
from quantload_hqq.packing import NAME_FOR, unpack
from quantload_hqq.solver import fit

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_AT_A_TIME = 1 << 22
"""Weights that are fitted in one go, so that memory stays bounded."""


class HqqQuantizer(WeightQuantizer):
    """Reads layers with a `W_q`, whatever lists say; fits and writes them."""

    quantization_config: HqqConfig

    def __init__(self, quantization_config: HqqConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.modules_to_not_convert += quantization_config.skip_modules

    @property
    def is_compileable(self) -> bool:
        """Every product is plain torch, or a kernel's for group-wise integers."""
        return True

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """See `WeightQuantizer.claims`. Headers do not tell the shape: a tensor holds it."""
        found = {}
        for module in (name[: -len(".W_q")] for name in headers if name.endswith(".W_q")):
            names = (*CORE, *SETTINGS)
            own = {n: headers[f"{module}.{n}"] for n in names if f"{module}.{n}" in headers}
            check_headers(module, own)
            found[module] = ModuleSpec(module, tensors=own)
        return found

    def empty(self, spec: ModuleSpec) -> PackedWeight:
        """See `WeightQuantizer.empty`."""
        if spec.shape is None:
            raise UnsupportedOperationError(f"{spec.name}: the shape is not known yet")
        shape = (spec.shape[0], spec.shape[1])
        if not spec.tensors:
            dtype = _stored(spec.dtype or torch.float32)
            return weights.empty(self._planned(spec.name, shape), dtype, spec.dtype or dtype)
        settings = self.quantization_config.settings_for(spec.name)
        nbits = settings.nbits if settings else 4
        layer = from_headers(spec.name, spec.tensors, shape, nbits)
        dtype = FLOATS[spec.tensors["scale"].dtype]
        return weights.empty(layer, dtype, spec.dtype or dtype)

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """See `WeightQuantizer.pack_weight`."""
        own = {n: t for n, t in tensors.items() if n in CORE or n in SETTINGS}
        check_headers(spec.name, {n: Header.of(t) for n, t in own.items()})
        settings = settings_of(spec.name, own)
        layer = checked(spec, own, settings)
        words, scale, zero = (own[name] for name in CORE)
        words = words.contiguous().view(layer.how.dtype)
        dtype = spec.dtype or scale.dtype
        if not layer.by_rows:
            return weights.HqqWeight(layer, words, scale, zero, settings, dtype)
        codes = unpack(words, layer.how, layer.matrix[0])
        made = weights.from_codes(layer, codes, scale, zero, settings, dtype)
        if not torch.equal(weights.tensors_of(spec.name, made)["W_q"].view(words.dtype), words):
            raise CheckpointError(
                f"{spec.name}.W_q: the bits that fill up its words are not zero; it was not "
                f"written by hqq"
            )
        return made

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """See `WeightQuantizer.unpack_weight`."""
        return weights.tensors_of(spec.name, weight)

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> PackedWeight:
        """See `WeightQuantizer.quantize`.

        Raises:
            CheckpointError: the weight holds NaN or infinity.
            UnsupportedOperationError: the groups do not divide it.
        """
        layer = self._planned(spec.name, (weight.shape[0], weight.shape[1]))
        config = self.quantization_config.settings_for(spec.name) or self.quantization_config
        floats = weight.to(device=device or weight.device, dtype=torch.float32)
        if not bool(torch.isfinite(floats).all()):
            raise CheckpointError(f"{spec.name}: the weight holds NaN or infinite values")
        dtype = spec.dtype or weight.dtype
        stored = _stored(dtype)
        round_zero = layer.nbits == 4 if config.round_zero is None else config.round_zero
        matrix = floats.reshape(layer.matrix)
        across = 1 - layer.axis  # the dimension along which groups follow each other
        step = max(1, WEIGHTS_AT_A_TIME // layer.group_size)
        parts = [
            fit(
                part,
                layer.nbits,
                dim=layer.axis,
                dtype=stored,
                optimize=config.optimize,
                round_zero=round_zero,
            )
            for part in torch.split(matrix, step, dim=across)
        ]
        codes, scale, zero = (torch.cat(found, dim=across) for found in zip(*parts, strict=True))
        settings = _written(layer, config, stored, round_zero)
        if layer.viewed is not None:
            layer = _viewed(layer, stored)
        return weights.from_codes(layer, codes, scale, zero, settings, dtype)

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """See `WeightQuantizer.targets`; layers that groups do not divide stay float."""
        found = {}
        for name, spec in super().targets(model).items():
            shape = spec.shape or (0, 0)
            if self.quantization_config.settings_for(name) is None:
                continue
            if not self._plan(name, (shape[0], shape[1])).problem():
                found[name] = spec
        return found

    def _plan(self, name: str, shape: tuple[int, int]) -> Layer:
        config = self.quantization_config.settings_for(name) or self.quantization_config
        whole = shape[1] if config.axis == 1 else shape[0]
        viewed = torch.float32 if config.view_as_float else None
        size = config.group_size or whole
        return Layer(config.nbits, size, config.axis, NAME_FOR[config.nbits], shape, viewed)

    def _planned(self, name: str, shape: tuple[int, int]) -> Layer:
        layer = self._plan(name, shape)
        if layer.problem():
            raise UnsupportedOperationError(f"{name}: {layer.problem()}")
        return layer


def _stored(dtype: torch.dtype) -> torch.dtype:
    """The dtype of new scales and zero-points: that of the model."""
    return dtype if dtype in FLOATS.values() else torch.float32


def _viewed(layer: Layer, dtype: torch.dtype) -> Layer:
    return Layer(layer.nbits, layer.group_size, layer.axis, layer.packing, layer.shape, dtype)


def _written(
    layer: Layer, config: HqqConfig, dtype: torch.dtype, round_zero: bool
) -> dict[str, Any]:
    """The settings that `hqq` writes beside a layer."""
    return {
        "nbits": layer.nbits,
        "group_size": layer.group_size,
        "shape": layer.shape,
        "axis": layer.axis,
        "packing": layer.packing,
        "unpack_view_dtype": str(layer.how.dtype),
        "view_as_float": config.view_as_float,
        "quant_scale": False,
        "quant_zero": False,
        "compute_dtype": str(dtype),
        "offload_meta": False,
        "encoded_state_dict": True,
        "stores_quant_config": True,
        "channel_wise": True,
        "optimize": config.optimize,
        "round_zero": round_zero,
    }

"""A small int8 method of its own, for the tests of loading: one scale a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantload.plugin import (
    CheckpointError,
    ModuleSpec,
    PackedWeight,
    QuantizationConfig,
    TensorHeader,
    WeightQuantizer,
    option,
)
from quantload.quantizers.targets import logical_shape, module_kind


class RowwiseWeight(PackedWeight):
    layout = "rowwise-int8"

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__(tuple(codes.shape), dtype)
        self.store("codes", codes)
        self.store("scales", scales)

    def decode(self, dtype: torch.dtype) -> Tensor:
        return (self.codes.float() * self.scales[:, None]).to(dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowwiseConfig(QuantizationConfig):
    quant_method = "rowwise"

    skip: list[str] = dataclasses.field(default_factory=list)
    everything: bool = option(False)


class RowwiseQuantizer(WeightQuantizer):
    quantization_config: RowwiseConfig

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        found = {}
        for name, header in headers.items():
            module, _, leaf = name.rpartition(".")
            if leaf == "codes":
                tensors = {"codes": header, "scales": headers[f"{module}.scales"]}
                found[module] = ModuleSpec(module, shape=tuple(header.shape), tensors=tensors)
        return found

    def empty(self, spec: ModuleSpec) -> RowwiseWeight:
        codes = torch.empty(spec.shape, dtype=torch.int8, device="meta")
        scales = torch.empty(spec.shape[0], device="meta")
        return RowwiseWeight(codes, scales, spec.dtype)

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> RowwiseWeight:
        if tensors["codes"].dtype != torch.int8:
            raise CheckpointError(f"{spec.name}.codes: expected int8")
        dtype = spec.dtype or torch.float32
        return RowwiseWeight(tensors["codes"], tensors["scales"], dtype)

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        return weight.storage()

    def quantize(self, spec: ModuleSpec, weight: Tensor, device: Any = None) -> RowwiseWeight:
        weight = weight.to(device)
        assert tuple(weight.shape) == spec.shape
        assert weight.dtype == spec.dtype
        scales = weight.float().abs().amax(1) / 127
        codes = (weight.float() / scales[:, None]).round().to(torch.int8)
        return RowwiseWeight(codes, scales, spec.dtype)

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        if not self.quantization_config.everything:
            self.modules_to_not_convert = self.quantization_config.skip
            return super().targets(model)
        return {
            name: ModuleSpec(name, kind, logical_shape(module, kind))
            for name, module in model.named_modules()
            if (kind := module_kind(module)) is not None
        }


def rowwise_tensors(name: str, weight: Tensor) -> dict[str, Tensor]:
    """What a checkpoint of the method holds for one layer."""
    scales = weight.float().abs().amax(1) / 127
    codes = (weight.float() / scales[:, None]).round().to(torch.int8)
    return {f"{name}.codes": codes, f"{name}.scales": scales}


def rowwise_decoded(weight: Tensor) -> Tensor:
    """The weight after a way through the method."""
    tensors = rowwise_tensors("x", weight)
    return tensors["x.codes"].float() * tensors["x.scales"][:, None]

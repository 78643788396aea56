"""Checks of packed weights: bytes in and out, and what they look like."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload.quantizers.spec import ModuleSpec
from quantload.testing.comparing import (
    differences,
    relative_error,
    same_bytes,
    snapshot,
)
from quantload.testing.declared import LAYER, Config, MethodSuite, Shape, example
from quantload.weights.packed import PackedWeight


class WeightBytes(MethodSuite):
    """Tensors of a checkpoint become a weight and the same tensors again."""

    def test_unpack_gives_the_packed_tensors_back(self, config: Config, shape: Shape) -> None:
        """Byte for byte, and packing changed none of them."""
        tensors = self.checkpoint_tensors(config, shape)
        given = snapshot(tensors)
        quantizer = self.quantizer(config)
        weight = quantizer.pack(LAYER, tensors)
        assert not differences(quantizer.unpack(LAYER, weight), given)
        assert not differences(tensors, given), "pack changed the tensors it was given"

    def test_quantize_unpack_pack_is_the_same_weight(self, config: Config, shape: Shape) -> None:
        """What was made here and what was read from its checkpoint are the same numbers."""
        if not self.can_quantize:
            pytest.skip("declared: it cannot quantize")
        quantizer = self.quantizer(config, pre_quantized=False)
        spec = ModuleSpec(LAYER, shape=shape, dtype=torch.float32)
        made = quantizer.quantize(spec, self.float_weight(shape))
        tensors = quantizer.unpack(spec, made)
        read = self.quantizer(config).pack(LAYER, tensors)
        assert not differences(read.storage(), made.storage())
        assert same_bytes(read.dequantize(torch.float32), made.dequantize(torch.float32))
        assert not differences(self.quantizer(config).unpack(LAYER, read), tensors)

    def test_quantizing_is_as_exact_as_declared(self, config: Config, shape: Shape) -> None:
        """On a Gaussian weight, in every dtype that float checkpoints have."""
        if not self.can_quantize:
            pytest.skip("declared: it cannot quantize")
        quantizer = self.quantizer(config, pre_quantized=False)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            weight = self.float_weight(shape).to(dtype)
            given = weight.clone()
            made = quantizer.quantize(ModuleSpec(LAYER, shape=shape, dtype=dtype), weight)
            assert same_bytes(weight, given), "quantize changed the float weight"
            error = relative_error(made.dequantize(torch.float32), given.float())
            assert error <= self.max_relative_error, f"{dtype}: relative error {error:.4f}"

    def test_quantizing_keeps_nothing_of_the_float_weight(
        self, config: Config, shape: Shape
    ) -> None:
        """The loader hands over a staging buffer and uses it again at once."""
        if not self.can_quantize:
            pytest.skip("declared: it cannot quantize")
        quantizer = self.quantizer(config, pre_quantized=False)
        spec = ModuleSpec(LAYER, shape=shape, dtype=torch.float32)
        buffer = self.float_weight(shape)
        first = quantizer.quantize(spec, buffer)
        before = snapshot(first.storage())
        buffer.copy_(example(*shape, seed=1))
        second = quantizer.quantize(spec, buffer)
        buffer.fill_(float("nan"))
        assert not differences(first.storage(), before), "the first weight changed afterwards"
        assert torch.isfinite(second.dequantize(torch.float32)).all()

    def test_the_empty_weight_is_like_the_packed_one(
        self, config: Config, shape: Shape, dtype: torch.dtype
    ) -> None:
        """On meta: class, shapes and bytes, for the skeleton, the device map, the footprint."""
        quantizer = self.quantizer(config)
        spec = self.spec(config, shape, dtype)
        packed = quantizer.pack(spec, self.checkpoint_tensors(config, shape))
        self._alike(quantizer.empty(spec), packed)

    def test_the_empty_weight_is_like_the_quantized_one(self, config: Config, shape: Shape) -> None:
        """Before there are any tensors, too."""
        if not self.can_quantize:
            pytest.skip("declared: it cannot quantize")
        quantizer = self.quantizer(config, pre_quantized=False)
        spec = ModuleSpec(LAYER, shape=shape, dtype=torch.float32)
        made = quantizer.quantize(spec, self.float_weight(shape))
        self._alike(quantizer.empty(spec), made)

    @staticmethod
    def _alike(empty: PackedWeight, packed: PackedWeight) -> None:
        assert type(empty) is type(packed)
        assert empty.is_meta
        assert empty.shape == packed.shape
        assert empty.dtype == packed.dtype
        assert empty.layout == packed.layout != ""
        there = {k: (t.dtype, tuple(t.shape)) for k, t in packed.storage().items()}
        assert {k: (t.dtype, tuple(t.shape)) for k, t in empty.storage().items()} == there
        assert empty.nbytes == packed.nbytes
        assert dict(empty.kernel_params()) == dict(packed.kernel_params()), "kernel_params"

    def test_it_looks_like_a_frozen_parameter(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Shape, dtype, device, no gradient, no `.data`, and it counts as initialised."""
        weight = self.weight(config, shape, dtype, device)
        assert tuple(weight.shape) == tuple(weight.size()) == shape
        assert (weight.ndim, weight.dim()) == (2, 2)
        assert weight.numel() == shape[0] * shape[1]
        assert weight.dtype == dtype
        assert weight.device.type == device
        assert weight.requires_grad is False
        assert weight._is_hf_initialized is True
        with pytest.raises(UnsupportedOperationError):
            weight.requires_grad = True
        with pytest.raises(UnsupportedOperationError):
            _ = weight.data

    def test_the_footprint_is_that_of_its_parameters(self, config: Config, shape: Shape) -> None:
        """Everything it holds is a parameter that sizes, hooks and footprints see."""
        spec = self.spec(config, shape, torch.float32)
        weight = self.quantizer(config).pack(spec, self.checkpoint_tensors(config, shape))
        parameters = dict(weight.named_parameters())
        assert not differences(weight.storage(), parameters)
        assert weight.nbytes == sum(p.nbytes for p in parameters.values())
        for name, parameter in parameters.items():
            assert not parameter.requires_grad, name
            assert parameter._is_hf_initialized, name  # type: ignore[attr-defined]  # a mark
        loose = [k for k, v in vars(weight).items() if isinstance(v, Tensor)]
        assert not loose, f"tensors outside store(): {loose}"
        assert not list(weight.named_buffers())

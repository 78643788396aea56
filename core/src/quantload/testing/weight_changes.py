"""Checks of packed weights: what may change them, and what never does."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from quantload.errors import UnsupportedOperationError
from quantload.modules import QuantizedLinear
from quantload.testing.comparing import (
    differences,
    same_bytes,
    snapshot,
)
from quantload.testing.declared import LAYER, Config, MethodSuite, Shape, example, require
from quantload.weights.packed import PackedWeight


class WeightChanges(MethodSuite):
    """Forward passes, casts, moves, copies and splits."""

    def test_forward_passes_change_no_byte(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """Any number of them, with and without gradient; what is saved is what was loaded."""
        quantizer, tensors = self.quantizer(config), self.checkpoint_tensors(config, shape)
        weight = self.weight(config, shape, dtype, device)
        before, kept = snapshot(weight.storage()), set(vars(weight))
        for rows in (1, 4, 40):
            x = example(rows, shape[1], dtype=dtype, device=device)
            for grad in (False, self.trainable):
                weight(x.clone().requires_grad_(grad)).sum()
                # after each, for what is done twice may undo itself
                assert not differences(weight.storage(), before)
        weight(torch.zeros(2, dtype=torch.long, device=device))
        weight.dequantize()
        assert not differences(weight.storage(), before)
        assert set(vars(weight)) == kept, "a forward pass left something in the weight"
        saved = {k: t.cpu() for k, t in quantizer.unpack(LAYER, weight).items()}
        assert not differences(saved, tensors)

    def test_the_same_input_gives_the_same_product(
        self, config: Config, shape: Shape, dtype: torch.dtype, device: str
    ) -> None:
        """To the last bit, every time."""
        weight = self.weight(config, shape, dtype, device)
        x = example(5, shape[1], dtype=dtype, device=device)
        first = weight(x)
        assert all(same_bytes(weight(x), first) for _ in range(3))

    def test_casts_change_the_compute_dtype_and_nothing_else(
        self, config: Config, shape: Shape, device: str
    ) -> None:
        """`.half()` and its kin on the weight, on its host, and back."""
        weight = self.weight(config, shape, torch.float32, device)
        before, exact = snapshot(weight.storage()), weight.dequantize(torch.float32)
        casts: dict[torch.dtype, Any] = {
            torch.float16: lambda m: m.half(),
            torch.bfloat16: lambda m: m.bfloat16(),
            torch.float64: lambda m: m.double(),
            torch.float32: lambda m: m.float(),
        }
        for subject in (weight, QuantizedLinear(weight)):
            for dtype, cast in casts.items():
                cast(subject)
                assert weight.dtype == dtype
                assert not differences(weight.storage(), before), f"{dtype} changed the storage"
                assert same_bytes(weight.dequantize(torch.float32), exact)
            subject.to(torch.bfloat16)
            assert weight.dtype == torch.bfloat16
            assert not differences(weight.storage(), before)
            subject.to(torch.float32)

    def test_moves_change_the_device_and_nothing_else(
        self, config: Config, shape: Shape, device: str
    ) -> None:
        """There and back; on meta it says that there are no bytes."""
        require(device)
        weight = self.weight(config, shape)
        before = snapshot(weight.storage())
        weight.to(device)
        assert weight.device.type == device
        assert not differences({k: t.cpu() for k, t in weight.storage().items()}, before)
        weight.cpu()
        assert not differences(weight.storage(), before)
        gone = copy.deepcopy(weight).to("meta")
        assert gone.is_meta
        assert gone.nbytes == weight.nbytes
        for use in (gone.dequantize, lambda: gone(example(1, shape[1]))):
            with pytest.raises(UnsupportedOperationError):
                use()

    def test_copies_are_equal_and_independent(
        self, config: Config, shape: Shape, dtype: torch.dtype
    ) -> None:
        """`copy.deepcopy`, `pickle` and `torch.save`."""
        weight = self.weight(config, shape, dtype)
        before, exact = snapshot(weight.storage()), weight.dequantize(torch.float32)
        file = io.BytesIO()
        torch.save(weight, file)
        file.seek(0)
        copies = {
            "deepcopy": copy.deepcopy(weight),
            "pickle": pickle.loads(pickle.dumps(weight)),  # noqa: S301  made on this line
            "torch.save": torch.load(file, weights_only=False),
        }
        x = example(3, shape[1], dtype=dtype)
        for how, twin in copies.items():
            assert type(twin) is type(weight), how
            assert (twin.shape, twin.dtype) == (weight.shape, weight.dtype), how
            assert not differences(twin.storage(), before), how
            assert same_bytes(twin(x), weight(x)), how
            for tensor in twin.storage().values():
                tensor.view(-1).view(torch.uint8).zero_()
            assert same_bytes(weight.dequantize(torch.float32), exact), f"{how} shares memory"

    def test_a_host_is_a_linear_layer_with_a_bias_of_its_own(
        self, config: Config, shape: Shape, dtype: torch.dtype
    ) -> None:
        """It casts to the compute dtype and back, as a float layer under autocast does."""
        weight = self.weight(config, shape, dtype)
        bias = nn.Parameter(example(shape[0]), requires_grad=False)
        host = QuantizedLinear(weight, bias)
        assert isinstance(host, nn.Linear)
        assert (host.out_features, host.in_features) == shape
        x = example(3, shape[1])
        y = host(x)
        assert y.dtype == x.dtype
        expected = weight(x.to(dtype)) + bias.to(dtype)
        assert torch.equal(y, expected.float())

    def test_shards_put_together_are_the_whole(
        self, config: Config, shape: Shape, shard_dim: int
    ) -> None:
        """Along every declared dimension, number for number."""
        weight = self.weight(config, shape)
        before = snapshot(weight.storage())
        matrix = weight.dequantize(torch.float32)
        parts = [weight.shard(shard_dim, rank, 2) for rank in range(2)]
        for part in parts:
            assert type(part) is type(weight)
            assert part.dtype == weight.dtype
            assert part.nbytes < weight.nbytes
        joined = torch.cat([part.dequantize(torch.float32) for part in parts], shard_dim)
        assert same_bytes(joined, matrix)
        assert not differences(weight.storage(), before)
        whole = weight.shard(shard_dim, 0, 1)
        assert same_bytes(whole.dequantize(torch.float32), matrix)

    def test_shards_are_joined_to_the_byte(
        self, config: Config, shape: Shape, shard_dim: int
    ) -> None:
        """Or refused, by a layout that does not say how: then split models are not saved."""
        weight = self.weight(config, shape)
        before = snapshot(weight.storage())
        outline = weight.outline(shard_dim)
        parts = [weight.shard(shard_dim, rank, 2) for rank in range(2)]
        if type(weight).join_stored is PackedWeight.join_stored:
            with pytest.raises(UnsupportedOperationError, match="join_stored"):
                outline.joined(parts, shard_dim)
            return
        whole = outline.joined(parts, shard_dim)
        assert not differences(whole.storage(), before)
        assert whole.shape == weight.shape
        assert same_bytes(whole.dequantize(torch.float32), weight.dequantize(torch.float32))

    def test_a_split_that_cannot_be_is_refused(self, config: Config, shape: Shape) -> None:
        """With the error for it, and never with other numbers."""
        weight = self.weight(config, shape)
        matrix = weight.dequantize(torch.float32)
        for dim in (0, 1):
            try:
                parts = [weight.shard(dim, rank, 7) for rank in range(7)]
            except UnsupportedOperationError:
                continue
            joined = torch.cat([part.dequantize(torch.float32) for part in parts], dim)
            assert same_bytes(joined, matrix), f"dimension {dim} in 7 parts"
        for dim in {0, 1} - set(self.shard_dims):
            with pytest.raises(UnsupportedOperationError):
                weight.shard(dim, 0, 2)

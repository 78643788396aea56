"""Weights that break a promise of `WeightSuite`."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from toy8.weight import Toy8Weight

from broken import case

BYTES_LOOK = "test_it_looks_like_a_frozen_parameter"
FOOTPRINT = "test_the_footprint_is_that_of_its_parameters"
NEW_MATRIX = "test_dequantizing_gives_a_new_matrix_of_the_dtype_asked_for"
FLOAT32 = "test_float32_is_never_rounded_through_a_narrower_type"
PRODUCTS = "test_products_are_those_of_the_dequantized_weight"
DTYPES = "test_products_are_in_the_dtype_of_the_input"
ROWS = "test_rows_are_those_of_the_dequantized_weight"
FORWARD = "test_forward_passes_change_no_byte"
SAME = "test_the_same_input_gives_the_same_product"
CASTS = "test_casts_change_the_compute_dtype_and_nothing_else"
MOVES = "test_moves_change_the_device_and_nothing_else"
COPIES = "test_copies_are_equal_and_independent"
GRADIENT = "test_the_gradient_reaches_the_input"
ADAPTER = "test_an_adapter_learns_on_top_of_its_host"
COMPILED = "test_it_is_compiled_without_a_graph_break"
HOST = "test_a_host_is_a_linear_layer_with_a_bias_of_its_own"
SHARDS = "test_shards_put_together_are_the_whole"
JOINED = "test_shards_are_joined_to_the_byte"
SPLIT = "test_a_split_that_cannot_be_is_refused"


@case(BYTES_LOOK)
class NotInitialised(Toy8Weight):
    def __init__(self, *args):
        super().__init__(*args)
        self._is_hf_initialized = False


@case(BYTES_LOOK)
class DataIsHandedOut(Toy8Weight):
    @property
    def data(self):
        return self.codes


@case(BYTES_LOOK)
class OtherDtype(Toy8Weight):
    @property
    def dtype(self):
        return torch.int8


@case(FOOTPRINT)
class LooseTensor(Toy8Weight):
    def __init__(self, codes, scales, dtype):
        super().__init__(codes, scales, dtype)
        self.cache = torch.zeros(8)


@case(FOOTPRINT)
class BufferInstead(Toy8Weight):
    def __init__(self, codes, scales, dtype):
        super().__init__(codes, scales, dtype)
        del self._parameters["scales"]
        self.register_buffer("scales", scales)


@case(FOOTPRINT)
class Trainable(Toy8Weight):
    def __init__(self, codes, scales, dtype):
        super().__init__(codes, scales, dtype)
        self._parameters["scales"] = nn.Parameter(scales)


@case(NEW_MATRIX)
class HandsOutItsCache(Toy8Weight):
    caches: ClassVar[dict] = {}

    def decode(self, dtype):
        key = (id(self), dtype)
        return self.caches.setdefault(key, super().decode(dtype))


@case(NEW_MATRIX)
class IgnoresTheDtypeAskedFor(Toy8Weight):
    def decode(self, dtype):
        return super().decode(torch.float32)


@case(NEW_MATRIX)
class CoarseInNarrowTypes(Toy8Weight):
    def decode(self, dtype):
        matrix = super().decode(dtype)
        return matrix if dtype == torch.float32 else (matrix * 8).round() / 8


@case(FLOAT32)
class ThroughBfloat16(Toy8Weight):
    def decode(self, dtype):
        return super().decode(torch.bfloat16).to(dtype)


@case(FLOAT32)
class ThroughTheComputeDtype(Toy8Weight):
    def decode(self, dtype):
        return super().decode(self.dtype).to(dtype)


@case(PRODUCTS)
class ProductsInBfloat16(Toy8Weight):
    def linear(self, x):
        return F.linear(x.bfloat16(), self.dequantize(torch.bfloat16)).to(x.dtype)


@case(PRODUCTS)
class OnlyContiguousInputs(Toy8Weight):
    def linear(self, x):
        return super().linear(x.view(-1, x.shape[-1])).view(*x.shape[:-1], self.shape[0])


@case(PRODUCTS)
class OnlyMatrices(Toy8Weight):
    def linear(self, x):
        return (self.dequantize(x.dtype) @ x.mT).mT


@case(PRODUCTS)
class ChangesItsInput(Toy8Weight):
    def linear(self, x):
        y = super().linear(x)
        with torch.no_grad():
            x.add_(1)
        return y


@case(PRODUCTS)
class ForgetsTheLastRow(Toy8Weight):
    def linear(self, x):
        y = super().linear(x)
        return torch.cat([y[..., :-1], torch.zeros_like(y[..., -1:])], -1)


@case(DTYPES)
class AnswersInTheComputeDtype(Toy8Weight):
    def linear(self, x):
        return super().linear(x.to(self.dtype))


@case(DTYPES)
class ComputesInTheComputeDtype(Toy8Weight):
    def linear(self, x):
        return super().linear(x.to(self.dtype)).to(x.dtype)


@case(ROWS)
class RowsOfAnotherDtype(Toy8Weight):
    def decode_rows(self, ids, dtype):
        return super().decode_rows(ids, torch.float64)


@case(ROWS)
class OneOffRows(Toy8Weight):
    def decode_rows(self, ids, dtype):
        return super().decode_rows((ids + 1) % self.shape[0], dtype)


@case(ROWS)
class FlatRows(Toy8Weight):
    def decode_rows(self, ids, dtype):
        return super().decode_rows(ids.flatten(), dtype)


@case(FORWARD)
class RepacksInTheFirstForward(Toy8Weight):
    def linear(self, x):
        y = super().linear(x)
        with torch.no_grad():
            self.codes.copy_(self.codes.flip(1))
        return y


@case(FORWARD)
class KeepsTheMatrixAfterTheFirstForward(Toy8Weight):
    def linear(self, x):
        self.__dict__["matrix"] = self.dequantize(x.dtype)
        return super().linear(x)


@case(SAME)
class Noisy(Toy8Weight):
    def linear(self, x):
        return super().linear(x) * (1 + 1e-4 * torch.rand(()))


@case(CASTS)
class CastsItsScales(Toy8Weight):
    def _apply(self, fn, recurse=True):
        self._dtype = fn(torch.zeros(1, dtype=self._dtype)).dtype
        return nn.Module._apply(self, fn, recurse)


@case(CASTS)
class IgnoresCasts(Toy8Weight):
    def _apply(self, fn, recurse=True):
        before = self._dtype
        super()._apply(fn, recurse)
        self._dtype = before
        return self


@case(MOVES)
class AnswersOnMeta(Toy8Weight):
    def _refuse_meta(self, verb):
        return


@case(MOVES)
class ScramblesOnMoves(Toy8Weight):
    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if not self.is_meta:
            self.codes[0, 0] += 1
        return self


@case(COPIES)
class CopiesShareMemory(Toy8Weight):
    def __deepcopy__(self, memo):
        twin = copy.copy(self)
        twin._parameters = dict(self._parameters)
        return twin


@case(COPIES)
class PicklesForgetTheDtype(Toy8Weight):
    def __setstate__(self, state):
        super().__setstate__(state)
        self._dtype = torch.float64


@case(GRADIENT)
class NoGradient(Toy8Weight):
    def linear(self, x):
        return super().linear(x.detach())


@case(ADAPTER)
class NothingToLearnFrom(NoGradient):
    pass


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


@case(GRADIENT)
class WrongGradient(Toy8Weight):
    def linear(self, x):
        return _Doubled.apply(super().linear(x))


@case(GRADIENT)
class GradientOfTheWeight(Toy8Weight):
    def linear(self, x):
        self._parameters["scales"].requires_grad_(True)
        return F.linear(x, (self.codes.float() * self.scales[:, None]).to(x.dtype))


@case(COMPILED)
class BreaksTheGraph(Toy8Weight):
    def linear(self, x):
        if x.sum().item() == 0.25:
            raise AssertionError
        return super().linear(x)


@case(HOST)
class OnlyFloat32(Toy8Weight):
    def linear(self, x):
        return F.linear(x, self.dequantize(torch.float32))


@case(SHARDS)
class SwappedShards(Toy8Weight):
    def shard(self, dim, rank, world):
        return super().shard(dim, world - 1 - rank, world)


@case(SHARDS)
class ShardsOfEverything(Toy8Weight):
    def shard(self, dim, rank, world):
        part = super().shard(dim, rank, world)
        part.store("whole", self.codes)
        return part


@case(SHARDS)
class CannotBeSharded(Toy8Weight):
    def shard(self, dim, rank, world):
        return super(Toy8Weight, self).shard(dim, rank, world)


@case(JOINED)
class JoinedBackwards(Toy8Weight):
    def join_stored(self, name, pieces, dim):
        whole = name == "scales" and dim == 1
        return pieces[0] if whole else torch.cat(list(reversed(pieces)), dim)


@case(JOINED)
class JoinedInPart(Toy8Weight):
    def join_stored(self, name, pieces, dim):
        return pieces[0]


@case(SPLIT)
class LosesTheRest(Toy8Weight):
    def shard(self, dim, rank, world):
        size = self.shape[dim] // world
        codes = self.codes.narrow(dim, rank * size, size).contiguous()
        scales = self.scales[rank * size : (rank + 1) * size] if dim == 0 else self.scales
        return type(self)(codes, scales.clone(), self.dtype)


@case(SPLIT, declared={"shard_dims": ()})
class ShardsUndeclared(Toy8Weight):
    pass

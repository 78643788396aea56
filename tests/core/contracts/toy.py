"""A tiny int8 method and a kernel that rearranges it, for the tests of the contracts."""

from __future__ import annotations

import torch
from torch import Tensor

from quantload.kernels import Kernel, KernelSpec
from quantload.plugin import API, KernelPack
from quantload.verdict import Verdict
from quantload.weights import PackedWeight


class ToyWeight(PackedWeight):
    layout = "toy-int8"

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(tuple(codes.shape), dtype)
        self.store("codes", codes)
        self.store("scales", scales)
        self.store("zeros", None)

    def decode(self, dtype: torch.dtype) -> Tensor:
        return (self.codes.float() * self.scales.float()[:, None]).to(dtype)


class TransposingKernel(Kernel):
    """Keeps the codes transposed, and says so if it is ever handed canonical storage."""

    name = "transposing"
    priority = 5

    def supports(self, spec: KernelSpec) -> Verdict:
        if spec.layout != "toy-int8":
            return Verdict.no("only toy-int8")
        if spec.shape[0] % 2:
            return Verdict.no("out_features must be even")
        return Verdict.yes()

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        return {"codes_t": weight.codes.T.contiguous(), "scales": weight.scales, "zeros": None}

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        return {"codes": weight.codes_t.T.contiguous(), "scales": weight.scales, "zeros": None}

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        matrix = weight.codes_t.to(x.dtype) * weight.scales.to(x.dtype)
        return x @ matrix


class PlainKernel(TransposingKernel):
    """Runs canonical storage; slower, so of lower priority."""

    name = "plain"
    priority = 1

    def arrange(self, weight: PackedWeight) -> None:
        return None

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        raise AssertionError("nothing was arranged")

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        return x @ weight.decode(x.dtype).T


PACK = KernelPack(
    api=API,
    kernels=("toy:TransposingKernel", "toy:PlainKernel"),
    devices=("cpu",),
)


def toy_weight(rows: int = 6, columns: int = 8, seed: int = 0) -> ToyWeight:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)
    return ToyWeight(codes, torch.rand(rows, generator=generator) + 0.1)

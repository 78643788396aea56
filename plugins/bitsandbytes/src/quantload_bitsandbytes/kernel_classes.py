"""The kernels of this package, behind the core's contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import torch

from quantload.plugin import Kernel, KernelSpec, Verdict
from quantload_bitsandbytes import library
from quantload_bitsandbytes.products4 import multiply_4bit
from quantload_bitsandbytes.products8 import multiply_8bit
from quantload_bitsandbytes.weights import Bnb4Weight, Bnb8Weight

if TYPE_CHECKING:
    from torch import Tensor

    from quantload.plugin import PackedWeight

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _suits(spec: KernelSpec, layout: str, device: str, dtypes: tuple[torch.dtype, ...]) -> Verdict:
    if spec.layout != layout:
        return Verdict.no(f"is for {layout} weights")
    if spec.device.type != device:
        return Verdict.no(f"runs on {device}")
    if spec.dtype not in dtypes:
        names = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        return Verdict.no(f"computes in {names}, not in {spec.dtype}")
    return Verdict.yes()


class _FourBit(Kernel):
    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """`x @ W.T` in `x.dtype`."""
        w = cast("Bnb4Weight", weight)
        return multiply_4bit(
            x,
            w.packed,
            w.absmax,
            w.quant_map,
            w.nested_absmax,
            w.nested_quant_map,
            w.state.nested_offset,
            w.state.nested_block_size or 0,
            w.state.quant_type if w.standard else "",
            w.state.block_size,
            list(w.shape),
        )


class ChunkedFourBit(_FourBit):
    """4 bits on the CPU: rows of the weight are decoded some at a time, in the cache.

    The library's native decoder makes them where it agrees with plain torch. The weight
    is not rearranged, as the library does in its first forward.
    """

    name: ClassVar[str] = "bitsandbytes_cpu"
    priority: ClassVar[int] = 10

    def supports(self, spec: KernelSpec) -> Verdict:
        """Every shape, block size and table."""
        return _suits(spec, Bnb4Weight.layout, "cpu", FLOATS)


class LibraryFourBit(_FourBit):
    """4 bits on CUDA, by the library's kernels."""

    name: ClassVar[str] = "bitsandbytes_cuda"
    priority: ClassVar[int] = 10

    def supports(self, spec: KernelSpec) -> Verdict:
        """What the library's kernels take: its own tables, an even number of columns."""
        suits = _suits(spec, Bnb4Weight.layout, "cuda", FLOATS)
        if not suits:
            return suits
        if not spec.params["standard"]:
            return Verdict.no("the quant_map is not the library's own table")
        if spec.shape[1] % 2:
            return Verdict.no(f"rows of {spec.shape[1]} columns end inside a byte")
        if library.cuda_library() is None:
            return Verdict.no("bitsandbytes has no CUDA kernels in this environment")
        return Verdict.yes()


class LlmInt8(Kernel):
    """LLM.int8 as the library runs it: inputs in 8 bits, outlier columns in floating point.

    Its error is that of quantizing the input, about one part in a hundred; float32 models
    are therefore left to `bitsandbytes_int8_exact` and to the reference.
    """

    name: ClassVar[str] = "bitsandbytes_llm_int8"
    priority: ClassVar[int] = 10

    def supports(self, spec: KernelSpec) -> Verdict:
        """16-bit compute dtypes, where torch multiplies integers fast."""
        suits = _suits(spec, Bnb8Weight.layout, spec.device.type, FLOATS[1:])
        if not suits or spec.device.type != "cpu":
            return suits
        if torch.backends.cpu.get_cpu_capability() != "AVX512":
            return Verdict.no("torch multiplies integers slowly on a CPU without AVX-512")
        return suits

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """`x @ W.T` in `x.dtype`."""
        w = cast("Bnb8Weight", weight)
        return multiply_8bit(x, w.codes, w.scales, w.threshold)


class ChunkedEightBit(Kernel):
    """8 bits on the CPU in floating point, some rows of the weight at a time."""

    name: ClassVar[str] = "bitsandbytes_int8_exact"
    priority: ClassVar[int] = 5

    def supports(self, spec: KernelSpec) -> Verdict:
        """Every shape."""
        return _suits(spec, Bnb8Weight.layout, "cpu", FLOATS)

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """`x @ W.T` in `x.dtype`."""
        w = cast("Bnb8Weight", weight)
        return multiply_8bit(x, w.codes, w.scales, None)

"""`cpu-ggml`: products with ggml blocks as they are, without an arrangement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from quantload.kernels import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload.weights.autograd import linear_through
from quantload_kernels_cpu.availability import DTYPES, dtype_verdict, machine_verdict
from quantload_kernels_cpu.entry import multiply

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight


class CpuBlocks(Kernel):
    """Blocks are read where they are, also in a mapped file."""

    name: ClassVar[str] = "cpu-ggml"
    priority: ClassVar[int] = 40

    def supports(self, spec: KernelSpec) -> Verdict:
        """See `Kernel.supports`."""
        if spec.layout != "ggml":
            return Verdict.no(f"runs ggml blocks, not {spec.layout}")
        if spec.device.type != "cpu":
            return Verdict.no(f"runs on cpu, not on {spec.device.type}")
        if len(spec.shape) != 2:
            return Verdict.no(f"multiplies matrices, the shape is {tuple(spec.shape)}")
        here = Verdict.all([machine_verdict(), dtype_verdict(spec.dtype)])
        return _type_verdict(str(spec.params.get("ggml_type"))) if here else here

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        if x.dtype not in DTYPES:
            return linear_through(weight, x)
        blocks: Any = weight._parameters["blocks"]
        name: Any = weight.kernel_params()["ggml_type"]
        return multiply(x, [blocks], str(name), [blocks.shape[1]], blocks.shape[0])


def _type_verdict(name: str) -> Verdict:
    from quantload_kernels_cpu.layouts import ggml

    if name in ggml.LAYOUTS:
        return Verdict.yes()
    return Verdict.no(f"has no code for {name}; it has for {', '.join(ggml.LAYOUTS)}")

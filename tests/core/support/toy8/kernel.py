from __future__ import annotations

import torch
from torch import Tensor

from quantload.plugin import Kernel, Verdict


@torch.library.custom_op("toy8::linear", mutates_args=())
def toy8_linear(x: Tensor, codes_t: Tensor, scales: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return ((x.to(wide) @ codes_t.to(wide)) * scales.to(wide)).to(x.dtype)


@toy8_linear.register_fake
def _(x, codes_t, scales):
    return x.new_empty(*x.shape[:-1], codes_t.shape[1])


def _setup(ctx, inputs, output):
    _, codes_t, scales = inputs
    ctx.save_for_backward(codes_t, scales)


def _backward(ctx, grad):
    codes_t, scales = ctx.saved_tensors
    wide = torch.promote_types(grad.dtype, torch.float32)
    matrix = codes_t.to(wide).T * scales.to(wide)[:, None]
    return (grad.to(wide) @ matrix).to(grad.dtype), None, None


toy8_linear.register_autograd(_backward, setup_context=_setup)


class Toy8Kernel(Kernel):
    """Keeps the codes transposed."""

    name = "toy8"
    priority = 10

    def supports(self, spec):
        if spec.layout != "toy8":
            return Verdict.no(f"runs toy8 weights, not {spec.layout}")
        if spec.device.type != "cpu":
            return Verdict.no("runs on the CPU")
        return Verdict.yes()

    def arrange(self, weight):
        return {"codes_t": weight.codes.T.contiguous(), "scales": weight.scales}

    def restore(self, weight):
        return {"codes": weight.codes_t.T.contiguous(), "scales": weight.scales}

    def linear(self, weight, x):
        return toy8_linear(x, weight.codes_t, weight.scales)

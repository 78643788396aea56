"""Whether a product has to be an op, or may be a plain call, which takes less time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def watched(x: Tensor) -> bool:
    """Whether something looks at what is done with `x`.

    A gradient, a compiler, a tracer or a dispatch mode (fake tensors among them) must be
    shown a registered op; otherwise calling its function saves some tens of microseconds
    of the host.
    """
    return (
        torch.compiler.is_compiling()
        or (x.requires_grad and torch.is_grad_enabled())
        or type(x) not in (Tensor, nn.Parameter)
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]  # not annotated
        or torch._C._len_torch_dispatch_stack() > 0
    )

"""Checks of what `torch.compile` makes of a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quantload.testing.declared import Shape, example


def check_compiled(
    host: nn.Module, shape: Shape, dtype: torch.dtype, device: str, *, trainable: bool
) -> None:
    """Trace a layer with fake tensors and autograd, and compare with the plain call."""
    torch._dynamo.reset()
    compiled: Any = torch.compile(host, backend="aot_eager", fullgraph=True)
    for rows in (1, 4, 9):
        x = example(rows, shape[1], dtype=dtype, device=device)
        with torch.no_grad():
            close(compiled(x), host(x))
        if trainable:
            inner, outer = x.clone().requires_grad_(), x.clone().requires_grad_()
            compiled(inner).sum().backward()
            host(outer).sum().backward()
            assert inner.grad is not None
            close(inner.grad, outer.grad)


def close(found: Tensor, expected: Tensor | None) -> None:
    """Equal but for the order of sums."""
    assert expected is not None
    room = 8 * torch.finfo(expected.dtype).eps * expected.abs().max().clamp_min(1e-30)
    assert ((found - expected).abs() <= room).all(), "compiled and plain differ"

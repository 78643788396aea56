"""How each layout keeps its codes, as code that reads one step of one row."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantload_kernels_cpu.layouts.base import Layout


@cache
def find(name: str) -> Layout:
    """The layout of a name: a ggml type ("Q4_K"), or one that `affine_names` makes."""
    from quantload_kernels_cpu import affine_names
    from quantload_kernels_cpu.layouts import affine, ggml

    if name.startswith(affine_names.PREFIX):
        return affine.Affine(name, affine_names.kind_of(name))
    return ggml.LAYOUTS[name]

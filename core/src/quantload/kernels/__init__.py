"""The kernel contract, the selector, and the list of installed packs."""

from __future__ import annotations

from quantload.kernels.contract import Kernel, KernelSpec
from quantload.kernels.selector import Selection, prepare, select

__all__ = ["Kernel", "KernelSpec", "Selection", "prepare", "select"]

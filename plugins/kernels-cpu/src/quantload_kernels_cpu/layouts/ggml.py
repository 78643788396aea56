"""The ggml types that are multiplied as they are."""

from __future__ import annotations

from collections.abc import Mapping

from quantload_kernels_cpu.layouts.base import Layout
from quantload_kernels_cpu.layouts.kquants import K_QUANTS
from quantload_kernels_cpu.layouts.legacy import LEGACY
from quantload_kernels_cpu.layouts.levels import LEVELS
from quantload_kernels_cpu.layouts.ternary import TERNARY

LAYOUTS: Mapping[str, Layout] = {**LEGACY, **K_QUANTS, **LEVELS, **TERNARY}

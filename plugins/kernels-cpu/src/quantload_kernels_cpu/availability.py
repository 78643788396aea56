"""Whether the kernels can run here. Nothing in this module imports LLVM for good."""

from __future__ import annotations

import platform
from functools import cache

import torch

from quantload.verdict import Verdict

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def machine_verdict() -> Verdict:
    """Whether this processor and the installed LLVM serve."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return Verdict.no(f"runs on x86-64 processors, not on {platform.machine()}")
    try:
        from quantload_kernels_cpu import settings

        features = ("avx2", "fma", "f16c")
        missing = [name for name in features if not settings.has(name)]
    except (ImportError, OSError) as error:
        return Verdict.no(f"llvmlite cannot be imported ({error})", "pip install llvmlite")
    if missing:
        return Verdict.no(f"the processor has no {', '.join(missing)}")
    return Verdict.yes()


def dtype_verdict(dtype: torch.dtype) -> Verdict:
    """Whether products are done in a dtype."""
    if dtype in DTYPES:
        return Verdict.yes()
    return Verdict.no(f"computes in float32, bfloat16 and float16, not in {str(dtype)[6:]}")

"""The threads that torch has, for code that is compiled here."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch


@cache
def parallel_address() -> int:
    """Address of `GOMP_parallel` of the OpenMP library that torch has loaded; 0 without one.

    GNU's library has it and so have LLVM's and Intel's, for the sake of GNU's programs.
    """
    for library in _openmp_libraries():
        function = getattr(library, "GOMP_parallel", None)
        if function is not None:
            return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
    return 0


def _openmp_libraries() -> list[ctypes.CDLL]:
    """Those in this process, torch's own first. Nothing is loaded that was not."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "omp" in line}
    names = [p for p in paths if Path(p).name.startswith(("libgomp", "libiomp5", "libomp"))]
    own = str(Path(torch.__file__).parent)
    return [ctypes.CDLL(path) for path in sorted(names, key=lambda p: (not p.startswith(own), p))]


def threads_for(parts: int) -> int:
    """How many threads for work that can be cut into so many parts."""
    return max(1, min(torch.get_num_threads(), parts)) if parallel_address() else 1

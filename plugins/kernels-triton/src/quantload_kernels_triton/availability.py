"""Whether triton is there and can be used. Nothing here imports it for good."""

from __future__ import annotations

import importlib
import os
import re
from functools import cache

import torch

from quantload.verdict import Verdict

OLDEST = (3, 5)
"""Older ones cannot take a dot with eight columns."""
FLOATS = (torch.float16, torch.bfloat16)
"""In which dtypes kernels compute."""


def interpreting() -> bool:
    """Whether triton runs its kernels as Python on the CPU (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@cache
def version() -> tuple[int, int]:
    """Major and minor version of triton.

    Raises:
        ImportError: it is absent, or broken.
    """
    found = re.match(r"(\d+)\.(\d+)", importlib.import_module("triton").__version__)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device, asked for once."""
    return torch.cuda.get_device_capability(device)


def triton_verdict() -> Verdict:
    """Whether the kernels can be imported and run at all."""
    try:
        found = version()
    except ImportError as error:
        return Verdict.no(
            f"triton cannot be imported ({error}); torch builds for CUDA on Linux bring it"
        )
    if found < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Verdict.no(
            f"triton {found[0]}.{found[1]} is installed, {wanted} or newer is needed",
            "pip install -U torch",
        )
    return Verdict.yes()


def device_verdict(device: torch.device, capability: tuple[int, int]) -> Verdict:
    """Whether the kernels run on a device."""
    if interpreting():
        return Verdict.yes("interpreted, for tests")
    if device.type != "cuda":
        return Verdict.no(f"runs on cuda, not on {device.type}")
    if torch.version.hip is not None:
        return Verdict.no("not tested on ROCm")
    if capability < (8, 0):
        return Verdict.no(
            f"needs compute capability 8.0 or newer, the device has {capability[0]}.{capability[1]}"
        )
    return Verdict.yes()


def dtype_verdict(dtype: torch.dtype) -> Verdict:
    """Whether the kernels compute in a dtype."""
    if dtype in FLOATS:
        return Verdict.yes()
    return Verdict.no(f"computes in float16 and bfloat16, not in {str(dtype).split('.')[-1]}")

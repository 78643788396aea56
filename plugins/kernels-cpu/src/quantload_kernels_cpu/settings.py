"""What of this processor is used, and where compiled code is kept."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

NO_CACHE = ("0", "off", "none", "false")


@cache
def _host_features() -> dict[str, bool]:
    import llvmlite.binding as llvm

    return dict(llvm.get_host_cpu_features())


@cache
def features() -> str:
    """The features of this processor as LLVM wants them.

    The environment variable QUANTLOAD_CPU_ISA set to "avx2" hides what is newer; for tests.
    """
    found = dict(_host_features())
    if os.environ.get("QUANTLOAD_CPU_ISA", "").strip().lower() == "avx2":
        found = {name: on and not name.startswith("avx512") for name, on in found.items()}
    # 512-bit registers wherever they exist: the loops here are short and have no others beside.
    return ",".join(
        [f"{'+' if on else '-'}{name}" for name, on in sorted(found.items())] + ["-prefer-256-bit"]
    )


@cache
def has(feature: str) -> bool:
    """Whether code may use a feature, by LLVM's name of it."""
    return f"+{feature}" in features().split(",")


@cache
def vnni() -> bool:
    """Whether there are sums of products of bytes in registers of 512 bits."""
    return has("avx512vnni") and has("avx512bw")


def cache_folder() -> Path | None:
    """Where compiled code is kept; None where nothing is to be kept.

    QUANTLOAD_CPU_CACHE names another folder, or "off". Code is run from there, so a folder
    that belongs to somebody else, or that others may write to, is not used.
    """
    asked = os.environ.get("QUANTLOAD_CPU_CACHE", "").strip()
    if asked.lower() in NO_CACHE:
        return None
    home = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    folder = Path(asked or f"{home}/quantload/kernels-cpu").expanduser()
    try:
        found = folder.stat()
    except OSError:
        return folder
    if hasattr(os, "getuid") and (
        found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        return None
    return folder

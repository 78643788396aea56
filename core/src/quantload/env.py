"""Every environment variable that quantload reads, in one table."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class EnvVar:
    """One variable: its name and what it does."""

    name: str
    meaning: str

    def get(self) -> str:
        """The current value, "" where it is not set."""
        return os.environ.get(self.name, "").strip()

    def items(self) -> tuple[str, ...]:
        """The value as a comma-separated list without empty entries."""
        return tuple(part.strip() for part in self.get().split(",") if part.strip())


DISABLE = EnvVar("QUANTLOAD_DISABLE", "distributions whose plugins are never loaded (a,b)")
ALLOW = EnvVar("QUANTLOAD_ALLOW", "the only distributions whose plugins may be loaded (a,b)")
PROVIDER = EnvVar(
    "QUANTLOAD_PROVIDER", "which distribution serves a name that several provide (gptq=dist-a,...)"
)
KERNEL = EnvVar("QUANTLOAD_KERNEL", "the kernel to use wherever `kernel=` is not given")
PROGRESS = EnvVar("QUANTLOAD_PROGRESS", "0 or 1: progress bars off or on whatever the terminal is")

TABLE: tuple[EnvVar, ...] = (DISABLE, ALLOW, PROVIDER, KERNEL, PROGRESS)

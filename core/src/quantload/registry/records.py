"""One entry point as data: nothing is imported to make or to list it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

QUANTIZERS = "quantload.quantizers"
KERNELS = "quantload.kernels"
FORMATS = "quantload.formats"
CONFIG_KEYS = "quantload.config_keys"
CONFIG_FILES = "quantload.config_files"
EXPORTS = "quantload.exports"
GROUPS = (QUANTIZERS, KERNELS, FORMATS, CONFIG_KEYS, CONFIG_FILES, EXPORTS)

# A `quant_method` is a key such as "gptq", "compressed-tensors" or "intel/auto-round",
# never a path: no segment may begin with a dot and nothing else may stand in it.
_METHOD = re.compile(r"[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*", re.ASCII)
_DISTRIBUTION_RUNS = re.compile(r"[-_.]+")


def method_key(name: str) -> str | None:
    """The key two spellings of a method share ("Auto-Round" and "auto_round").

    None for a string that cannot name a method.
    """
    lowered = name.lower()
    return lowered.replace("-", "_") if _METHOD.fullmatch(lowered) else None


def distribution_key(name: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return _DISTRIBUTION_RUNS.sub("-", name).lower()


@dataclass(frozen=True)
class EntryRecord:
    """An entry point, or a registration made in code.

    Attributes:
        group: the entry-point group.
        name: left of the equals sign; for quantizers the `quant_method`.
        value: right of it, `"module:attribute"`.
        distribution: name of the distribution that declares it.
        version: that distribution's version.
        requires: its `Requires-Dist` lines.
        location: the folder its metadata was found in, for messages.
        target: the object itself where it was registered in code.
        override: wins over other providers of the name (registered in code only).
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str = ""
    requires: tuple[str, ...] = ()
    location: str = ""
    target: Any = None
    override: bool = False

    @property
    def provider(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip()

"""One entry point as data: nothing is imported to make or to list it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

QUANTIZERS = "quantload.quantizers"
KERNELS = "quantload.kernels"
FORMATS = "quantload.formats"
CONFIG_KEYS = "quantload.config_keys"
CONFIG_FILES = "quantload.config_files"
EXPORTS = "quantload.exports"
GROUPS = (QUANTIZERS, KERNELS, FORMATS, CONFIG_KEYS, CONFIG_FILES, EXPORTS)

WHAT = {
    QUANTIZERS: "quantization method",
    KERNELS: "kernel pack",
    FORMATS: "checkpoint format",
    CONFIG_KEYS: "config key",
    CONFIG_FILES: "config file",
    EXPORTS: "exported name",
}
"""What the names of a group are, in words."""

# A `quant_method` is a key such as "gptq", "compressed-tensors" or "intel/auto-round",
# never a path: no segment may begin with a dot and nothing else may stand in it.
_METHOD = re.compile(r"[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*", re.ASCII)
_LONGEST = 128
_DISTRIBUTION_RUNS = re.compile(r"[-_.]+")


def method_key(name: object) -> str | None:
    """The key two spellings of a method share ("Auto-Round" and "auto_round").

    None for what cannot name a method.
    """
    if not isinstance(name, str) or len(name) > _LONGEST:
        return None
    lowered = name.lower()
    return lowered.replace("-", "_") if _METHOD.fullmatch(lowered) else None


def distribution_key(name: str) -> str:
    """The normalised name of a distribution (PEP 503)."""
    return _DISTRIBUTION_RUNS.sub("-", name).lower()


def shown(name: object) -> str:
    """Something a stranger chose, for a message: quoted, escaped and never long."""
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


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
        problem: why it cannot be used whatever is imported, or "".
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
    problem: str = ""
    target: Any = field(default=None, compare=False)
    override: bool = False

    @property
    def provider(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip()

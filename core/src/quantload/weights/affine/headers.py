"""Finding the tensors of packed modules among those of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantload.quantizers.spec import TensorHeader


def by_module(
    headers: Mapping[str, TensorHeader], leaves: Collection[str], extra: Collection[str] = ()
) -> dict[str, dict[str, TensorHeader]]:
    """Modules that have tensors of some names, and those tensors.

    Args:
        headers: every tensor of a checkpoint by its full name.
        leaves: names without the module prefix that make a module count.
        extra: names that are taken along where a module counts.

    Returns:
        module -> name without the module prefix -> header.
    """
    found: dict[str, dict[str, TensorHeader]] = {}
    for full, header in headers.items():
        module, _, leaf = full.rpartition(".")
        if module and leaf in leaves:
            found.setdefault(module, {})[leaf] = header
    for module, own in found.items():
        for leaf in extra:
            header_or_none = headers.get(f"{module}.{leaf}")
            if header_or_none is not None:
                own[leaf] = header_or_none
    return found

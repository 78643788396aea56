"""Names of plugins that `from quantload import NAME` hands out."""

from __future__ import annotations

from typing import Any

from quantload.errors import MissingRequirementError, PluginConflictError
from quantload.registry.known import known_distribution
from quantload.registry.records import EXPORTS
from quantload.registry.requirements import core_requirement
from quantload.registry.resolver import Resolved, allowed, registry


def exported(name: str) -> Any:
    """The object an installed plugin exports under `name`.

    Raises:
        AttributeError: no plugin is known to export it.
        MissingRequirementError: one is known that does, and it is not installed.
        PluginError: the plugin cannot be loaded, or two export the name.
    """
    found = [r for r in registry.records(EXPORTS) if r.name == name and allowed(r)]
    if not found:
        distribution = known_distribution(EXPORTS, name)
        if distribution is None:
            raise AttributeError(f"module 'quantload' has no attribute {name!r}")
        raise MissingRequirementError(
            f"{name} is part of {distribution}, which is not installed: pip install {distribution}"
        )
    if len({r.value for r in found}) > 1:
        owners = " and ".join(r.provider for r in found)
        raise PluginConflictError(f"{name} is exported by {owners}; import it from one of them")
    (record,) = found[:1]
    accepts = core_requirement(record.requires)
    if not accepts:
        from quantload.errors import PluginIncompatibleError

        raise PluginIncompatibleError(f"{record.provider}: {accepts.reason}; {accepts.fix}")
    return Resolved(record, None).load(record.value)

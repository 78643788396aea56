"""What the environment says of providers: which may be loaded, and which one to take."""

from __future__ import annotations

from quantload import env
from quantload.errors import ConfigError
from quantload.registry.records import EntryRecord, distribution_key, method_key
from quantload.verdict import Verdict


def permitted(record: EntryRecord) -> Verdict:
    """Whether the environment lets this record's distribution be loaded.

    What was registered in code belongs to no distribution and always may.
    """
    if record.target is not None:
        return Verdict.yes()
    name = distribution_key(record.distribution)
    if name in map(distribution_key, env.DISABLE.items()):
        return Verdict.no(
            f"{record.distribution} is named in {env.DISABLE.name}",
            f"take {record.distribution} out of {env.DISABLE.name}",
        )
    only = {distribution_key(item) for item in env.ALLOW.items()}
    if only and name not in only:
        return Verdict.no(
            f"{record.distribution} is not named in {env.ALLOW.name}",
            f"add {record.distribution} to {env.ALLOW.name}",
        )
    return Verdict.yes()


def allowed(record: EntryRecord) -> bool:
    """`permitted` as a bool."""
    return permitted(record).ok


def provider_from_env(name: str) -> str | None:
    """The distribution that QUANTLOAD_PROVIDER names for a method, or None.

    Raises:
        ConfigError: an entry of the variable is not of the form METHOD=DISTRIBUTION.
    """
    for item in env.PROVIDER.items():
        method, _, distribution = (part.strip() for part in item.partition("="))
        if not distribution or method_key(method) is None:
            raise ConfigError(
                f"{env.PROVIDER.name}: found {item!r}, expected METHOD=DISTRIBUTION,...",
                field=env.PROVIDER.name,
                value=item,
                allowed="METHOD=DISTRIBUTION,...",
            )
        if method_key(method) == method_key(name):
            return distribution
    return None

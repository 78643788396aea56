"""Checking PEP 508 requirements against what is installed, without importing any of it."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

from quantload._version import __version__
from quantload.registry.records import distribution_key
from quantload.verdict import Verdict

CORE = "quantload"
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None where there is none to be found."""
    if distribution_key(name) == CORE:
        return __version__  # this one is running, whatever else is installed
    try:
        return importlib.metadata.version(name) or None
    except (importlib.metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return None  # absent, or its metadata is damaged: pip cannot tell either


def check_requirement(text: str) -> Verdict:
    """Whether the installed distributions meet one requirement.

    A requirement whose marker does not apply here, or that belongs to an extra,
    is met.
    """
    from packaging.markers import UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion

    try:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    except (InvalidRequirement, UndefinedEnvironmentName) as error:
        return Verdict.no(f"the requirement {text!r} cannot be read: {error}")
    if not applies:
        return Verdict.yes()
    wanted = f"{requirement.name}{requirement.specifier}"
    version = installed_version(requirement.name)
    if version is None:
        return Verdict.no(f"{requirement.name} is not installed", f"pip install {wanted!r}")
    try:
        fits = requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        fits = False
    if not fits:
        return Verdict.no(
            f"{requirement.name} {version} is installed, {requirement.specifier} is needed",
            f"pip install {wanted!r}",
        )
    return Verdict.yes()


def check_requirements(requires: Iterable[str]) -> Verdict:
    """The conjunction of `check_requirement` over all of them."""
    return Verdict.all(check_requirement(text) for text in requires)


def core_requirement(requires: Iterable[str]) -> Verdict:
    """Whether a distribution's requirements accept this core; others are not looked at."""
    return Verdict.all(check_requirement(text) for text in requires if _names_core(text))


def _names_core(text: str) -> bool:
    match = _NAME.match(text)
    return match is not None and distribution_key(match[1]) == CORE

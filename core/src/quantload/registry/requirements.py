"""Checking PEP 508 requirements against what is installed, without importing any of it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from quantload._version import __version__
from quantload.registry.records import distribution_key
from quantload.verdict import Verdict


def check_requirement(text: str) -> Verdict:
    """Whether the installed distributions meet one requirement.

    A requirement whose marker does not apply here, or that belongs to an extra,
    is met.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        return Verdict.no(f"the requirement {text!r} cannot be read: {error}")
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return Verdict.yes()
    wanted = f"{requirement.name}{requirement.specifier}"
    if distribution_key(requirement.name) == "quantload":
        version = __version__
    else:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return Verdict.no(f"{requirement.name} is not installed", f"pip install {wanted!r}")
    if not requirement.specifier.contains(version, prereleases=True):
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
    from packaging.requirements import InvalidRequirement, Requirement

    verdicts = []
    for text in requires:
        try:
            name = Requirement(text).name
        except InvalidRequirement:
            continue  # is_available() reports it; it says nothing about the core
        if distribution_key(name) == "quantload":
            verdicts.append(check_requirement(text))
    return Verdict.all(verdicts)

"""`enable_transformers`: every installed method in `transformers`' own `from_pretrained`.

This package is the only one that knows the insides of `transformers`' loader; what it
replaces there is listed in `patches.PATCHES`, and nothing else is touched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from quantload.errors import MissingRequirementError
from quantload.registry.requirements import check_requirement

if TYPE_CHECKING:
    from quantload.integrations.transformers.bridge.switch import Bridge

SUPPORTED = "transformers>=5.17,<6"
"""The releases whose hooks the bridge fits."""


def enable_transformers(
    only: str | Iterable[str] | None = None, keep: str | Iterable[str] | None = None
) -> Bridge:
    """Let `transformers` load, run and save with the installed methods of quantload.

    From then on `from_pretrained` of every model class, `AutoHfQuantizer` and
    `AutoQuantizationConfig` find every installed plugin and every method that was
    registered in code. Methods that `transformers` has of its own are taken over.
    Enabling it again changes nothing but the choice of methods, which is that of the
    latest call still in effect.

    Args:
        only: the methods to serve; all others stay as `transformers` has them.
        keep: methods that stay as `transformers` has them.

    Returns:
        What takes the call back: by `undo()`, or at the end of a `with` block.

    Raises:
        MissingRequirementError: `transformers` is absent, of an unsupported release, or
            lacks a hook that the bridge leans on.
        UnknownMethodError: nobody provides a method of `only`.
        ConfigError: nobody knows a method of `keep`.
    """
    verdict = check_requirement(SUPPORTED)
    if not verdict:
        raise MissingRequirementError(
            f"the bridge into transformers fits {SUPPORTED}: {verdict.reason}; try: {verdict.fix}"
        )
    from quantload.integrations.transformers.bridge.switch import Bridge

    return Bridge(only, keep)


def is_enabled() -> bool:
    """Whether a call of `enable_transformers` is in effect."""
    switch = sys.modules.get(f"{__name__}.switch")
    return switch is not None and bool(switch.any_enabled())

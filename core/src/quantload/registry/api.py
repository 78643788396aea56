"""What users call on the registry."""

from __future__ import annotations

import sys

from quantload.registry import exports
from quantload.registry.resolver import registry


def refresh() -> None:
    """See plugins that were installed into, or removed from, the running process.

    What a plugin that is still there has imported already stays as it is: a newer
    version of it takes a new process.
    """
    registry.refresh()
    package = vars(sys.modules["quantload"])
    while exports.handed_out:
        package.pop(exports.handed_out.pop(), None)

"""The exceptions people meet. Every one derives from `QuantloadError`.

Each also derives from the built-in exception that code written for other
libraries would catch in its place (`ValueError` for a bad config, `ImportError`
for something that is not installed).
"""

from __future__ import annotations


class QuantloadError(Exception):
    """Base of everything quantload raises on purpose."""


class UnknownMethodError(QuantloadError, ValueError):
    """No installed plugin provides the quantization method that was asked for."""


class PluginError(QuantloadError):
    """Something about an installed plugin; base of the three below."""


class PluginConflictError(PluginError, ValueError):
    """Two distributions provide the same name and nothing says which one to take."""


class PluginIncompatibleError(PluginError, ImportError):
    """A plugin was written for another version of the core."""


class PluginLoadError(PluginError, ImportError):
    """A plugin could not be imported or does not hold what its entry point promises."""


class MissingRequirementError(QuantloadError, ImportError):
    """A package that is needed for what was asked is absent or too old."""


class ConfigError(QuantloadError, ValueError):
    """A quantization config is wrong or contradicts another one.

    Attributes:
        field: name of the offending field, or "" where it is the whole config.
        value: the value that was found.
        allowed: what would have been right, in words.
    """

    def __init__(
        self, message: str, *, field: str = "", value: object = None, allowed: str = ""
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.allowed = allowed


class CheckpointError(QuantloadError, ValueError):
    """Files or tensors on disk are not what they should be."""


class DeviceMapError(QuantloadError, ValueError):
    """A device map or memory limit cannot be carried out."""


class NoKernelError(QuantloadError, RuntimeError):
    """No kernel, or not the one that was asked for, can run a weight."""


class UnsupportedOperationError(QuantloadError, RuntimeError):
    """A packed weight or quantized model was asked for something it cannot do."""

"""The version of the core, read by the build and by the plugin checks."""

__version__ = "0.1.0"

"""Tensors on disk: found lazily, checked before they are believed, written atomically.

Importing this package imports no torch, and neither does opening a checkpoint or
listing what is in it: torch comes with the first tensor that is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload.checkpoint.base import Checkpoint
    from quantload.checkpoint.companions import companion_files
    from quantload.checkpoint.folder import SafetensorsCheckpoint
    from quantload.checkpoint.jsonfile import read_json
    from quantload.checkpoint.opening import open_checkpoint
    from quantload.checkpoint.replace import recover
    from quantload.checkpoint.safetensors_file import SafetensorsFile
    from quantload.checkpoint.source import resolve_source
    from quantload.checkpoint.tensorinfo import TensorInfo
    from quantload.checkpoint.writer import CheckpointWriter, save_checkpoint

_LAZY = {
    "Checkpoint": "quantload.checkpoint.base",
    "CheckpointWriter": "quantload.checkpoint.writer",
    "SafetensorsCheckpoint": "quantload.checkpoint.folder",
    "SafetensorsFile": "quantload.checkpoint.safetensors_file",
    "TensorInfo": "quantload.checkpoint.tensorinfo",
    "companion_files": "quantload.checkpoint.companions",
    "open_checkpoint": "quantload.checkpoint.opening",
    "read_json": "quantload.checkpoint.jsonfile",
    "recover": "quantload.checkpoint.replace",
    "resolve_source": "quantload.checkpoint.source",
    "save_checkpoint": "quantload.checkpoint.writer",
}
__getattr__, __dir__ = lazy_exports(__name__, _LAZY, globals())

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "SafetensorsCheckpoint",
    "SafetensorsFile",
    "TensorInfo",
    "companion_files",
    "open_checkpoint",
    "read_json",
    "recover",
    "resolve_source",
    "save_checkpoint",
]

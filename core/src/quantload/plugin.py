"""The one stable import surface for authors of plugins.

`API` is the version of this surface. Additions keep it; a removal takes two
minor releases of `DeprecationWarning` first and then raises it. Importing this
module imports no torch; the names that need torch are fetched when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantload._lazy import lazy_exports

if TYPE_CHECKING:
    from quantload.config.base import QuantizationConfig, QuantizationConfigMixin
    from quantload.config.dtypes import DtypeField
    from quantload.config.fields import option
    from quantload.kernels.contract import Kernel, KernelSpec
    from quantload.loading.parts import ModelParts
    from quantload.modules import QuantizedEmbedding, QuantizedLinear
    from quantload.quantizers.base import HfQuantizer
    from quantload.quantizers.parts import PartsQuantizer
    from quantload.quantizers.spec import Header, ModuleSpec, TensorHeader
    from quantload.quantizers.weight import WeightQuantizer
    from quantload.weights.affine import AffineWeight, Origin
    from quantload.weights.packed import PackedWeight
    from quantload.weights.parts import PartsWeight, part, setting

from quantload.errors import CheckpointError, ConfigError, QuantloadError, UnsupportedOperationError
from quantload.verdict import Verdict

API = 1
"""Version of this surface; a plugin states the one it was written for as `api`."""


@dataclass(frozen=True)
class QuantizerPlugin:
    """What an entry point of the group `quantload.quantizers` points at.

    It is data only, so that listing plugins imports neither torch nor the
    plugin's own code: classes are named as `"module:attribute"`.

    Attributes:
        api: the `quantload.plugin.API` the plugin was written for.
        config: the `QuantizationConfig` class, as `"module:attribute"`. Code that
            registers a class it has in hand may give the class itself.
        quantizer: the `HfQuantizer` class, likewise.
        requires: PEP 508 requirements that must be met before it can run.
        devices: torch device types it runs on ("cpu", "cuda", "mps", "xpu").
        summary: one line for listings.
        demo: configs that quantize a float model on load and show the method well,
            by a short label ("NF4" -> `{"load_in_4bit": True}`); empty where it only
            reads checkpoints. The demo of the workspace runs them.
    """

    api: int
    config: str | type[QuantizationConfig]
    quantizer: str | type[HfQuantizer]
    requires: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    summary: str = ""
    demo: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelPack:
    """What an entry point of the group `quantload.kernels` points at.

    Attributes:
        api: the `quantload.plugin.API` the pack was written for.
        kernels: `Kernel` classes as `"module:attribute"`; imported when a weight
            looks for a kernel on one of `devices`.
        requires: PEP 508 requirements; unmet ones are a reason, never an error.
        devices: torch device types the pack has kernels for.
        summary: one line for listings.
    """

    api: int
    kernels: tuple[str, ...]
    requires: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    summary: str = ""


@dataclass(frozen=True)
class FormatPlugin:
    """What an entry point of the group `quantload.formats` points at.

    Attributes:
        api: the `quantload.plugin.API` the reader was written for.
        reader: the `Checkpoint` subclass, as `"module:attribute"`; its classmethod
            `open(path, mmap=True)` opens a file of this suffix.
        writer: a function that writes a model as one file, as `"module:attribute"`:
            called with `ModelParts` and the path, which it makes. "" where the format is
            only read.
        splitter: a function that writes a model as several files, likewise: called with
            `ModelParts`, the path that the names are made from, and the bytes that the tensors
            of one file may take; gives the files in order. "" where files are written whole.
        requires: PEP 508 requirements that must be met before it can run.
        summary: one line for listings.
    """

    api: int
    reader: str
    requires: tuple[str, ...] = ()
    summary: str = ""
    writer: str = ""
    splitter: str = ""


_LAZY = {
    "AffineWeight": "quantload.weights.affine",
    "DtypeField": "quantload.config.dtypes",
    "Header": "quantload.quantizers.spec",
    "HfQuantizer": "quantload.quantizers.base",
    "Kernel": "quantload.kernels.contract",
    "KernelSpec": "quantload.kernels.contract",
    "ModelParts": "quantload.loading.parts",
    "ModuleSpec": "quantload.quantizers.spec",
    "Origin": "quantload.weights.affine",
    "PackedWeight": "quantload.weights.packed",
    "PartsQuantizer": "quantload.quantizers.parts",
    "PartsWeight": "quantload.weights.parts",
    "QuantizationConfig": "quantload.config.base",
    "QuantizationConfigMixin": "quantload.config.base",
    "QuantizedEmbedding": "quantload.modules",
    "QuantizedLinear": "quantload.modules",
    "TensorHeader": "quantload.quantizers.spec",
    "WeightQuantizer": "quantload.quantizers.weight",
    "option": "quantload.config.fields",
    "part": "quantload.weights.parts",
    "setting": "quantload.weights.parts",
}
__getattr__, __dir__ = lazy_exports(__name__, _LAZY, globals())

__all__ = [
    "API",
    "AffineWeight",
    "CheckpointError",
    "ConfigError",
    "DtypeField",
    "FormatPlugin",
    "Header",
    "HfQuantizer",
    "Kernel",
    "KernelPack",
    "KernelSpec",
    "ModelParts",
    "ModuleSpec",
    "Origin",
    "PackedWeight",
    "PartsQuantizer",
    "PartsWeight",
    "QuantizationConfig",
    "QuantizationConfigMixin",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizerPlugin",
    "QuantloadError",
    "TensorHeader",
    "UnsupportedOperationError",
    "Verdict",
    "WeightQuantizer",
    "option",
    "part",
    "setting",
]

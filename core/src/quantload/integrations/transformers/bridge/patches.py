"""Everything of `transformers` that the bridge replaces: one table, put in place and taken back."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantload.errors import MissingRequirementError
from quantload.integrations.transformers.bridge import checking, onefile, resolving, writing
from quantload.integrations.transformers.bridge.choice import Choice
from quantload.registry import registry

logger = logging.getLogger(__name__)

AUTO = "transformers.quantizers.auto"
MAPPINGS = ("AUTO_QUANTIZER_MAPPING", "AUTO_QUANTIZATION_CONFIG_MAPPING")
_ABSENT = object()


def _plain(function: Any) -> Any:
    return function


@dataclass(frozen=True)
class Patch:
    """One replaced attribute.

    Attributes:
        module: that holds it.
        name: of the attribute in the module, dotted for one of a class.
        purpose: what the replacement does that the original does not.
        replacement: takes the original (bound, where it is a method) first; None where
            entries of a mapping are assigned.
        kind: wraps the replacement as the original was.
        added: it is put where `transformers` has nothing, and only there.
    """

    module: str
    name: str
    purpose: str
    replacement: Callable[..., Any] | None = None
    kind: Callable[[Any], Any] = classmethod
    added: bool = False

    @property
    def target(self) -> str:
        """The full name, as the documentation lists it."""
        return f"{self.module}.{self.name}"


PATCHES = (
    *(
        Patch(AUTO, name, "names every method that the bridge serves; other entries stay")
        for name in MAPPINGS
    ),
    Patch(
        AUTO,
        "AutoQuantizationConfig.from_dict",
        "makes the config of the plugin; an unknown method is an error that says what to install",
        resolving.config_from_dict,
    ),
    Patch(
        AUTO,
        "AutoQuantizationConfig.from_pretrained",
        "reads the config as quantload does, files such as quantize_config.json included",
        resolving.config_from_pretrained,
    ),
    Patch(
        AUTO,
        "AutoHfQuantizer.from_config",
        "takes configs of quantload too, where the original asks for a class of its own",
        resolving.quantizer_from_config,
    ),
    Patch(
        AUTO,
        "AutoHfQuantizer.merge_quantization_configs",
        "merges by fields, where the original compares the names of classes",
        resolving.merge,
    ),
    Patch(
        AUTO,
        "AutoHfQuantizer.supports_quant_method",
        "raises for an unknown method, where the original warns and the layers stay random",
        resolving.supports,
        staticmethod,
    ),
    Patch(
        "transformers.configuration_utils",
        "PreTrainedConfig._get_config_dict",
        "reads the config of `gguf_file=` with the plugin, and `quantize_config.json`",
        onefile.config_dict,
    ),
    Patch(
        "transformers.models.auto.tokenization_auto",
        "AutoTokenizer.from_pretrained",
        "reads the tokenizer of `gguf_file=` with the plugin",
        onefile.tokenizer,
    ),
    Patch(
        "transformers.modeling_utils",
        "log_state_dict_report",
        "names tensor and file where something does not fit, where the original points at the log",
        checking.report_differences,
        _plain,
    ),
    Patch(
        "transformers.modeling_utils",
        "PreTrainedModel.save_pretrained",
        "writes `state_dict=` of a packed model, where the original drops it",
        writing.save_pretrained,
        _plain,
    ),
    Patch(
        "transformers.quantizers.base",
        "HfQuantizer.quant_method",
        "the name of the method, on quantizers of transformers that stay",
        resolving.quant_method,
        property,
        added=True,
    ),
    Patch(
        "transformers.quantizers.base",
        "HfQuantizer.is_available",
        "whether the method can run here and why not, on quantizers of transformers that stay",
        resolving.is_available,
        _plain,
        added=True,
    ),
)

_originals: dict[Patch, Any] = {}
_entries: dict[str, dict[str, Any]] = {}
_served: tuple[Choice | None, int] = (None, -1)


def install() -> None:
    """Put every replacement in its place.

    Raises:
        MissingRequirementError: this release lacks something that is to be replaced;
            nothing has been, then.
    """
    found = [(patch, *_find(patch)) for patch in PATCHES]
    for patch, owner, name in found:
        if patch.replacement is None:
            continue
        original = vars(owner).get(name, _ABSENT)
        if patch.added and original is not _ABSENT:
            continue
        _originals[patch] = original
        setattr(owner, name, patch.kind(_bound(patch, owner, original)))


def remove() -> None:
    """Put every original back."""
    for patch, original in _originals.items():
        owner, name = _find(patch)
        if original is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
    _originals.clear()


def serve(choice: Choice | None) -> None:
    """Let the mappings name the methods of a choice; None puts their own entries back."""
    global _served
    _served = (choice, -1)
    update()


def update() -> None:
    """Bring the mappings up to date with the plugins that are known by now."""
    global _served
    choice, generation = _served
    if generation == registry.generation:
        return
    for mapping_name, value in zip(MAPPINGS, resolving.mapped(), strict=True):
        mapping = getattr(importlib.import_module(AUTO), mapping_name)
        for name, before in _entries.pop(mapping_name, {}).items():
            if before is _ABSENT:
                mapping.pop(name, None)
            else:
                mapping[name] = before
        names = choice.names() if choice is not None else []
        _entries[mapping_name] = {name: mapping.get(name, _ABSENT) for name in names}
        mapping.update(dict.fromkeys(names, value))
    _served = (choice, registry.generation)


def current() -> Choice:
    """The choice in effect."""
    update()
    choice, _ = _served
    assert choice is not None  # the replacements are only there while the bridge is on
    return choice


def _find(patch: Patch) -> tuple[Any, str]:
    owner: Any = importlib.import_module(patch.module)
    *classes, name = patch.name.split(".")
    try:
        for part in classes:
            owner = getattr(owner, part)
        if not patch.added:
            getattr(owner, name)
    except AttributeError:
        import transformers

        raise MissingRequirementError(
            f"transformers {transformers.__version__} has no {patch.target}, which the bridge "
            f"leans on; install a release that quantload is tested with, or update quantload"
        ) from None
    return owner, name


def _bound(patch: Patch, owner: Any, original: Any) -> Callable[..., Any]:
    """The replacement, with the choice in effect and the original at hand."""
    replacement = patch.replacement
    assert replacement is not None
    if original is _ABSENT:
        return replacement
    if isinstance(original, classmethod):
        underlying = original.__func__

        @functools.wraps(underlying)
        def of_class(cls: type, *args: Any, **kwargs: Any) -> Any:
            return replacement(current(), functools.partial(underlying, cls), *args, **kwargs)

        return of_class
    underlying = getattr(owner, patch.name.rpartition(".")[2])

    @functools.wraps(underlying)
    def static(*args: Any, **kwargs: Any) -> Any:
        return replacement(current(), underlying, *args, **kwargs)

    return static

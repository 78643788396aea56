"""Config and model class of a checkpoint, with and without code of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

from quantload.checkpoint.base import Checkpoint
from quantload.config.stored import config_in
from quantload.errors import CheckpointError, UnsupportedOperationError

logger = logging.getLogger(__name__)

_BY_TASK = (
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModel",
)


def describes_itself(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint's format holds the config, so that no `config.json` is asked."""
    return type(checkpoint).config is not Checkpoint.config


def load_config(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    """The model's config.

    Args:
        checkpoint: the open checkpoint.
        trust_remote_code: whether its Python files may be run.

    Raises:
        CheckpointError: there is none, it is damaged, or of an unknown type.
        UnsupportedOperationError: it needs code that is not trusted.
    """
    source = str(checkpoint.folder)
    config_in(checkpoint.config(), f"{source}/config.json")  # transformers takes any value there
    try:
        if describes_itself(checkpoint):
            described = checkpoint.config()
            return transformers.CONFIG_MAPPING[described["model_type"]].from_dict(described)
        return transformers.AutoConfig.from_pretrained(
            source, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # a damaged value can end anywhere in the class of the config
        if "trust_remote_code" in str(error):
            raise UnsupportedOperationError(
                f"{source}: the model is defined by Python files in the checkpoint, which are run "
                f"only with trust_remote_code=True; read them first"
            ) from error
        told = error if str(error) else type(error).__name__
        raise CheckpointError(f"{source}: no config.json that can be used: {told}") from error


def model_class(config: Any, source: str, asked: type | str | None, trust_remote_code: bool) -> Any:
    """The class to build.

    Args:
        config: the model's config.
        source: folder of the checkpoint.
        asked: a class, an Auto class, or the name of one; None for the config's own.
        trust_remote_code: whether the checkpoint's Python files may be run.

    Raises:
        CheckpointError: no class is known for the config.
        UnsupportedOperationError: the class needs code that is not trusted.
    """
    if asked is not None:
        return _asked(config, source, asked, trust_remote_code)
    listed = getattr(config, "architectures", None) or []
    if not isinstance(listed, (list, tuple)) or not all(isinstance(name, str) for name in listed):
        raise CheckpointError(
            f"{source}/config.json: architectures should be a list of names, found {listed!r}"
        )
    names = list(listed)
    remote = getattr(config, "auto_map", None) or {}
    if remote and trust_remote_code:
        reference = _remote_reference(remote, names)
        if reference is not None:
            return _dynamic(*reference, source)
    for name in names:
        found = getattr(transformers, name, None)
        if _buildable(found):
            return found
    if any(key.startswith("AutoModel") for key in remote):
        raise UnsupportedOperationError(
            f"{source}: {names[0] if names else 'the model'} is defined by Python files in the "
            f"checkpoint, which are run only with trust_remote_code=True; read them first"
        )
    for auto in _BY_TASK:
        found = _of_task(config, auto)
        if found is not None:
            logger.warning(
                "%s: config.json names %s; building a %s for its model_type %r",
                source,
                f"{names}, which transformers {transformers.__version__} lacks"
                if names
                else "no architecture",
                found.__name__,
                config.model_type,
            )
            return found
    raise CheckpointError(
        f"{source}: transformers {transformers.__version__} has no class for "
        f"{' or '.join(names) if names else f'model_type {config.model_type!r}'}; name one with "
        f"model_class=, or update transformers"
    )


def _asked(config: Any, source: str, asked: type | str, trust_remote_code: bool) -> Any:
    found: Any = getattr(transformers, asked, None) if isinstance(asked, str) else asked
    if hasattr(found, "_model_mapping"):
        remote = (getattr(config, "auto_map", None) or {}).get(found.__name__)
        if remote and trust_remote_code:
            return _dynamic(found.__name__, remote, source)
        built = _of_task(config, found.__name__)
        if built is None:
            raise CheckpointError(
                f"{source}: model_class={found.__name__} has no class for model_type "
                f"{config.model_type!r}"
            )
        return built
    if not _buildable(found):
        raise CheckpointError(
            f"model_class={asked!r}: expected a model class of transformers, an Auto class, or the "
            f"name of one"
        )
    return found


def _buildable(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)


def _of_task(config: Any, auto: str) -> Any:
    """The class an Auto class has for a config; None where it has none."""
    mapping = getattr(transformers, auto)._model_mapping
    if type(config) not in mapping:
        return None
    found = mapping[type(config)]
    if isinstance(found, (list, tuple)):
        names = getattr(config, "architectures", None) or []
        return next((c for c in found if c.__name__ in names), found[0])
    return found


def _remote_reference(remote: Mapping[str, Any], names: list[str]) -> tuple[str, str] | None:
    """The Auto class and the reference of the checkpoint's own model class."""
    models = {k: str(v) for k, v in remote.items() if k.startswith("AutoModel") and v}
    for name in names:
        for auto, reference in models.items():
            if reference.rpartition(".")[2] == name:
                return auto, reference
    return next(((auto, models[auto]) for auto in _BY_TASK if auto in models), None)


def _dynamic(auto: str, reference: str, source: str) -> Any:
    """A class from the checkpoint's Python files, which the caller trusts."""
    found = get_class_from_dynamic_module(reference, source, local_files_only=True)
    found.register_for_auto_class(auto_class=auto)
    return add_generation_mixin_to_remote_model(found)

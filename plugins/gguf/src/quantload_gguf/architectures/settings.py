"""`config.json` and `generation_config.json` of a model, from its metadata."""

from __future__ import annotations

from typing import Any

from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.table import OMIT, Architecture

_TOKENS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def model_config(facts: Facts, architecture: Architecture) -> dict[str, Any]:
    """The config of a model.

    Args:
        facts: of the file.
        architecture: its description.

    Raises:
        CheckpointError: a setting is absent.
    """
    found: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [architecture.model_class],
    }
    for key, setting in architecture.config.items():
        value = setting(facts) if callable(setting) else setting
        if value is not OMIT:
            found[key] = value
    # A default of the class would name tokens of another vocabulary.
    found.update({key: facts.token(name) for key, name in _TOKENS.items()})
    if any(tensor.ggml_type.packed for tensor in facts.tensors.values()):
        found["quantization_config"] = {"quant_method": "gguf"}
    return found


def generation_config(facts: Facts) -> dict[str, Any]:
    """What generation needs to know: where a text begins and ends."""
    found: dict[str, Any] = {}
    for key, name in _TOKENS.items():
        token = facts.token(name)
        if token is not None:
            found[key] = token
    turns = [
        t for t in (facts.token("eos"), facts.token("eot"), facts.token("eom")) if t is not None
    ]
    ends = list(dict.fromkeys(turns))
    if len(ends) > 1:
        found["eos_token_id"] = ends
    return found

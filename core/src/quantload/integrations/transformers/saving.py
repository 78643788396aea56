"""Writing a model of `transformers`: its configs, and its tensors under published names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from quantload.errors import UnsupportedOperationError
from quantload.loading.record import record_of
from quantload.loading.skeleton import tensors_of
from quantload.quantizers.base import HfQuantizer


def reverted(
    model: Any, tensors: dict[str, Tensor], sources: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Tensors under the names, and in the form, that checkpoints of the class have.

    Args:
        model: whose class published conversions.
        tensors: the model's, by name; all that are converted together.
        sources: the names they were loaded from, where that is known.

    Raises:
        UnsupportedOperationError: the conversion cannot be reverted.
    """
    try:
        with _conversions_of(model):
            found: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise UnsupportedOperationError(
            f"{', '.join(sorted(tensors)[:3])}: the conversion made while loading cannot be "
            f"reverted: {error}"
        ) from error
    if not sources or found.keys() == set(sources):
        return found
    # A checkpoint of the base model lacks the prefix; one of a model with a head has it.
    prefix = f"{model.base_model_prefix}."
    without = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    if without.keys() == set(sources):
        return without
    added = {prefix + name: tensor for name, tensor in found.items()}
    return added if added.keys() == set(sources) else found


def configs(model: Any, quantizer: HfQuantizer | None) -> dict[str, str]:
    """The text of `config.json` and, for models that generate, `generation_config.json`."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if quantizer is not None:
        config.quantization_config = quantizer.quantization_config.to_dict()
    elif "quantization_config" in vars(config):
        del config.quantization_config
    floats = [t.dtype for t in tensors_of(model).values() if t.is_floating_point()]
    if floats and getattr(config, "dtype", None) not in floats:
        config.dtype = floats[0]
    found = {"config.json": config.to_json_string(use_diff=True)}
    if model.can_generate() and getattr(model, "generation_config", None) is not None:
        found["generation_config.json"] = model.generation_config.to_json_string(use_diff=True)
    return found


@contextmanager
def _conversions_of(model: Any) -> Iterator[None]:
    """Let a model that `transformers` loaded for the bridge have its transforms for a while."""
    record = record_of(model)
    if record is None or record.conversions is None:
        yield
        return
    before = model._weight_conversions
    model._weight_conversions = record.conversions
    try:
        yield
    finally:
        model._weight_conversions = before

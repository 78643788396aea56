"""What code written for `transformers` finds on a loaded model."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from functools import cache
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.utils.quantization_config import QuantizationMethod

from quantload.checkpoint.base import Checkpoint
from quantload.integrations.transformers.classes import describes_itself
from quantload.integrations.transformers.conversions import TransformersNames
from quantload.integrations.transformers.save_pretrained import SavePretrained
from quantload.loading.plan import Decision, Plan
from quantload.loading.record import record_of
from quantload.loading.traits import Traits
from quantload.quantizers.base import HfQuantizer


def finish_model(
    model: Any,
    plan: Plan,
    traits: Traits,
    quantizer: HfQuantizer | None,
    checkpoint: Checkpoint,
    trust_remote_code: bool,
) -> Any:
    """Set the attributes that `from_pretrained` sets, and switch to evaluation.

    Args:
        model: complete.
        plan: what was loaded.
        traits: of its class.
        quantizer: the method, if there is one.
        checkpoint: where it came from.
        trust_remote_code: whether a `generate` of the checkpoint's own may be used.
    """
    if isinstance(traits.names, TransformersNames):
        model._weight_conversions = traits.names.used()
    untie_config(model, plan)
    if plan.device_map.asked:
        model.hf_device_map = plan.device_map.as_dict()
    model.eval()
    if model.can_generate():
        _generation(model, checkpoint, trust_remote_code)
    if quantizer is not None:
        mark_quantized(model, quantizer)
        quantizer.postprocess_model(model)
    return model


def untie_config(model: Any, plan: Plan | Decision) -> None:
    """Let the config say so where nothing that it ties is tied.

    Saved with this config, the checkpoint is read the same way by everybody.
    """
    if not plan.report.untied or plan.sharing.modules or model.all_tied_weights_keys:
        return
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False


def mark_quantized(model: Any, quantizer: HfQuantizer) -> None:
    """Say in the ways of `transformers` that a model is quantized."""
    model.is_quantized = True
    model.quantization_method = method_text(quantizer.quant_method)
    model.hf_quantizer = quantizer
    model.config.quantization_config = quantizer.quantization_config
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._is_quantized = True
    model.save_pretrained = SavePretrained(model)


@cache
def _looked_for() -> frozenset[str]:
    """Methods whose own library `PreTrainedModel.to` imports, to look for its layers.

    There is no other place that says which they are.
    """
    try:
        # By its code: it is dressed up as torch's own method.
        source = inspect.getsource(PreTrainedModel.to.__code__)
    except (OSError, TypeError):  # installed without sources
        return frozenset()
    found = re.findall(r"QuantizationMethod\.(\w+):\s+from \w", source)
    return frozenset(str(QuantizationMethod[name].value) for name in found)


class _Name(str):
    """The name of a method as text, equal to no member of an enum of `transformers`."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return not isinstance(other, Enum) and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def method_text(name: str) -> str:
    """The name of a method, for `model.quantization_method`.

    Of methods for which `transformers` would import a library that packed weights do not need,
    and that may not be installed, it is equal to no member of `transformers`' enum.
    """
    return _Name(name) if name in _looked_for() else name


def mark_float(model: Any) -> None:
    """Take back what `mark_quantized` said."""
    model.is_quantized = False
    record = record_of(model)
    if record is not None and record.conversions is not None:
        model._weight_conversions = record.conversions
        record.conversions = None
    for owner, name in (
        (model, "quantization_method"),
        (model, "hf_quantizer"),
        (model, "save_pretrained"),
        (model.config, "quantization_config"),
    ):
        if name in vars(owner):
            delattr(owner, name)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            vars(module.config).pop("_is_quantized", None)
            _remember_ties(module)


def _remember_ties(model: Any) -> None:
    """Declare again the ties of the class that hold: float tensors can be tied as it says."""
    if "_tied_weights_keys" not in vars(model):
        return
    kept = model._tied_weights_keys
    del model._tied_weights_keys
    declared = model.get_expanded_tied_weights_keys(all_submodels=False)
    held = {
        name: owner
        for name, owner in declared.items()
        if model.get_parameter(name) is model.get_parameter(owner)
    }
    if held != declared:
        model._tied_weights_keys = {**kept, **held}
    model.all_tied_weights_keys = {**model.all_tied_weights_keys, **held}


def _generation(model: Any, checkpoint: Checkpoint, trust_remote_code: bool) -> None:
    """Read the generation config, or make it from the model's config, as `transformers` does."""
    if describes_itself(checkpoint):
        described = checkpoint.generation_config()
        if described:
            model.generation_config = GenerationConfig.from_dict(described)
        return
    model.adjust_generation_fn(
        None,
        False,
        None,
        str(checkpoint.folder),
        cache_dir=None,
        force_download=False,
        proxies=None,
        local_files_only=True,
        token=None,
        revision=None,
        subfolder="",
        trust_remote_code=trust_remote_code,
    )

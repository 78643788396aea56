"""What code written for `transformers` finds on a loaded model."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from quantload.errors import UnsupportedOperationError
from quantload.integrations.transformers.conversions import TransformersNames
from quantload.loading.plan import Plan
from quantload.loading.traits import Traits
from quantload.quantizers.base import HfQuantizer


def finish_model(
    model: Any,
    plan: Plan,
    traits: Traits,
    quantizer: HfQuantizer | None,
    folder: str,
    trust_remote_code: bool,
) -> Any:
    """Set the attributes that `from_pretrained` sets, and switch to evaluation.

    Args:
        model: complete.
        plan: what was loaded.
        traits: of its class.
        quantizer: the method, if there is one.
        folder: of the checkpoint.
        trust_remote_code: whether a `generate` of the checkpoint's own may be used.
    """
    if isinstance(traits.names, TransformersNames):
        model._weight_conversions = traits.names.used()
    if plan.device_map.asked:
        model.hf_device_map = plan.device_map.as_dict()
    model.eval()
    if model.can_generate():
        _generation(model, folder, trust_remote_code)
    if quantizer is not None:
        mark_quantized(model, quantizer)
        quantizer.postprocess_model(model)
    return model


def mark_quantized(model: Any, quantizer: HfQuantizer) -> None:
    """Say in the ways of `transformers` that a model is quantized."""
    model.is_quantized = True
    model.quantization_method = quantizer.quant_method
    model.hf_quantizer = quantizer
    model.config.quantization_config = quantizer.quantization_config
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._is_quantized = True
    model.save_pretrained = refuse_save_pretrained


def mark_float(model: Any) -> None:
    """Take back what `mark_quantized` said."""
    model.is_quantized = False
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


def refuse_save_pretrained(*args: Any, **kwargs: Any) -> None:  # noqa: ARG001  refuses all
    """Refused: `transformers` does not know the layout of the packed weights."""
    raise UnsupportedOperationError(
        "save_pretrained of a quantized model would not write the method's layout; "
        "use quantload.save_model(model, folder)"
    )


def _generation(model: Any, folder: str, trust_remote_code: bool) -> None:
    """Read the generation config, or make it from the model's config, as `transformers` does."""
    model.adjust_generation_fn(
        None,
        False,
        None,
        folder,
        cache_dir=None,
        force_download=False,
        proxies=None,
        local_files_only=True,
        token=None,
        revision=None,
        subfolder="",
        trust_remote_code=trust_remote_code,
    )

"""`save_pretrained(state_dict=...)`, which `transformers` drops for quantized models."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from quantload.integrations.transformers.bridge.choice import Choice
from quantload.loading.given import holding
from quantload.loading.record import record_of


def save_pretrained(
    choice: Choice,  # noqa: ARG001  what every replacement is given
    original: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """`PreTrainedModel.save_pretrained`.

    The original asks the quantizer for what is to be written, without telling it what was
    passed; so the model holds that while it is asked.

    Raises:
        UnsupportedOperationError: the state dict is not that of the whole model.
    """
    bound = inspect.signature(original).bind(*args, **kwargs)
    model, given = bound.arguments["self"], bound.arguments.get("state_dict")
    record = record_of(model)
    adapters = getattr(model, "_hf_peft_config_loaded", False)
    if given is None or adapters or record is None or record.quantizer is None:
        return original(*args, **kwargs)
    bound.arguments["state_dict"] = None
    with holding(model, given):
        return original(*bound.args, **bound.kwargs)

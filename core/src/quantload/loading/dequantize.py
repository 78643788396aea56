"""`dequantize`: a quantized model becomes a float one."""

from __future__ import annotations

import torch
from torch import nn

from quantload.errors import UnsupportedOperationError
from quantload.loading.dtypes import parse_dtype
from quantload.loading.record import is_transformers_model, record_of
from quantload.modules import dequantize_hosts, hosts_of
from quantload.quantizers.base import HfQuantizer


def dequantize(model: nn.Module, dtype: str | torch.dtype | None = None) -> nn.Module:
    """Turn every packed weight of a model back into a float one, module by module.

    The modules get their own classes back (`nn.Linear`, GPT-2's `Conv1D`,
    `nn.Embedding`), weights that were shared stay shared, and the model forgets that it
    was quantized: `save_pretrained` and `save_model` write a float checkpoint.

    Args:
        model: a quantized model; changed in place.
        dtype: of the float weights, a torch dtype or its name; where None, that of the
            rest of the model.

    Returns:
        The model, or the float module in its place where it is a packed layer itself.

    Raises:
        UnsupportedOperationError: the model is not quantized, or its weights are
            offloaded.
        ConfigError: `dtype` is no floating-point dtype.
    """
    wanted = parse_dtype(dtype)
    hosts = list(hosts_of(model))
    if not hosts:
        raise UnsupportedOperationError("the model holds no packed weights: it is float already")
    for name, host in hosts:
        if host.weight.is_meta:
            raise UnsupportedOperationError(
                f"{name}: its weight is offloaded or not loaded; load the model with a device_map "
                f"that keeps everything in memory to dequantize it"
            )
    record = record_of(model)
    if record is not None and record.in_parts:
        raise UnsupportedOperationError(
            "every process has a part of the packed weights: save the model with "
            "save_pretrained, load the folder without tp_plan=, and dequantize that"
        )
    quantizer = getattr(model, "hf_quantizer", None)
    if not isinstance(quantizer, HfQuantizer):
        quantizer = record.quantizer if record is not None else None
    if quantizer is None:
        floated = dequantize_hosts(model, wanted)
    else:
        floated = quantizer.dequantize(model, wanted)
    if record is not None:
        record.quantizer = None
        record.specs = {}
    if is_transformers_model(floated):
        from quantload.integrations.transformers.attributes import mark_float

        mark_float(floated)
    return floated

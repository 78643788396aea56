"""What is left to do when `transformers` has loaded everything."""

from __future__ import annotations

from typing import Any

import torch

from quantload.integrations.transformers.attributes import untie_config
from quantload.kernels.selector import prepare
from quantload.loading.heap import PACKED_STRIDE, Trimmer
from quantload.loading.plan import Decision
from quantload.loading.skeleton import tensors_of
from quantload.modules import group_experts, hosts_of

ALIGNMENT = 16
"""Bytes; of tensors on the CPU, without which products differ in their last bits."""


def finish(model: Any, decided: Decision) -> None:
    """Give the model what its method needs, and what `load_model` would have given it.

    Args:
        model: complete.
        decided: what was loaded.
    """
    for name, tensor in tensors_of(model).items():
        if tensor.is_meta:
            continue
        dtype = decided.found.dtypes.get(name, tensor.dtype)
        if tensor.dtype != dtype and tensor.is_floating_point() and name in decided.found.provided:
            tensor.data = tensor.data.to(dtype)  # read in the checkpoint's own, before 5.18
        elif tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
    seen: set[int] = set()
    trimmer = Trimmer(PACKED_STRIDE)
    for name, host in hosts_of(model):
        bias = host._parameters.get("bias")
        if bias is not None and f"{name}.bias" not in decided.found.provided and not bias.is_meta:
            with torch.no_grad():
                bias.zero_()  # classes do not initialise what hosts a packed weight
        if id(host.weight) not in seen and not host.weight.is_meta:
            seen.add(id(host.weight))
            prepare(host.weight)
            trimmer.passed(host.weight.nbytes)
    group_experts(model)
    untie_config(model, decided)

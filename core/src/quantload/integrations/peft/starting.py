"""Adapters that start from the numbers of the weight below them: DoRA, PiSSA, OLoRA and kin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from quantload.integrations.peft.layers import as_float, check, repack
from quantload.weights.packed import PackedWeight


def dequantized(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`dequantize_module_weight` that knows packed weights, too."""

    def dequantize_module_weight(module: Any) -> Any:
        weight = module.weight
        return weight.dequantize() if isinstance(weight, PackedWeight) else original(module)

    return dequantize_module_weight


def starting(original: Callable[..., None]) -> Callable[..., None]:
    """A method of `LoraLayer` that sets an adapter off against the weight.

    It is given the weight in float32; what it leaves there is packed.

    Raises:
        UnsupportedOperationError: when called, where the weight cannot be packed anew.
    """

    @torch.no_grad()
    def start(self: Any, *arguments: Any, **options: Any) -> None:
        host = self.get_base_layer()
        if not isinstance(host.weight, PackedWeight):
            original(self, *arguments, **options)
            return
        name = host.origin.spec.name if host.origin is not None else type(host).__name__
        check(name, host, Counter())
        with as_float(host) as held:
            before = held().clone()
            original(self, *arguments, **options)
            matrix = held()
        if not torch.equal(matrix, before):
            repack(host, matrix)

    return start

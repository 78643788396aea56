"""The tensors that `save_pretrained` writes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from quantload.loading.offload import fetched
from quantload.loading.record import record_of
from quantload.modules import hosts_of
from quantload.quantizers.base import HfQuantizer
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer


def checkpoint_tensors(model: Any, quantizer: HfQuantizer) -> dict[str, Tensor] | None:
    """A model's state dict, with the method's own tensors in the place of packed weights.

    Names are the model's: `transformers` reverts its conversions itself. A weight that
    several modules share is in it once.

    Args:
        model: loaded through the bridge.
        quantizer: its method.

    Returns:
        Name -> tensor; None where the model's own state dict is what has to be saved.
    """
    if not isinstance(quantizer, WeightQuantizer):
        return None
    record = record_of(model)
    specs = record.specs if record is not None else {}
    prefixes, found = [], {}
    seen: set[int] = set()
    for name, host in hosts_of(model):
        prefixes.append(f"{name}.weight.")
        weight = host.weight
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        spec = specs.get(name) or ModuleSpec(name, shape=tuple(weight.shape), dtype=weight.dtype)
        with fetched(weight):
            for leaf, tensor in quantizer.unpack(spec, weight).items():
                found[f"{name}.{leaf}"] = tensor
    skipped = tuple(prefixes)
    floats = {k: t for k, t in model.state_dict().items() if not k.startswith(skipped)}
    return {**floats, **found}

"""Which tensors of a checkpoint make a weight, and what each of them must look like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from quantload.plugin import CheckpointError, ModuleSpec, UnsupportedOperationError
from quantload_bitsandbytes.state import KEYS, PREFIX

if TYPE_CHECKING:
    from quantload.plugin import TensorHeader

FOUR_BIT_TENSORS = (
    "weight",
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    *KEYS,
)
EIGHT_BIT_TENSORS = ("weight", "SCB", "weight_format")

_NESTED = ("weight.nested_absmax", "weight.nested_quant_map")
_SIBLINGS = ("weight.absmax", "weight.quant_map", *_NESTED)


def claimed_modules(headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
    """Every module of a checkpoint that is packed, told by the names of its tensors.

    Raises:
        CheckpointError: a module lacks some of its tensors.
        UnsupportedOperationError: experts are packed as one stack.
    """
    found: dict[str, ModuleSpec] = {}
    for name in headers:
        _refuse_stack(name)
        module, key = _split(name)
        if module is None or module in found:
            continue
        if key == "SCB":
            found[module] = _eight_bit(module, headers)
        else:
            found[module] = _four_bit(module, headers)
    for name, header in headers.items():
        module = name.removesuffix(".weight")
        if header.dtype == "I8" and module != name and module not in found:
            raise CheckpointError(
                f"{name}: an int8 weight [{_dims(header)}] without its scales: {module}.SCB is "
                f"missing"
            )
    return found


def _refuse_stack(name: str) -> None:
    """Some programs pack the 3-D parameters of experts, which are not called `weight`."""
    whole, found, _ = name.partition(f".{PREFIX.removeprefix('weight.')}")
    if found and not whole.endswith(".weight"):
        raise UnsupportedOperationError(
            f"{name}: {whole} is packed as one tensor, as no bitsandbytes release reads or writes "
            f"it; layers are read that are packed one by one (weight, weight.absmax, ...): take "
            f"the float checkpoint, and quantize it on load"
        )


def _split(name: str) -> tuple[str | None, str]:
    """Module and key of a tensor that only packed modules have."""
    if name.endswith(".SCB"):
        return name.removesuffix(".SCB"), "SCB"
    for key in (*KEYS, *_SIBLINGS):
        if name.endswith("." + key):
            return name.removesuffix("." + key), key
    module, found, _ = name.partition(f".{PREFIX}")
    return (module, "") if found else (None, "")


def _collect(
    module: str, headers: Mapping[str, TensorHeader], keys: Iterable[str]
) -> dict[str, TensorHeader]:
    names = {key: f"{module}.{key}" for key in keys}
    return {key: headers[name] for key, name in names.items() if name in headers}


def _four_bit(module: str, headers: Mapping[str, TensorHeader]) -> ModuleSpec:
    tensors = _collect(module, headers, FOUR_BIT_TENSORS)
    states = [key for key in KEYS if key in tensors]
    if len(states) > 1:
        raise CheckpointError(
            f"{module}: has {' and '.join(states)}; a weight is of one type or the other"
        )
    strange = [n for n in headers if n.startswith(f"{module}.{PREFIX}")] if not states else []
    if strange:
        raise CheckpointError(
            f"{strange[0]}: a quant state of an unknown type; known are {', '.join(KEYS.values())}"
        )
    nested = any(key in tensors for key in _NESTED)
    wanted = ["weight", "weight.absmax", "weight.quant_map", *(_NESTED if nested else ())]
    missing = [key for key in wanted if key not in tensors]
    if not states:
        missing.append(f"{PREFIX}nf4 or {PREFIX}fp4")
    if missing:
        have = ", ".join(sorted(tensors))
        raise CheckpointError(
            f"{module}: a 4-bit bitsandbytes layer has {', '.join(missing)} missing; found {have}"
        )
    return ModuleSpec(module, tensors=tensors, params={"width": 4, "quant_type": KEYS[states[0]]})


def _eight_bit(module: str, headers: Mapping[str, TensorHeader]) -> ModuleSpec:
    tensors = _collect(module, headers, EIGHT_BIT_TENSORS)
    if "weight" not in tensors:
        raise CheckpointError(f"{module}: has SCB, and {module}.weight is missing")
    weight = tensors["weight"]
    if weight.dtype != "I8" or len(weight.shape) != 2:
        raise CheckpointError(
            f"{module}.weight: expected int8 [out_features, in_features] beside SCB, found "
            f"{weight.dtype} [{_dims(weight)}]"
        )
    return ModuleSpec(module, shape=tuple(weight.shape), tensors=tensors, params={"width": 8})


def _dims(header: TensorHeader) -> str:
    return ", ".join(map(str, header.shape))

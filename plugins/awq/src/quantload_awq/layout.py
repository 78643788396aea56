"""AWQ tensors to `AffineWeight` and back, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantload.weights.affine import AffineWeight, Origin
from quantload.weights.affine.checks import check_module, check_scales, require
from quantload_awq import fast, gemm, gemv, marlin
from quantload_awq.expressible import check_expressible
from quantload_awq.headers import DTYPES, Found, read_headers

if TYPE_CHECKING:
    from quantload.plugin import ModuleSpec, TensorHeader
    from quantload_awq.config import AwqConfig

_READERS: dict[str, Callable[..., dict[str, Any]]] = {
    "gemm": gemm.read,
    "gemv": gemv.read,
    "gemv_fast": fast.read,
    "llm-awq": fast.read,
    "marlin": marlin.read,
}


def read(
    spec: ModuleSpec,
    headers: Mapping[str, TensorHeader],
    tensors: Mapping[str, Tensor],
    config: AwqConfig,
) -> AffineWeight:
    """The weight of one layer.

    Args:
        spec: the module.
        headers: of `tensors`.
        tensors: name without the module prefix -> tensor.
        config: the settings.

    Raises:
        CheckpointError: a tensor is missing or wrong.
    """
    require(spec.name, headers, [leaf for leaf in spec.tensors if leaf != "bias"], "AWQ")
    found = read_headers(spec.name, headers, config)
    check_module(spec, (found.rows, found.columns))
    check_scales(f"{spec.name}.scales", tensors["scales"])
    parts = _READERS[found.layout](spec.name, tensors, found, config.bits)
    facts = {**_label(config), "zeros": found.zeros, **parts.pop("facts", {})}
    return AffineWeight(
        (found.rows, found.columns),
        spec.dtype or tensors["scales"].dtype,
        bits=config.bits,
        group_size=found.group_size,
        origin=Origin(f"awq_{found.layout}", facts),
        **parts,
    )


def empty(
    spec: ModuleSpec, headers: Mapping[str, TensorHeader], config: AwqConfig, dtype: torch.dtype
) -> AffineWeight:
    """The weight on the meta device, from headers (none where it will be quantized).

    Raises:
        CheckpointError: the headers do not fit each other, or not the module.
    """
    assert spec.shape is not None
    rows, columns = spec.shape
    if not headers:
        found = planned(rows, columns, config)
        scale_dtype = torch.float16
    else:
        found = read_headers(spec.name, headers, config)
        scale_dtype = DTYPES[headers["scales"].dtype]
    check_module(spec, (found.rows, found.columns))
    return AffineWeight.empty(
        (rows, columns),
        dtype,
        bits=config.bits,
        group_size=found.group_size,
        scale_dtype=scale_dtype,
        has_zeros=found.zeros == "qzeros" and not found.is_fast,
        has_offsets=found.is_fast,
        symmetric=not config.zero_point,
    )


def planned(rows: int, columns: int, config: AwqConfig) -> Found:
    """What a layer that is quantized here will be."""
    size = columns if config.group_size == -1 else config.group_size
    zeros = None if config.version == "marlin" else "qzeros"
    return Found(config.version, rows, columns, max(1, columns // size), zeros)


def write(name: str, weight: AffineWeight, config: AwqConfig) -> dict[str, Tensor]:
    """The tensors of one layer: those it was read from, or new ones.

    Raises:
        UnsupportedOperationError: the layout cannot express the weight; it says why.
    """
    origin = weight.origin
    if origin is not None and _label(config).items() <= origin.facts.items():
        layout, zeros = origin.format.removeprefix("awq_"), origin.facts["zeros"]
    else:
        layout = config.version
        zeros = "scaled_zeros" if layout == "llm-awq" else "qzeros"
        weight = check_expressible(name, weight, layout, config.group_size)
    if layout == "gemm":
        return gemm.write(weight, zeros is not None)
    if layout == "gemv":
        return gemv.write(weight)
    if layout == "marlin":
        return marlin.write(weight)
    return fast.write(weight, zeros)


def _label(config: AwqConfig) -> dict[str, str]:
    """By which a weight knows that it comes from a config like this one."""
    return {"method": "awq", "label": config.version}

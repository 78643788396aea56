"""Damaged layers: one clear error that names the tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import cases
from torch import Tensor

from quantload import AutoHfQuantizer, CheckpointError, UnsupportedOperationError
from quantload.quantizers.spec import Header
from quantload.weights.affine import AffineWeight

Tensors = dict[str, Tensor]
CASE = cases("gptq")["gptq_v1_4bit_asym"]


def refused(tensors: Tensors, match: str, **config: object) -> None:
    quantizer = AutoHfQuantizer.from_config({**CASE.config, **config})
    with pytest.raises(CheckpointError, match=match) as caught:
        quantizer.pack("model.layer", tensors)
    assert "model.layer" in str(caught.value)


@pytest.mark.parametrize("leaf", ["qweight", "qzeros", "scales"])
def test_a_missing_tensor(leaf: str) -> None:
    tensors = {name: tensor for name, tensor in CASE.tensors.items() if name != leaf}
    refused(tensors, rf"model\.layer\.{leaf} missing")


CHANGES: list[tuple[str, Callable[[Tensor], Tensor], str]] = [
    ("qweight", lambda t: t[:-1], r"qweight: shape \[7, 32\], expected \[8, 32\]"),
    ("qweight", lambda t: t[:, :-1], r"qweight: shape \[8, 31\], expected 32 columns"),
    ("qweight", lambda t: t.float(), "qweight: dtype F32, expected I8 or I16 or I32"),
    ("qweight", lambda t: t.long(), "qweight: dtype I64"),
    ("qweight", lambda t: t.flatten(), r"qweight: shape \[256\], expected 2 dimensions"),
    ("qzeros", lambda t: t[:, :-1], r"qzeros: shape \[2, 3\], expected \[2, 4\]"),
    ("qzeros", lambda t: t[:-1], r"qzeros: shape \[1, 4\], expected \[2, 4\]"),
    ("qzeros", lambda t: t.to(torch.int16), "qzeros: dtype I16, expected I32"),
    ("scales", lambda t: t[:-1], "qzeros: shape"),
    ("scales", lambda t: t.double(), "scales: dtype F64, expected F16 or BF16 or F32"),
    (
        "scales",
        lambda t: t.index_fill(0, torch.tensor([1]), torch.nan),
        "scales: 32 of 64 values are NaN",
    ),
    ("scales", lambda t: t.index_fill(1, torch.tensor([5]), torch.inf), "scales: 2 of 64"),
    ("g_idx", lambda t: t + 1, "g_idx: group numbers from 1 to 2, expected 0 to 1"),
    ("g_idx", lambda t: t - 1, "g_idx: group numbers from -1 to 0"),
    ("g_idx", lambda t: t[:-9], r"qweight: shape \[8, 32\], expected \[7, 32\]"),
    ("g_idx", lambda t: t.float(), "g_idx: dtype F32"),
    ("g_idx", lambda t: t[None], r"g_idx: shape \[1, 64\], expected 1 dimensions"),
]


@pytest.mark.parametrize(("leaf", "change", "match"), CHANGES)
def test_a_damaged_tensor(leaf: str, change: Callable[[Tensor], Tensor], match: str) -> None:
    refused({**CASE.tensors, leaf: change(CASE.tensors[leaf])}, match)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_bits_that_contradict_the_shapes_are_named_with_those_that_fit(bits: int) -> None:
    refused(CASE.tensors, "the shapes are those of 4 bits", bits=bits)


def test_a_group_size_that_cannot_be() -> None:
    tensors = {k: t for k, t in CASE.tensors.items() if k != "g_idx"}
    tensors["scales"] = tensors["scales"].repeat(2, 1)[:3]
    tensors["qzeros"] = tensors["qzeros"].repeat(2, 1)[:3]
    refused(tensors, "scales: 3 groups, expected 2 for 64 input columns")


def test_planar_codes_in_odd_shapes() -> None:
    padded = cases("gptq")["gptq_v2_4bit_padded"]
    tensors = {k: t for k, t in padded.tensors.items() if k != "g_idx"}
    tensors["qzeros"] = torch.zeros(3, 4, dtype=torch.int32)
    refused(tensors, "planar codes of 3 bits", bits=3, checkpoint_format="gptq_p")


def test_tensors_of_another_module_than_the_headers_said() -> None:
    quantizer = AutoHfQuantizer.from_config(CASE.config)
    spec = quantizer.spec_for("model.layer", CASE.tensors)
    with pytest.raises(CheckpointError, match=r"model\.layer: packed with shape \[32, 64\]"):
        quantizer.pack(spec.replace(shape=(16, 64)), CASE.tensors)
    with pytest.raises(CheckpointError, match="g_idx missing"):
        quantizer.pack(spec, {k: t for k, t in CASE.tensors.items() if k != "g_idx"})


def test_marlin_tensors_that_do_not_fit() -> None:
    case = cases("gptq")["gptq_marlin_128"]
    refused({"B": case.tensors["B"]}, "not those of a gptq layer")
    refused({**case.tensors, "s": case.tensors["s"][:, :-1]}, r"\.B: shape")
    refused({**case.tensors, "B": case.tensors["B"].long()}, r"\.B: dtype I64")
    refused(case.tensors, "Marlin layers have 4 bits", bits=8)


def test_sparse_marlin_is_refused_by_name() -> None:
    quantizer = AutoHfQuantizer.from_config(CASE.config)
    headers = {"layer.B_24": Header("I32", (4, 4), 64), "layer.B_meta": Header("I16", (4, 4), 32)}
    with pytest.raises(CheckpointError, match=r"layer\.B_24.*2:4 sparse"):
        quantizer.claims(headers)


def weight(zeros: Tensor, bits: int = 4, **more: object) -> AffineWeight:
    codes = torch.zeros(zeros.shape[0], 32, dtype=torch.uint8)
    scales = torch.ones(zeros.shape, dtype=torch.float16)
    return AffineWeight.from_codes(codes, scales, zeros, bits=bits, group_size=32, **more)


@pytest.mark.parametrize(
    ("layout", "made", "match"),
    [
        ("gptq", weight(torch.zeros(32, 1)), "readers disagree on what a zero-point of 0 becomes"),
        ("gptq_v2", weight(torch.full((32, 1), 16)), "zero-points reach from 16 to 16"),
        ("gptq", weight(torch.full((32, 1), 16)), "zero-points reach from 16 to 16"),
        ("gptq_p", weight(torch.full((33, 1), 3), bits=3), "blocks of 32"),
        ("marlin", weight(torch.full((32, 1), 7)), "zero-points other than 8"),
        ("marlin", weight(torch.full((32, 1), 8)), "rows in multiples of 256"),
    ],
)
def test_what_a_layout_cannot_say_is_refused_with_the_reason(
    layout: str, made: AffineWeight, match: str
) -> None:
    raw = {"quant_method": "gptq", "bits": made.bits, "checkpoint_format": layout}
    with pytest.raises(UnsupportedOperationError, match=match):
        AutoHfQuantizer.from_config(raw).unpack("layer", made)

"""Checkpoint tensors to weights and back, against what the library writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from quantload import AutoHfQuantizer
from quantload.errors import CheckpointError, ConfigError, UnsupportedOperationError
from quantload.plugin import ModuleSpec

Writer = Callable[..., dict[str, Tensor]]
Compare = Callable[[dict[str, Tensor], dict[str, Tensor]], None]

STATE = "weight.quant_state.bitsandbytes__nf4"


def _quantizer(**settings: Any) -> Any:
    return AutoHfQuantizer.from_config({"quant_method": "bitsandbytes", **settings})


SETTINGS = [
    {"quant_type": "nf4"},
    {"quant_type": "fp4"},
    {"quant_type": "nf4", "compress_statistics": True},
    {"quant_type": "fp4", "compress_statistics": True, "quant_storage": torch.float32},
    {"quant_type": "nf4", "quant_storage": torch.bfloat16},
    {"quant_type": "nf4", "quant_storage": torch.float16, "blocksize": 128},
    {"quant_type": "nf4", "blocksize": 32},
    {"quant_type": "fp4", "blocksize": 4096},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", [(64, 128), (48, 96), (8, 40)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_four_bit_files_of_the_library_go_in_and_out_byte_for_byte(
    library_4bit: Writer,
    same_tensors: Compare,
    dtype: torch.dtype,
    shape: tuple[int, int],
    settings: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    original = torch.randn(shape).to(dtype)
    written = library_4bit(original, **settings)
    quantizer = _quantizer(load_in_4bit=True, bnb_4bit_quant_type=settings["quant_type"])
    weight = quantizer.pack("layer", written)
    same_tensors(quantizer.unpack("layer", weight), written)
    assert weight.shape == torch.Size(shape)
    matrix = weight.dequantize(torch.float32)
    assert (matrix - original.float()).abs().max() < 0.75
    x = torch.randn(3, shape[1])
    torch.testing.assert_close(weight.linear(x), x @ matrix.T, rtol=0, atol=1e-5)
    for _ in range(3):
        weight.linear(torch.randn(1, shape[1]).bfloat16())
    same_tensors(quantizer.unpack("layer", weight), written)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_quantizing_writes_what_the_library_writes(
    library_4bit: Writer, same_tensors: Compare, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    original = torch.randn(72, 96).to(dtype)
    quantizer = _quantizer(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings["quant_type"],
        bnb_4bit_use_double_quant=settings.get("compress_statistics", False),
        bnb_4bit_quant_storage=settings.get("quant_storage", torch.uint8),
        bnb_4bit_blocksize=settings.get("blocksize", 64),
    )
    weight = quantizer.quantize(ModuleSpec("layer", shape=(72, 96)), original)
    same_tensors(quantizer.unpack("layer", weight), library_4bit(original, **settings))


@pytest.mark.parametrize("shape", [(64, 128), (33, 95), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_eight_bit_files_go_in_and_out_and_are_made_byte_for_byte(
    library_8bit: Writer, same_tensors: Compare, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    torch.manual_seed(2)
    original = torch.randn(shape).to(dtype)
    written = library_8bit(original)
    quantizer = _quantizer(load_in_8bit=True)
    weight = quantizer.pack("layer", written)
    same_tensors(quantizer.unpack("layer", weight), written)
    made = quantizer.quantize(ModuleSpec("layer", shape=shape), original)
    same_tensors(quantizer.unpack("layer", made), written)
    matrix = weight.dequantize(torch.float32)
    assert (matrix - original.float()).abs().max() < 0.02
    x = torch.randn(4, shape[1])
    torch.testing.assert_close(weight.linear(x), x @ matrix.T, rtol=0, atol=1e-5)


def test_eight_bit_without_a_format_stays_without(
    library_8bit: Writer, same_tensors: Compare
) -> None:
    written = library_8bit(torch.randn(8, 16))
    del written["weight_format"]
    quantizer = _quantizer(load_in_8bit=True)
    same_tensors(quantizer.unpack("a", quantizer.pack("a", written)), written)


def test_the_state_text_is_kept_as_it_is(library_4bit: Writer, same_tensors: Compare) -> None:
    written = library_4bit(torch.randn(16, 64))
    fields = json.loads(bytes(written[STATE].tolist()))
    text = json.dumps({**fields, "somebody": "else's"}, indent=3).encode()
    written[STATE] = torch.tensor(list(text), dtype=torch.uint8)
    quantizer = _quantizer(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    same_tensors(quantizer.unpack("a", quantizer.pack("a", written)), written)


def test_a_map_that_is_not_the_librarys_is_followed(library_4bit: Writer) -> None:
    written = library_4bit(torch.randn(16, 64))
    written["weight.quant_map"] = written["weight.quant_map"] * 0.5
    quantizer = _quantizer(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    halved = quantizer.pack("a", written)
    written["weight.quant_map"] = written["weight.quant_map"] * 2
    whole = quantizer.pack("a", written)
    assert torch.equal(halved.dequantize() * 2, whole.dequantize())
    assert not halved.kernel_params()["standard"]
    assert whole.kernel_params()["standard"]


def test_packing_keeps_the_tensors_and_copies_nothing(
    library_4bit: Writer, library_8bit: Writer
) -> None:
    four = library_4bit(torch.randn(64, 64), quant_storage=torch.bfloat16)
    weight = _quantizer(load_in_4bit=True, bnb_4bit_quant_type="nf4").pack("a", four)
    assert weight.packed.data_ptr() == four["weight"].data_ptr()
    assert weight.absmax.data_ptr() == four["weight.absmax"].data_ptr()
    eight = library_8bit(torch.randn(64, 64))
    weight = _quantizer(load_in_8bit=True).pack("a", eight)
    assert weight.codes.data_ptr() == eight["weight"].data_ptr()


def test_the_tensors_decide_and_the_config_is_only_remarked_upon(
    library_4bit: Writer, library_8bit: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    weight = _quantizer(load_in_8bit=True).pack("a", library_4bit(torch.randn(16, 64)))
    assert weight.layout == "bitsandbytes_4bit"
    assert "the config says llm_int8, the checkpoint's tensors are nf4" in caplog.text
    weight = _quantizer(load_in_4bit=True).pack("a", library_8bit(torch.randn(16, 64)))
    assert weight.layout == "bitsandbytes_8bit"


def _state(tensors: dict[str, Tensor], **changes: Any) -> None:
    fields = {**json.loads(bytes(tensors[STATE].tolist())), **changes}
    kept = {k: v for k, v in fields.items() if v != "DROP"}
    tensors[STATE] = torch.tensor(list(json.dumps(kept).encode()), dtype=torch.uint8)


def _set(key: str, value: Any) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__setitem__(key, value(tensors[key]))


def _without(key: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__delitem__(key)


def _fill(key: str, number: float) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[key] = tensors[key].clone()
        tensors[key][3] = number

    return change


FOUR_BIT_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "no weight": (_without("weight"), r"a: .*weight missing"),
    "no absmax": (_without("weight.absmax"), r"weight\.absmax missing"),
    "no quant_map": (_without("weight.quant_map"), r"weight\.quant_map missing"),
    "no state": (_without(STATE), r"quant_state\.bitsandbytes__nf4 or .* missing"),
    "two states": (
        lambda t: t.update({STATE.replace("nf4", "fp4"): t[STATE]}),
        r"of one type or the other",
    ),
    "unknown type": (
        lambda t: t.update({STATE.replace("nf4", "xf4"): t.pop(STATE)}),
        r"unknown type; known are nf4, fp4",
    ),
    "weight too short": (
        _set("weight", lambda t: t[:-1]),
        r"a\.weight: expected 2048 bytes .*found 2047",
    ),
    "weight of int32": (_set("weight", lambda t: t.to(torch.int32)), r"found 8192 bytes in"),
    "absmax too short": (
        _set("weight.absmax", lambda t: t[:-1]),
        r"weight\.absmax: expected float32 \[64\], found float32 \[63\]",
    ),
    "absmax of half": (
        _set("weight.absmax", lambda t: t.half()),
        r"absmax: expected float32 \[64\], found float16",
    ),
    "absmax NaN": (_fill("weight.absmax", math.nan), r"absmax: expected finite.*nan at \[3\]"),
    "absmax infinite": (_fill("weight.absmax", math.inf), r"absmax: expected finite.*inf"),
    "map of 15": (
        _set("weight.quant_map", lambda t: t[:15]),
        r"quant_map: expected float32 \[16\]",
    ),
    "map NaN": (_fill("weight.quant_map", math.nan), r"quant_map: expected finite"),
    "state no JSON": (
        _set(STATE, lambda t: t[:-5]),
        r"bitsandbytes__nf4: expected JSON text",
    ),
    "state a list": (
        _set(STATE, lambda t: torch.tensor([91, 93], dtype=torch.uint8)),
        r"expected a JSON object, found \[\]",
    ),
    "state not bytes": (_set(STATE, lambda t: t.float()), r"expected uint8 \[n\]"),
    "state no text": (
        _set(STATE, lambda t: torch.full_like(t, 255)),
        r"expected JSON text",
    ),
    "type differs": (lambda t: _state(t, quant_type="fp4"), r"quant_type: expected 'nf4'"),
    "no block size": (lambda t: _state(t, blocksize="DROP"), r"blocksize: .*no such field"),
    "block size 48": (lambda t: _state(t, blocksize=48), r"blocksize: expected one of .*found 48"),
    "block size a list": (lambda t: _state(t, blocksize=[64]), r"blocksize: expected"),
    "other block size": (lambda t: _state(t, blocksize=128), r"absmax: expected float32 \[32\]"),
    "shape of three": (lambda t: _state(t, shape=[2, 32, 64]), r"shape: expected two positive"),
    "shape negative": (lambda t: _state(t, shape=[-64, -64]), r"shape: expected two positive"),
    "shape too large": (lambda t: _state(t, shape=[65, 64]), r"weight: expected 2080 bytes"),
    "no shape": (lambda t: _state(t, shape=None), r"has no shape"),
    "dtype": (lambda t: _state(t, dtype="int8"), r"dtype: expected the name of a float dtype"),
    "says nested": (
        lambda t: _state(t, nested_blocksize=256, nested_dtype="float32", nested_offset=0.1),
        r"says double quantization, and .*nested_absmax is missing",
    ),
}


@pytest.mark.parametrize("fault", FOUR_BIT_FAULTS)
def test_damaged_four_bit_tensors_are_refused_by_name(library_4bit: Writer, fault: str) -> None:
    change, message = FOUR_BIT_FAULTS[fault]
    tensors = library_4bit(torch.randn(64, 64))
    change(tensors)
    quantizer = _quantizer(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    with pytest.raises(CheckpointError, match=message):
        quantizer.pack("a", tensors)


NESTED_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "no nested absmax": (_without("weight.nested_absmax"), r"nested_absmax missing"),
    "no nested map": (_without("weight.nested_quant_map"), r"nested_quant_map missing"),
    "nested absmax too long": (
        _set("weight.nested_absmax", lambda t: torch.cat([t, t])),
        r"nested_absmax: expected float32 \[1\], found float32 \[2\]",
    ),
    "nested map short": (
        _set("weight.nested_quant_map", lambda t: t[1:]),
        r"nested_quant_map: expected float32 \[256\]",
    ),
    "absmax not coded": (
        _set("weight.absmax", lambda t: t.float()),
        r"absmax: expected uint8 \[64\], found float32",
    ),
    "offset NaN": (lambda t: _state(t, nested_offset=math.nan), r"nested_offset: expected a fin"),
    "offset a text": (lambda t: _state(t, nested_offset="1"), r"nested_offset: expected a finite"),
    "nested block 0": (lambda t: _state(t, nested_blocksize=0), r"nested_blocksize: expected a p"),
    "says single": (lambda t: _state(t, nested_blocksize="DROP"), r"says single quantization"),
    "nested NaN": (
        _set("weight.nested_absmax", lambda t: t * math.nan),
        r"nested_absmax: expected finite",
    ),
}


@pytest.mark.parametrize("fault", NESTED_FAULTS)
def test_damaged_nested_tensors_are_refused_by_name(library_4bit: Writer, fault: str) -> None:
    change, message = NESTED_FAULTS[fault]
    tensors = library_4bit(torch.randn(64, 64), compress_statistics=True)
    change(tensors)
    quantizer = _quantizer(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    with pytest.raises(CheckpointError, match=message):
        quantizer.pack("a", tensors)


EIGHT_BIT_FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "no weight": (_without("weight"), r"a: has SCB, and a\.weight is missing"),
    "no scales": (_without("SCB"), r"a\.weight: an int8 weight \[64, 64\] .*a\.SCB is missing"),
    "float weight": (_set("weight", lambda t: t.float()), r"a\.weight: expected int8 .*found F32"),
    "weight of one dimension": (_set("weight", lambda t: t.flatten()), r"expected int8 \[out_"),
    "scales too short": (_set("SCB", lambda t: t[1:]), r"SCB: expected float32 \[64\], found .*63"),
    "scales of half": (_set("SCB", lambda t: t.half()), r"SCB: expected float32 \[64\], found fl"),
    "scales NaN": (_fill("SCB", math.nan), r"a\.SCB: expected finite"),
    "tiled": (
        _set("weight_format", lambda t: t + 1),
        r"weight_format: expected 0 \(rows\), found 1",
    ),
    "format of two": (
        _set("weight_format", lambda t: torch.zeros(2, dtype=torch.uint8)),
        r"weight_format: expected one uint8",
    ),
}


@pytest.mark.parametrize("fault", EIGHT_BIT_FAULTS)
def test_damaged_eight_bit_tensors_are_refused_by_name(library_8bit: Writer, fault: str) -> None:
    change, message = EIGHT_BIT_FAULTS[fault]
    tensors = library_8bit(torch.randn(64, 64))
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        _quantizer(load_in_8bit=True).pack("a", tensors)


def test_a_shape_that_is_not_the_models_is_refused(
    library_4bit: Writer, library_8bit: Writer
) -> None:
    quantizer = _quantizer(load_in_4bit=True)
    tensors = library_4bit(torch.randn(64, 64))
    spec = quantizer.spec_for("a", tensors).replace(shape=(32, 128))
    with pytest.raises(CheckpointError, match=r"shape: expected \[32, 128\], found \[64, 64\]"):
        quantizer.pack(spec, tensors)
    tensors = library_8bit(torch.randn(64, 64))
    spec = quantizer.spec_for("a", tensors).replace(shape=(32, 128))
    with pytest.raises(CheckpointError, match=r"weight: expected int8 \[32, 128\]"):
        quantizer.pack(spec, tensors)


def test_float_layers_are_not_claimed() -> None:
    with pytest.raises(CheckpointError, match="are not those of a bitsandbytes layer"):
        _quantizer(load_in_4bit=True).pack("a", {"weight": torch.zeros(4, 4)})


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("width", ["load_in_4bit", "load_in_8bit"])
def test_a_weight_with_nonfinite_numbers_is_not_quantized(width: str, number: float) -> None:
    original = torch.randn(64, 64)
    original[5, 6] = number
    with pytest.raises(CheckpointError, match=r"model\.up\.weight: expected finite numbers"):
        _quantizer(**{width: True}).quantize(ModuleSpec("model.up"), original)


def test_a_storage_dtype_that_the_bytes_do_not_fill_is_refused() -> None:
    quantizer = _quantizer(load_in_4bit=True, bnb_4bit_quant_storage="float32")
    with pytest.raises(UnsupportedOperationError, match=r"a: 5 bytes .*bnb_4bit_quant_storage"):
        quantizer.quantize(ModuleSpec("a"), torch.randn(2, 5))


def test_quantizing_needs_a_width() -> None:
    quantizer = _quantizer()
    assert "load_in_4bit" in quantizer.can_quantize().reason
    with pytest.raises(ConfigError, match="load_in_4bit"):
        quantizer.quantize(ModuleSpec("a"), torch.randn(2, 4))


def test_nothing_of_the_float_weight_is_kept() -> None:
    for settings in ({"load_in_4bit": True}, {"load_in_8bit": True}):
        original = torch.randn(64, 64)
        weight = _quantizer(**settings).quantize(ModuleSpec("a"), original)
        before = weight.dequantize(torch.float32)
        original.zero_()
        assert torch.equal(weight.dequantize(torch.float32), before)


def test_double_precision_is_quantized_as_single() -> None:
    original = torch.randn(8, 64, dtype=torch.float64)
    for settings in ({"load_in_4bit": True}, {"load_in_8bit": True}):
        quantizer = _quantizer(**settings)
        wide = quantizer.quantize(ModuleSpec("a"), original)
        narrow = quantizer.quantize(ModuleSpec("a"), original.float())
        assert torch.equal(wide.dequantize(torch.float32), narrow.dequantize(torch.float32))

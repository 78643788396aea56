"""What a safetensors file must be to be believed, and what is said where it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from quantload.checkpoint import SafetensorsFile
from quantload.checkpoint.dtypes import BITS
from quantload.errors import CheckpointError


def refused(path: Path, *parts: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert str(path) in message
    for part in parts:
        assert part in message, message
    return message


def test_what_the_safetensors_library_writes_is_read_back_in_file_order(tmp_path):
    path = tmp_path / "any name.safetensors"
    tensors = {
        "b": torch.ones(3, 2, dtype=torch.bfloat16),
        "a": torch.ones(5, dtype=torch.uint8),
        "s": torch.tensor(2, dtype=torch.int64),
        "e": torch.empty(0, 7),
    }
    save_file(tensors, path, metadata={"format": "pt", "é": '\n\u2603 "quoted" \\ {}'})
    file = SafetensorsFile(path)
    assert dict(file.metadata) == {"format": "pt", "é": '\n\u2603 "quoted" \\ {}'}
    assert set(file.tensors) == set(tensors)
    places = [info.offset for info in file.tensors.values()]
    assert places == sorted(places)
    for name, tensor in tensors.items():
        info = file.tensors[name]
        assert (info.name, info.shape, info.nbytes) == (name, tuple(tensor.shape), tensor.nbytes)
        assert info.torch_dtype == tensor.dtype
        assert info.numel == tensor.numel()
        assert info.file == path
    assert file.tensors["e"].nbytes == 0


def test_an_empty_file_of_no_tensors_opens(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({}))
    assert dict(SafetensorsFile(path).tensors) == {}


def test_spelling_json_otherwise_changes_nothing(raw_file):
    text = (
        '{ "\\u0061" :\n{"shape" : [ 2 ],\t"data_offsets":[ 0 , 2 ], "dtype" :"U8", "new": 1 } }  '
    )
    info = SafetensorsFile(raw_file(text, b"ab")).tensors["a"]
    assert (info.dtype, info.shape, info.nbytes) == ("U8", (2,), 2)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 40, 200, -1])
def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path, cut):
    whole = save({"layer.weight": torch.ones(20, 20), "x": torch.ones(4, dtype=torch.uint8)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole[:cut])
    message = refused(path)
    assert "again" in message or "truncated" in message


def test_a_header_longer_than_the_file_is_refused(raw_file):
    refused(raw_file({}, length=1000), "1000 bytes", "truncated")


def test_an_absurd_header_length_is_refused_without_reading_that_much(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)
    refused(path, "at most 100000000", "100000001")
    path.write_bytes(b"\xff" * 64)
    refused(path, "not a safetensors file")


@pytest.mark.parametrize("what", [b"\xff\xfe{}", b'{"a\x80": 1}'])
def test_a_header_that_is_no_utf8_is_refused(raw_file, what):
    refused(raw_file(what), "UTF-8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "1",
        " {}",
        "{",
        "{}x",
        '{"a"}',
        '{"a":1}',
        '{"a":[]}',
        '{"a":{}',
        "{'a':1}",
        '{"a":{},}',
        "{,}",
        '{"a" {}}',
        "[" * 5000,
        '{"a":' * 5000,
        '{"\\ud800":{}}',
        '{"__metadata__":null}',
        '{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}',
        '{"a":{"x":NaN}}',
        '{"a":{"x":' + "9" * 5000 + "}}",
    ],
)
def test_a_header_that_is_not_the_json_of_the_format_is_refused(raw_file, text):
    refused(raw_file(text, b"\0"))


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets", "said"),
    [
        ("F33", [1], [0, 4], "expected a dtype"),
        (["F32"], [1], [0, 4], "expected a dtype"),
        (None, [1], [0, 4], "expected a dtype"),
        ("F32", [-1], [0, 4], "shape"),
        ("F32", [1.0], [0, 4], "shape"),
        ("F32", [True], [0, 4], "shape"),
        ("F32", "1", [0, 4], "shape"),
        ("F32", None, [0, 4], "shape"),
        ("F32", [2**70], [0, 4], "too many elements"),
        ("F32", [2**62, 2**62], [0, 4], "too many elements"),
        ("F32", [0, 2**40, 2**40], [0, 0], "too many elements"),
        ("F32", [1] * 65, [0, 4], "64 dimensions"),
        ("F32", [1], [0, 3], "takes 4 bytes, found data_offsets of 3"),
        ("F32", [2], [0, 4], "takes 8 bytes"),
        ("F32", [0], [0, 4], "takes 0 bytes"),
        ("F4", [3], [0, 2], "12 bits"),
        ("F32", [1], [4, 0], "ascend"),
        ("F32", [1], [-4, 0], "data_offsets"),
        ("F32", [1], [0], "data_offsets"),
        ("F32", [1], [0, 4, 4], "data_offsets"),
        ("F32", [1], ["0", "4"], "data_offsets"),
        ("F32", [1], None, "data_offsets"),
        ("F32", [1], [4, 8], "truncated"),
        ("F32", [1], [2**64, 2**64 + 4], "truncated"),
    ],
)
def test_a_wrong_entry_is_refused_with_the_name_of_the_tensor(
    raw_file, dtype, shape, offsets, said
):
    header = {"model.w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    refused(raw_file(header, b"\0" * 4), "'model.w'", said)


def test_overlapping_tensors_are_refused_with_both_names(raw_file, entry):
    header = {"a": entry("U8", [3], 0, 3), "b": entry("U8", [2], 2, 4)}
    refused(raw_file(header, b"\0" * 4), "'a'", "'b'", "overlap")


def test_the_same_bytes_under_two_names_are_refused(raw_file, entry):
    header = {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 0, 4)}
    refused(raw_file(header, b"\0" * 4), "overlap")


def test_bytes_that_no_tensor_claims_are_refused(raw_file, entry):
    gap = {"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 3, 4)}
    refused(raw_file(gap, b"\0" * 4), "leave a gap", "'b'")
    refused(raw_file({"a": entry("U8", [1], 1, 2)}, b"\0" * 2), "leave a gap")
    refused(raw_file({"a": entry("U8", [1], 0, 1)}, b"\0" * 9), "8 bytes more")


def test_empty_tensors_take_no_place(raw_file, entry):
    header = {
        "e": entry("F32", [0, 2], 2, 2),
        "a": entry("U8", [2], 0, 2),
        "b": entry("I8", [0], 0, 0),
    }
    assert list(SafetensorsFile(raw_file(header, b"\0" * 2)).tensors) == ["b", "a", "e"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a":%s,"a":%s}',
        '{"a":%s,"\\u0061":%s}',
        '{"__metadata__":{"k":"1"},"a":%s,"__metadata__":{}}',
        '{"__metadata__":{"k":"1","k":"2"},"a":%s}',
        '{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
    ],
)
def test_duplicate_names_are_refused(raw_file, text):
    usual = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    refused(raw_file(text.replace("%s", usual), b"\0"), "twice")


@pytest.mark.parametrize("value", ["1", "null", "[]", "{}", "true"])
def test_metadata_that_is_not_text_is_refused(raw_file, value):
    refused(raw_file('{"__metadata__":{"key":' + value + "}}"), "'key'", "__metadata__")


def test_every_dtype_of_the_format_is_listed(raw_file):
    header, at = {}, 0
    for dtype, bits in BITS.items():
        header[dtype] = {"dtype": dtype, "shape": [8], "data_offsets": [at, at + bits]}
        at += bits
    found = SafetensorsFile(raw_file(header, bytes(at))).tensors
    assert [(i.dtype, i.nbytes) for i in found.values()] == list(BITS.items())


def test_names_in_messages_are_cut_and_escaped(raw_file, entry):
    name = "\x1b[31m" + "n" * 100_000
    message = refused(raw_file({name: entry("U8", [2], 0, 1)}, b"\0"))
    assert len(message) < 1000
    assert "\x1b" not in message


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    refused(tmp_path / "absent.safetensors", "cannot be opened")
    refused(tmp_path, "regular file")
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    refused(pipe, "regular file")


def test_an_error_leaves_no_file_open(raw_file, open_files):
    path = raw_file("{", b"")
    before = open_files()
    for _ in range(20):
        refused(path)
    assert open_files() == before


def test_a_header_of_many_tensors_is_read_quickly(raw_file):
    import time

    header = {
        f"model.layers.{i}.mlp.experts.{i % 64}.up_proj.weight": {
            "dtype": "BF16",
            "shape": [4, 8],
            "data_offsets": [64 * i, 64 * i + 64],
        }
        for i in range(10_000)
    }
    text = json.dumps(header, separators=(",", ":"))
    path = raw_file(text, bytes(640_000))
    begin = time.process_time()
    assert len(SafetensorsFile(path).tensors) == 10_000
    assert time.process_time() - begin < 0.3

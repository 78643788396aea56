"""Damaged and hostile headers: a `CheckpointError` or the truth, soon, and in little memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantload.checkpoint.header import parse_header
from quantload.errors import CheckpointError

GOOD = (
    b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
    b'"b.w":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}   '
)
SIZE = 8 + len(GOOD) + 32


def parse(raw: bytes, size: int = SIZE) -> None:
    """Either refuse, or give tensors that lie in the file, disjoint and complete."""
    refusal = None
    try:
        tensors, metadata = parse_header(raw, Path("f.safetensors"), size)
    except CheckpointError as error:
        refusal = str(error)
    if refusal is not None:
        assert len(refusal.encode()) < 2000
        return
    assert all(isinstance(part, str) for pair in metadata.items() for part in pair)
    at = 8 + len(raw)
    for name, info in tensors.items():
        assert info.name == name
        assert info.offset == at
        at += info.nbytes
    assert at == size


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_changed_bytes(changes):
    raw = bytearray(GOOD)
    for at, value in changes:
        raw[at] = value
    parse(bytes(raw))


_TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"-",
    b"1e9",
    b"null",
    b"true",
    b'"dtype"',
    b'"shape"',
    b'"U8"',
    b'"__metadata__":{',
    b'"a":',
    b"[0,1]",
    b"9" * 30,
    b"\\u0000",
    b"\\ud800",
    b"\xf0\x9f\x98\x80",
    b" ",
    b"0.5",
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.integers(0, len(GOOD)), st.integers(0, 40), st.lists(st.sampled_from(_TOKENS), max_size=6)
)
def test_cut_and_pasted_tokens(at, cut, tokens):
    parse(GOOD[:at] + b"".join(tokens) + GOOD[at + cut :])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BF16", "F4"]) | _json,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | _json,
        "data_offsets": st.lists(st.integers(-1, 33), min_size=2, max_size=2) | _json,
    }
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.text(max_size=10) | st.just("__metadata__"), _entries | _json, max_size=4)
)
def test_json_of_other_shapes(header):
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    parse(raw, 8 + len(raw) + 32)


_HOSTILE = {
    "empty arrays in an entry": (b'{"a":{"shape":[', b"[],", b"]}}"),
    "empty objects": (b'{"a":[', b"{},", b"]}"),
    "deep arrays": (b"", b"[", b""),
    "deep objects": (b"", b'{"a":', b""),
    "one long key": (b'{"', b"x", b'":1}'),
    "one long escaped key": (b'{"', b"\\\\", b'":1}'),
    "no end of a key": (b'{"', b"x", b""),
    "white space": (b"{", b" ", b"x"),
    "quotes": (b'{"a":', b'"', b""),
    "one long number": (b'{"a":', b"9", b"}"),
    "a long shape": (b'{"a":{"dtype":"U8","shape":[', b"1,", b"1]}}"),
    "emoji": (b'{"', "😀".encode(), b'":1}'),
    "text instead": (b"", b"lorem ipsum ", b""),
}

_CHILD = """
import resource, sys, time
from pathlib import Path
from quantload.checkpoint.header import parse_header
from quantload.errors import CheckpointError
first, repeated, last, total = (eval(arg) for arg in sys.argv[1:])
raw = first + repeated * (total // len(repeated)) + last
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.process_time()
try:
    parse_header(raw, Path("f"), len(raw) + 8)
except CheckpointError:
    spent = time.process_time() - begin
    print(spent, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("kind", _HOSTILE)
def test_a_large_hostile_header_is_refused_in_bounded_time_and_memory(kind):
    megabytes = 20
    arguments = [repr(part) for part in (*_HOSTILE[kind], megabytes * 1_000_000)]
    run = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, timeout=60
    )
    assert run.stdout, run.stderr
    seconds, grown = map(float, run.stdout.split())
    assert seconds < 2
    assert grown < 12 * megabytes


def test_many_valid_tensors_cost_a_bounded_multiple_of_the_header():
    count = 50_000
    raw = (
        b"{"
        + b",".join(
            b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(count)
        )
        + b"}"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensors, _ = parse_header(raw, Path("f"), len(raw) + 8)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert len(tensors) == count
    assert grown < 15 * len(raw)

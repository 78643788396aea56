"""Damaged and hostile files end in an error that says what is wrong, soon and in little memory."""

import random
import resource
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantload.errors import CheckpointError
from quantload_gguf import open_gguf

U32, STRING, ARRAY, U8, U64 = 4, 8, 9, 0, 10


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name, dims=(32,), kind=2, offset=0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def build(fields=(), tensors=(), data=b"\0" * 64, *, counts=None, version=3, magic=b"GGUF"):
    n_tensors, n_fields = counts or (len(tensors), len(fields))
    head = magic + struct.pack("<IQQ", version, n_tensors, n_fields)
    head += b"".join(fields) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + body


deep = b"".join(array(ARRAY, 1) for _ in range(100_000)) + array(U8, 0)
BILLIONS = 3_000_000_000
DAMAGED = {
    "nothing": (b"", "0 bytes"),
    "only the magic": (b"GGUF", "4 bytes"),
    "a wrong magic": (build(magic=b"GGUX"), "begins with b'GGUF'; found b'GGUX'"),
    "an old format": (build(magic=b"tjgg"), "older format GGJT"),
    "a git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "version 1": (build(version=1), "version 2 or 3 of GGUF, found 1"),
    "version 4": (build(version=4), "found 4.*pip install -U"),
    "version 2 big-endian": (build(version=2 << 24), r"found 2 \(big endian\)"),
    "billions of tensors": (build(counts=(BILLIONS, 0)), f"claims {BILLIONS} tensors"),
    "billions of entries": (build(counts=(0, BILLIONS)), f"claims {BILLIONS} metadata"),
    "all ones as counts": (build(counts=(2**64 - 1,) * 2), "claims 18446744073709551615"),
    "one tensor too many": (build(counts=(1, 0), data=b""), "claims 1 tensors"),
    "a key without an end": (build([struct.pack("<Q", BILLIONS)], counts=(0, 1)), "metadata key"),
    "a key that is not UTF-8": (build([entry(b"a\xff", U8, b"\1")]), "key is not UTF-8"),
    "a value that is not UTF-8": (build([entry("k", STRING, text(b"\xc3("))]), "'k' is not UTF-8"),
    "an item that is not UTF-8": (
        build([entry("k", ARRAY, array(STRING, 2, text("a") + text(b"\xf8")))]),
        "'k': entry 1 is not UTF-8",
    ),
    "an empty key": (build([entry("", U8, b"\1")]), "an empty one"),
    "a key twice": (build([entry("k", U8, b"\1")] * 2), "'k' a second time"),
    "an unknown value type": (build([entry("k", 13, b"\1" * 8)]), "value type 13"),
    "an unknown item type": (build([entry("k", ARRAY, array(99, 1, b"\1" * 8))]), "value type 99"),
    "billions of items": (
        build([entry("k", ARRAY, array(U8, BILLIONS))]),
        f"array of {BILLIONS} items",
    ),
    "billions of strings": (
        build([entry("k", ARRAY, array(STRING, BILLIONS))]),
        f"array of {BILLIONS} items",
    ),
    "a product that overflows": (
        build([entry("k", ARRAY, array(U64, 2**61))]),
        "array of 2305843009213693952 items",
    ),
    "arrays in arrays in arrays": (build([entry("k", ARRAY, deep)]), "nested deeper than 8"),
    "an alignment of zero": (
        build([entry("general.alignment", U32, struct.pack("<I", 0))]),
        "general.alignment is 0, expected a power of two",
    ),
    "an alignment of 24": (
        build([entry("general.alignment", U32, struct.pack("<I", 24))]),
        "general.alignment is 24",
    ),
    "an alignment that is a string": (
        build([entry("general.alignment", STRING, text("32"))]),
        "general.alignment is '32'",
    ),
    "a tensor twice": (build(tensors=[tensor("t")] * 2), "two tensors are called 't'"),
    "a tensor without a name": (build(tensors=[tensor("")]), "expected the name of a tensor"),
    "a name that is not UTF-8": (build(tensors=[tensor(b"\xff")]), "name is not UTF-8"),
    "billions of dimensions": (
        build(tensors=[text("t") + struct.pack("<I", BILLIONS)], counts=(1, 0)),
        f"claims {BILLIONS} dimensions",
    ),
    "a shape that overflows": (
        build(tensors=[tensor("t", (2**32, 2**32))]),
        r"Q4_0 \[4294967296, 4294967296\] takes",
    ),
    "a shape that overflows behind a zero": (
        build(tensors=[tensor("t", (2**62, 2**62, 0))]),
        "takes 0 bytes",
    ),
    "a row that ends in a block": (build(tensors=[tensor("t", (40,))]), "blocks of 32 that Q4_0"),
    "a scalar of blocks": (build(tensors=[tensor("t", ())]), "blocks of 32 that Q4_0"),
    "an unknown type": (build(tensors=[tensor("t", kind=999)]), "ggml type 999 is unknown"),
    "a retired type": (build(tensors=[tensor("t", kind=4)]), r"Q4_2\) was retired"),
    "an offset past the end": (
        build(tensors=[tensor("t", offset=1 << 40)]),
        "expected 18 bytes at 1099511627",
    ),
    "a tensor cut short": (build(tensors=[tensor("t")], data=b"\0" * 17), "expected 18 bytes at"),
    "an offset out of line": (build(tensors=[tensor("t", offset=8)]), "no multiple of the align"),
    "two tensors in one place": (
        build(tensors=[tensor("a", (64,)), tensor("b", offset=32)]),
        "'b': begins at .* inside of tensor 'a'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_says_what_is_wrong(name, tmp_path):
    data, says = DAMAGED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(CheckpointError, match=says) as caught:
        open_gguf(path)
    assert time.process_time() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def sparse(path: Path, head: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


LARGE = {
    "a string of gigabytes": build([entry("k", STRING, struct.pack("<Q", 3 << 30))], data=b""),
    "a key of gigabytes": build([struct.pack("<Q", 3 << 30)], counts=(0, 1), data=b""),
    "half a billion strings": build([entry("k", ARRAY, array(STRING, 1 << 28))], data=b""),
    "a billion bytes": build([entry("k", ARRAY, array(U8, 1 << 30))], data=b""),
    "many arrays": build([entry("k", ARRAY, array(ARRAY, 1 << 20))], data=b""),
    "millions of tensors": build(counts=(10_000_000, 0), data=b""),
    "thousands of tensors": build(counts=(100_000, 0), data=b""),
    "thousands of entries": build(counts=(0, 60_000), data=b""),
}


@pytest.mark.parametrize("name", LARGE)
def test_counts_that_a_large_file_could_hold_are_bounded_too(name, tmp_path):
    path = sparse(tmp_path / "model.gguf", LARGE[name], 4 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(CheckpointError):
        open_gguf(path)
    assert time.process_time() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def many_tensors(count: int) -> bytes:
    return build(tensors=[tensor(f"t{i}", (1,) * 8, 0, 32 * i) for i in range(count)], data=b"")


def many_strings(count: int) -> bytes:
    return build([entry("k", ARRAY, array(STRING, count, text("") * count))], [tensor("")])


LONG = {"tensors": (many_tensors, 1 << 15), "strings": (many_strings, (1 << 21) - 8)}


@pytest.mark.parametrize("what", LONG)
def test_the_longest_headers_that_are_read_take_no_longer(what, tmp_path):
    make, count = LONG[what]
    path = tmp_path / "model.gguf"
    path.write_bytes(make(count))
    started = time.process_time()
    with pytest.raises(CheckpointError, match=str(path)):
        open_gguf(path)
    assert time.process_time() - started < 3


def test_every_truncation_is_noticed(write_gguf, quantized):
    def fill(writer):
        writer.add_string("a.string", "some text")
        writer.add_array("a.list", ["x", "yz"])

    path = write_gguf({"t": quantized("Q8_0", (2, 32)), "u": np.ones(7, np.float32)}, fill)
    data = path.read_bytes()
    end = open_gguf(path).tensors["u"].offset + 28
    for length in range(end):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            open_gguf(path)


@pytest.mark.parametrize("what", ["folder", "absent", "pipe"])
def test_what_is_no_file_is_refused(what, tmp_path):
    import os

    path = tmp_path / "model.gguf"
    if what == "folder":
        path.mkdir()
    if what == "pipe":
        os.mkfifo(path)
    with pytest.raises(CheckpointError):
        open_gguf(path)


@pytest.fixture(scope="module")
def seed(tmp_path_factory) -> bytes:
    """A small file with something of everything, to be mutated."""
    path = tmp_path_factory.mktemp("seed") / "seed.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "汉"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.0, -2.0])
    writer.add_key_value("nested", [[1, 2], [3]], gguf.GGUFValueType.ARRAY)
    writer.add_custom_alignment(64)
    writer.add_bool("flag", True)
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    for kind in ("Q4_0", "Q8_0"):
        kind = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("f", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


INTERESTING = [0, 1, 2**7, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
mutation = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, 1 << 16), st.integers(0, 255)),
    st.tuples(st.just("u32"), st.integers(0, 1 << 16), st.sampled_from(INTERESTING)),
    st.tuples(st.just("u64"), st.integers(0, 1 << 16), st.sampled_from(INTERESTING)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.just(0)),
    st.tuples(st.just("drop"), st.integers(0, 1 << 16), st.integers(1, 64)),
    st.tuples(st.just("repeat"), st.integers(0, 1 << 16), st.integers(1, 64)),
)


def mutate(data: bytes, mutations) -> bytes:
    found = bytearray(data)
    for kind, where, value in mutations:
        at = where % max(len(found), 1)
        if kind == "byte" and found:
            found[at] = value
        elif kind in ("u32", "u64"):
            code, width = ("<I", 4) if kind == "u32" else ("<Q", 8)
            found[at : at + width] = struct.pack(code, value % (1 << (8 * width)))
        elif kind == "cut":
            del found[at:]
        elif kind == "drop":
            del found[at : at + value]
        elif kind == "repeat":
            found[at:at] = found[at : at + value]
    return bytes(found)


def survives(path: Path, data: bytes) -> None:
    """The file opens and every tensor of it reads, or an error names it; in time, in memory."""
    path.write_bytes(data)
    started = time.process_time()
    try:
        with open_gguf(path) as file:
            for name, info in file.tensors.items():
                assert file.read(name).nbytes == info.nbytes
                assert file.read(name, device="meta").shape == info.torch_shape
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017  many files open well
    assert time.process_time() - started < 3


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations=st.lists(mutation, min_size=1, max_size=6))
def test_mutated_files_open_or_say_why_not(mutations, seed, tmp_path_factory):
    survives(tmp_path_factory.getbasetemp() / "mutated.gguf", mutate(seed, mutations))


def random_mutation(rng: random.Random, length: int) -> tuple[str, int, int]:
    kind = rng.choice(("byte", "u32", "u64", "cut", "drop", "repeat"))
    value = rng.choice(INTERESTING) if kind in ("u32", "u64") else rng.randrange(256)
    return kind, rng.randrange(length), value


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_minutes_of_mutated_files(seed, tmp_path):
    rng = random.Random(20260101)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + 600
    rounds = 0
    while time.monotonic() < end:
        mutations = [random_mutation(rng, len(seed)) for _ in range(rng.randint(1, 8))]
        survives(tmp_path / "mutated.gguf", mutate(seed, mutations))
        rounds += 1
    assert rounds > 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_more_experts_than_tensors_are_noticed_at_once(tmp_path):
    """The number is one of the model's keys: two million of them took half a minute to look for."""
    from quantload_gguf.model import GgufModel

    writer = gguf.GGUFWriter(tmp_path / "experts.gguf", "qwen3moe")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_expert_count(2097154)
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((2, 32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    started = time.process_time()
    with pytest.raises(CheckpointError, match="expert_count is 2097154"):
        GgufModel.open(tmp_path / "experts.gguf").config()
    assert time.process_time() - started < 3

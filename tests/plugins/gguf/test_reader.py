"""Reading whole, well-formed files: metadata of every type, tensors, split models."""

import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFEndian, GGUFValueType

from quantload import open_checkpoint
from quantload.errors import CheckpointError
from quantload_gguf import GgufFile, open_gguf
from quantload_gguf.container import ValueType

MATRIX = np.arange(24, dtype=np.float32).reshape(4, 6)


def every_value(writer: gguf.GGUFWriter) -> None:
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -100)
    writer.add_uint16("t.u16", 60000)
    writer.add_int16("t.i16", -30000)
    writer.add_uint32("t.u32", 4_000_000_000)
    writer.add_int32("t.i32", -2_000_000_000)
    writer.add_float32("t.f32", 0.1)
    writer.add_bool("t.bool", True)
    writer.add_string("t.str", "naïve 汉字 🦙")
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -(2**63))
    writer.add_float64("t.f64", 0.1)
    writer.add_array("t.strings", ["", "é", "汉字"])
    writer.add_array("t.floats", [0.5, -0.25])
    writer.add_array("t.bools", [True, False, True])
    writer.add_array("t.ints", [1, -2, 3])
    writer.add_key_value("t.u64s", [2**63], GGUFValueType.ARRAY, sub_type=GGUFValueType.UINT64)
    writer.add_key_value("t.nested", [[1, 2], [3]], GGUFValueType.ARRAY)


EXPECTED = {
    "t.u8": 200,
    "t.i8": -100,
    "t.u16": 60000,
    "t.i16": -30000,
    "t.u32": 4_000_000_000,
    "t.i32": -2_000_000_000,
    "t.f32": float(np.float32(0.1)),
    "t.bool": True,
    "t.str": "naïve 汉字 🦙",
    "t.u64": 2**64 - 1,
    "t.i64": -(2**63),
    "t.f64": 0.1,
    "t.strings": ["", "é", "汉字"],
    "t.floats": [0.5, -0.25],
    "t.bools": [True, False, True],
    "t.ints": [1, -2, 3],
    "t.u64s": [2**63],
    "t.nested": [[1, 2], [3]],
}


@pytest.mark.parametrize("endian", [GGUFEndian.LITTLE, GGUFEndian.BIG])
def test_every_type_of_metadata(write_gguf, endian):
    with open_gguf(write_gguf(fill=every_value, endianess=endian)) as file:
        found = dict(file.metadata)
        assert found.pop("general.architecture") == "llama"
        assert found == EXPECTED
        assert all(type(found[key]) is type(value) for key, value in EXPECTED.items())
        assert file.fields["t.u8"].type is ValueType.UINT8
        assert file.fields["t.strings"].item_type is ValueType.STRING
        assert file.big_endian == (endian is GGUFEndian.BIG)


def test_tensors_are_found_by_name_with_torch_shapes(write_gguf, quantized):
    blocks, _ = quantized("Q4_0", (3, 5, 64))
    path = write_gguf({"a": MATRIX, "b": (blocks, "Q4_0"), "c": MATRIX.astype(np.float16)})
    with open_gguf(path) as file:
        assert list(file.tensors) == ["a", "b", "c"]
        assert [t.dtype for t in file.tensors.values()] == ["F32", "Q4_0", "F16"]
        packed = file.tensors["b"]
        assert (packed.shape, packed.torch_shape) == ((3, 5, 64), (3, 5, 36))
        assert (packed.torch_dtype, packed.nbytes) == (torch.uint8, 540)
        assert torch.equal(file.read("a"), torch.from_numpy(MATRIX))
        assert torch.equal(file.read("b"), torch.from_numpy(blocks))
        assert torch.equal(file.read("b", rows=slice(1, 2)), torch.from_numpy(blocks[1:2]))
        assert file.read("b", device="meta").shape == (3, 5, 36)
        assert file.read("c").dtype == torch.float16
        expected = gguf.quants.dequantize(blocks, GGMLQuantizationType.Q4_0)
        assert torch.equal(file.dequantize("b"), torch.from_numpy(expected))


@pytest.mark.parametrize(
    "kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
)
def test_big_endian_blocks_are_turned_around(write_gguf, quantized, kind):
    from quantload_gguf import ggml_type

    blocks, _ = quantized(kind, (3, 256))
    swapped = blocks.reshape(-1, ggml_type(kind).nbytes).copy()
    for offset, count, width in ggml_type(kind).wide:
        field = swapped[:, offset : offset + count * width].reshape(-1, count, width)
        swapped[:, offset : offset + count * width] = field[..., ::-1].reshape(len(swapped), -1)
    swapped = swapped.reshape(blocks.shape)
    half = MATRIX.astype(np.float16)
    path = write_gguf({"w": (swapped, kind), "h": half}, endianess=GGUFEndian.BIG)
    with open_gguf(path) as file:
        for _ in range(2):
            assert torch.equal(file.read("w"), torch.from_numpy(blocks))
        assert torch.equal(file.read("w", rows=slice(1, 3)), torch.from_numpy(blocks[1:3]))
        assert torch.equal(file.read("h"), torch.from_numpy(half))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "TQ2_0", "MXFP4"])
def test_big_endian_blocks_that_the_gguf_package_left_as_they_are(write_gguf, quantized, kind):
    blocks, _ = quantized(kind, (4, 256))
    path = write_gguf({"w": (blocks, kind), "f": MATRIX.copy()}, endianess=GGUFEndian.BIG)
    expected = gguf.GGUFReader(path).get_tensor(0).data
    with open_gguf(path) as file:
        assert file.big_endian
        assert np.array_equal(file.read("w").numpy(), expected)
        assert torch.equal(file.read("w", rows=slice(2, 4)), torch.from_numpy(blocks[2:4]))
        assert torch.equal(file.read("f"), torch.from_numpy(MATRIX))
    # As ggml has it where a single scale shows nothing.
    zeros = np.zeros_like(blocks)
    with open_gguf(write_gguf({"w": (zeros, kind)}, endianess=GGUFEndian.BIG)) as file:
        assert not file.read("w").any()


def test_a_model_in_a_big_endian_file_of_the_gguf_package(write_gguf, sane_blocks):
    blocks = {kind: sane_blocks(kind, 8, 2).numpy() for kind in ("Q4_K", "IQ2_XXS", "IQ4_XS")}
    tensors = {kind: (data, kind) for kind, data in blocks.items()}
    with open_gguf(write_gguf(tensors, endianess=GGUFEndian.BIG)) as file:
        for kind, data in blocks.items():
            assert np.array_equal(file.read(kind).numpy(), data)


def test_big_endian_blocks_in_one_dimension(write_gguf, quantized):
    blocks, kind = quantized("Q8_0", (1, 64))
    with open_gguf(write_gguf({"w": (blocks[0], kind)}, endianess=GGUFEndian.BIG)) as file:
        assert file.read("w").shape == (68,)


INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.float64]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("endian", [GGUFEndian.LITTLE, GGUFEndian.BIG])
def test_types_of_plain_numbers(write_gguf, dtype, endian):
    values = np.arange(-3, 3).reshape(2, 3).astype(dtype)
    with open_gguf(write_gguf({"t": values.copy()}, endianess=endian)) as file:
        assert np.array_equal(file.read("t").numpy(), values)
        assert file.read("t").numpy().dtype == dtype
        assert torch.equal(file.dequantize("t"), torch.from_numpy(values).float())


def test_tensors_without_elements_and_scalars(write_gguf):
    tensors = {
        "none": np.zeros((0, 32), np.float32),
        "no blocks": (np.zeros((0, 18), np.uint8), "Q4_0"),
        "one": np.float32(3).reshape(()),
        "a": MATRIX,
    }
    with open_gguf(write_gguf(tensors)) as file:
        assert file.read("none").shape == (0, 32)
        assert file.read("no blocks").shape == (0, 18)
        assert float(file.read("one")) == 3
        assert torch.equal(file.read("a"), torch.from_numpy(MATRIX))


def test_offsets_past_four_gibibytes(write_gguf, tmp_path):
    import struct

    path, far = tmp_path / "large.gguf", 5 << 30
    table = b"".join(
        struct.pack("<Q", 1) + name + struct.pack("<IQIQ", 1, 6, 0, offset)
        for name, offset in ((b"a", 0), (b"b", far))
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + table
    start = -(-len(head) // 32) * 32
    with path.open("wb") as file:
        file.write(head)
        file.seek(start + far)  # a hole, which takes no room
        file.write(MATRIX[1].tobytes())
    for mmap in (True, False):
        with open_gguf(path, mmap=mmap) as opened:
            assert torch.equal(opened.read("b"), torch.from_numpy(MATRIX[1]))
            assert not opened.read("a").any()


def test_blocks_stay_when_the_file_is_closed_and_gone(write_gguf, quantized):
    path = write_gguf({"w": quantized("Q8_0", (8, 64))})
    with open_gguf(path) as file:
        weight = file.weight("w")
    expected = weight.dequantize()
    path.unlink()
    assert torch.equal(weight.dequantize(), expected)


@pytest.mark.parametrize("name", ["a name with ü.gguf", "UPPER.GGUF", "v1.0-it_Q8.0.gguf"])
def test_names_of_files(write_gguf, name):
    path = write_gguf({"a": MATRIX}, name=name)
    for given in (path, str(path)):
        with open_gguf(given) as file:
            assert torch.equal(file.read("a"), torch.from_numpy(MATRIX))
    with open_checkpoint(path) as file:
        assert isinstance(file, GgufFile)


def test_opening_needs_neither_torch_nor_the_gguf_package(write_gguf):
    path = write_gguf({"a": MATRIX}, every_value)
    code = (
        "import sys\n"
        "from quantload_gguf import open_gguf\n"
        "import quantload_gguf.plugin\n"
        "file = open_gguf(sys.argv[1])\n"
        "assert file.tensors['a'].shape == (4, 6) and file.nbytes == 96\n"
        "print(*{'torch', 'gguf', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_the_core_opens_it_by_its_suffix(write_gguf):
    with open_checkpoint(write_gguf({"a": MATRIX})) as file:
        assert isinstance(file, GgufFile)  # it describes no model: it lacks what a llama needs
        assert file.architecture == "llama"


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_other_alignments(write_gguf, alignment):
    tensors = {"a": MATRIX[0], "b": MATRIX, "c": MATRIX[:1]}
    path = write_gguf(tensors, lambda w: w.add_custom_alignment(alignment))
    with open_gguf(path) as file:
        assert file.alignment == alignment
        assert all(t.offset % alignment == 0 for t in file.tensors.values())
        for name, array in tensors.items():
            assert torch.equal(file.read(name), torch.from_numpy(array))


def test_version_two_is_read(write_gguf):
    path = write_gguf({"a": MATRIX}, every_value)
    data = bytearray(path.read_bytes())
    data[4] = 2
    path.write_bytes(data)
    with open_gguf(path) as file:
        assert file.metadata["t.str"] == EXPECTED["t.str"]
        assert torch.equal(file.read("a"), torch.from_numpy(MATRIX))


def test_writing_to_a_tensor_does_not_change_the_file(write_gguf):
    path = write_gguf({"a": MATRIX})
    before = path.read_bytes()
    with open_gguf(path) as file:
        file.read("a").zero_()
    with open_gguf(path) as file:
        assert torch.equal(file.read("a"), torch.from_numpy(MATRIX))
    assert path.read_bytes() == before


def test_a_closed_file_says_so_and_its_tensors_stay(write_gguf):
    file = open_gguf(write_gguf({"a": MATRIX}))
    kept = file.read("a")
    file.close()
    assert torch.equal(kept, torch.from_numpy(MATRIX))
    with pytest.raises(CheckpointError, match="was closed"):
        file.read("a")


def split_model(write_gguf, **options):
    tensors = {f"blk.{i}.w": MATRIX + i for i in range(5)}
    path = write_gguf(tensors, every_value, name="m.gguf", split_max_tensors=2, **options)
    return sorted(path.parent.glob("m-*.gguf")), tensors


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_split_model_is_opened_from_any_of_its_files(write_gguf, which, first):
    paths, tensors = split_model(write_gguf, small_first_shard=first)
    assert len(paths) == 3 + first
    with open_gguf(paths[which]) as file:
        assert list(file.files) == paths
        assert file.metadata["t.str"] == EXPECTED["t.str"]
        assert list(file.tensors) == list(tensors)
        for name, array in tensors.items():
            assert torch.equal(file.read(name), torch.from_numpy(array))


@pytest.mark.parametrize("absent", [0, 2])
def test_a_split_model_without_one_of_its_files_is_refused(write_gguf, absent):
    paths, _ = split_model(write_gguf)
    paths[absent].unlink()
    with pytest.raises(CheckpointError, match=f"1 of them are absent: {paths[absent].name}"):
        open_gguf(paths[1])


def test_a_part_under_another_name_is_refused(write_gguf):
    paths, _ = split_model(write_gguf)
    renamed = paths[0].rename(paths[0].with_name("renamed.gguf"))
    with pytest.raises(CheckpointError, match="NAME-00001-of-00003"):
        open_gguf(renamed)


def test_parts_of_different_models_are_refused(write_gguf):
    paths, _ = split_model(write_gguf)
    paths[1].write_bytes(paths[2].read_bytes())
    with pytest.raises(CheckpointError, match=r"expected part 1 of 3.*found part 2 of 3"):
        open_gguf(paths[0])


def test_a_split_model_that_lost_a_tensor_is_refused(write_gguf):
    paths, _ = split_model(write_gguf)
    data = paths[0].read_bytes()
    at = data.index(b"split.tensors.count") + len(b"split.tensors.count") + 4
    paths[0].write_bytes(data[:at] + bytes([7]) + data[at + 1 :])
    with pytest.raises(CheckpointError, match="expected 7 tensors in 3 files"):
        open_gguf(paths[0])

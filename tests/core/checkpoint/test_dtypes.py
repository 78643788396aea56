"""Every dtype goes out to a file and comes back the same, byte for byte."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from quantload.checkpoint import TensorInfo, open_checkpoint, save_checkpoint
from quantload.checkpoint.dtypes import BITS, dtype_name, torch_dtype
from quantload.errors import CheckpointError

NO_TORCH = {"F6_E2M3", "F6_E3M2"}
TORCH = sorted(set(BITS) - NO_TORCH)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(
        a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
    )


def of_dtype(name: str, *shape: int) -> torch.Tensor:
    dtype = torch_dtype(name)
    size = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(
        0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(7)
    )
    if name == "BOOL":
        raw &= 1
    return raw.view(dtype).reshape(shape)


@pytest.fixture
def all_dtypes() -> dict[str, torch.Tensor]:
    tensors = {}
    for name in TORCH:
        tensors[f"{name}.matrix"] = of_dtype(name, 3, 8)
        tensors[f"{name}.odd"] = of_dtype(name, 1, 3)
        tensors[f"{name}.empty"] = of_dtype(name, 0, 2)
        if name != "F4":
            tensors[f"{name}.scalar"] = of_dtype(name)
    return tensors


def test_names_and_torch_dtypes_are_one_to_one():
    assert {dtype_name(torch_dtype(name)) for name in TORCH} == set(TORCH)


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_and_loaded_twice_every_tensor_is_equal(tmp_path, all_dtypes, mmap):
    first = save_checkpoint(tmp_path / "first", all_dtypes)
    with open_checkpoint(first, mmap=mmap) as once:
        second = save_checkpoint(tmp_path / "second", ((name, once.read(name)) for name in once))
    with open_checkpoint(second, mmap=mmap) as twice:
        assert set(twice) == set(all_dtypes)
        for name, tensor in all_dtypes.items():
            assert same(twice.read(name), tensor), name
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_the_safetensors_library_reads_what_is_written(tmp_path, all_dtypes):
    folder = save_checkpoint(tmp_path / "m", all_dtypes)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(all_dtypes)
        assert file.metadata() == {"format": "pt"}
        for name, tensor in all_dtypes.items():
            if not name.startswith("F8_E8M0"):  # its own reader has no torch dtype for that
                assert same(file.get_tensor(name), tensor), name


def test_what_the_safetensors_library_writes_is_read(tmp_path, all_dtypes):
    tensors = {n: t for n, t in all_dtypes.items() if t.dtype in WRITABLE}
    save_file(tensors, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as opened:
        for name, tensor in tensors.items():
            assert same(opened.read(name), tensor), name


WRITABLE = {torch_dtype(name) for name in TORCH}


@pytest.mark.parametrize("dtype", sorted(NO_TORCH))
def test_a_dtype_torch_lacks_is_listed_and_readable_as_bytes_only(raw_file, entry, dtype):
    path = raw_file({"w": entry(dtype, [4], 0, 3)}, b"abc")
    with open_checkpoint(path) as opened:
        assert opened.info("w").dtype == dtype
        with pytest.raises(CheckpointError, match=rf"'w'.*{dtype}.*read_raw"):
            opened.read("w")
        assert bytes(opened.read_raw("w")) == b"abc"


def test_f4_that_torch_cannot_pack_is_readable_as_bytes_only(raw_file, entry):
    path = raw_file({"w": entry("F4", [2, 3], 0, 3)}, b"abc")
    with open_checkpoint(path) as opened:
        with pytest.raises(CheckpointError, match="last dimension"):
            opened.read("w")
        assert bytes(opened.read_raw("w")) == b"abc"


def test_f4_is_counted_in_elements_in_the_header_and_in_pairs_by_torch(tmp_path):
    tensor = of_dtype("F4", 2, 16)
    with open_checkpoint(save_checkpoint(tmp_path / "m", {"w": tensor})) as opened:
        info = opened.info("w")
        assert (info.shape, info.torch_shape, info.nbytes) == ((2, 32), (2, 16), 32)
        assert same(opened.read("w", rows=slice(1, 2)), tensor[1:2])


def test_listing_tensors_needs_no_torch_dtype(tmp_path):
    info = TensorInfo("w", "NEW_ONE", (2,), 2, tmp_path / "f", 32)
    with pytest.raises(CheckpointError, match="NEW_ONE"):
        _ = info.torch_dtype


def test_f4_without_a_dimension_to_count_in_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"'w'.*dimension"):
        save_checkpoint(tmp_path / "m", {"w": of_dtype("F4", 1)[0]})


@pytest.mark.parametrize("dtype", [torch.complex128, torch.uint4, torch.bits8])
def test_a_dtype_the_format_lacks_is_not_saved(tmp_path, dtype):
    with pytest.raises(CheckpointError, match=f"'w'.*{dtype}"):
        save_checkpoint(tmp_path / "m", {"w": torch.empty(16, dtype=dtype)})
    assert list(tmp_path.iterdir()) == []

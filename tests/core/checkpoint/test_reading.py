"""Tensors from files: mapped where that is safe, never shared with the file, never in excess."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from quantload.checkpoint import open_checkpoint, save_checkpoint
from quantload.checkpoint import rawfile as rawfile_module
from quantload.errors import CheckpointError


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "w": torch.randn(64, 32),
        "h": torch.randn(7, 16).bfloat16(),
        "i": torch.arange(12, dtype=torch.int32).view(3, 4),
        "odd": torch.randn(3, 5),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 4),
    }


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    return save_checkpoint(tmp_path / "model", weights)


def test_the_demo_model_is_read_as_the_safetensors_library_reads_it(demo_model):
    from safetensors.torch import load_file

    expected = load_file(demo_model / "model.safetensors")
    with open_checkpoint(demo_model) as opened:
        assert set(opened) == set(expected)
        assert opened.nbytes == sum(tensor.nbytes for tensor in expected.values())
        for name, tensor in expected.items():
            assert torch.equal(opened.read(name), tensor)


@pytest.mark.parametrize("mmap", [True, False])
def test_every_tensor_and_every_slice_of_rows(folder, weights, mmap):
    with open_checkpoint(folder, mmap=mmap) as opened:
        assert len(opened) == len(weights)
        for name, tensor in weights.items():
            assert torch.equal(opened.read(name), tensor)
            assert name in opened
        for rows in (
            slice(1, 3),
            slice(2),
            slice(-2, None),
            slice(5, 2),
            slice(0, 99),
            slice(None),
        ):
            for name in ("w", "h", "i", "odd", "empty"):
                assert torch.equal(opened.read(name, rows=rows), weights[name][rows])


def test_rows_that_are_not_consecutive_and_rows_of_a_scalar_are_refused(folder):
    with open_checkpoint(folder) as opened:
        with pytest.raises(CheckpointError, match="step 1"):
            opened.read("w", rows=slice(0, 4, 2))
        with pytest.raises(CheckpointError, match="'scalar'"):
            opened.read("scalar", rows=slice(0, 1))


def test_an_unknown_name_is_answered_with_the_closest_ones(folder):
    with (
        open_checkpoint(folder) as opened,
        pytest.raises(CheckpointError, match="did you mean 'scalar'"),
    ):
        opened.read("scaler")


def test_reading_to_meta_gives_shape_and_dtype_without_the_bytes(folder, weights):
    with open_checkpoint(folder) as opened:
        tensor = opened.read("h", rows=slice(0, 2), device="meta")
    assert (tensor.device.type, tensor.shape, tensor.dtype) == ("meta", (2, 16), torch.bfloat16)


@pytest.mark.parametrize("staging", [64, 1000, 1 << 25])
def test_what_goes_to_a_device_goes_there_in_bounded_pieces(folder, weights, monkeypatch, staging):
    from quantload.checkpoint import reading

    monkeypatch.setattr(reading, "STAGING_BYTES", staging)
    with open_checkpoint(folder) as opened:
        for name, tensor in weights.items():
            info = opened.info(name)
            part = reading.part_of(info, opened.raw_file(info), None)
            assert torch.equal(reading.read_to_device(part, torch.device("cpu")), tensor)


@pytest.mark.gpu
def test_reading_to_a_gpu(folder, weights):
    with open_checkpoint(folder) as opened:
        for name, tensor in weights.items():
            found = opened.read(name, device="cuda")
            assert found.is_cuda
            assert torch.equal(found.cpu(), tensor)


def test_reading_emits_no_warning(folder, weights):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_checkpoint(folder) as opened:
            for name in weights:
                opened.read(name)
                opened.read_into(name, torch.empty(64 * 32 * 4, dtype=torch.uint8))
                opened.read_raw(name)


def test_writing_into_a_mapped_tensor_never_changes_the_file(folder, weights):
    file = folder / "model.safetensors"
    before = file.read_bytes()
    with open_checkpoint(folder) as opened:
        mapped = opened.read("w")
        mapped.fill_(7)
        assert torch.equal(opened.read("h"), weights["h"])
        with open_checkpoint(folder) as other:
            assert torch.equal(other.read("w"), weights["w"])
    assert file.read_bytes() == before
    assert bool((mapped == 7).all())


def test_two_reads_of_a_mapped_tensor_share_memory_and_two_checkpoints_do_not(folder, weights):
    with open_checkpoint(folder) as opened, open_checkpoint(folder) as other:
        first, second = opened.read("w"), opened.read("w", rows=slice(0, 4))
        first.zero_()
        assert not second.any()
        assert torch.equal(other.read("w"), weights["w"])


def test_aligned_tensors_lie_in_the_mapping_and_others_are_copied(raw_file, entry):
    # The header is as long as it happens to be; the second tensor is 4 bytes further.
    header = {
        "a": entry("F32", [1], 0, 4),
        "b": entry("F32", [8], 4, 36),
        "c": entry("U8", [12], 36, 48),
    }
    path = raw_file(header, bytes(range(48)))
    with open_checkpoint(path) as opened:
        for name, info in opened.tensors.items():
            tensor = opened.read(name)
            need = 16 if info.dtype == "F32" else 8
            assert tensor.data_ptr() % need == 0, name
            assert info.aligned == (info.offset % need == 0)
            first = (info.offset - opened.info("a").offset) % 256
            assert tensor.reshape(-1).view(torch.uint8)[0] == first
    with open_checkpoint(path, mmap=False) as opened:
        assert all(opened.read(name).data_ptr() % 16 == 0 for name in opened)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_narrow_floats_stay_mapped_where_writers_align_to_8(raw_file, entry, dtype):
    torch.manual_seed(0)
    weight = torch.randn(64, 48).to(torch.bfloat16 if dtype == "BF16" else torch.float16)
    x = torch.randn(1, 48).to(weight.dtype)
    header = {"w": entry(dtype, [64, 48], 0, weight.nbytes)}
    text = json.dumps(header)
    text += " " * (-len(text) % 16)  # with the 8 bytes of length before it: 8 modulo 16
    path = raw_file(text, weight.view(torch.uint8).numpy().tobytes())
    with open_checkpoint(path) as opened:
        mapped = opened.read("w")
        assert mapped.data_ptr() % 16 == 8
        assert opened.info("w").aligned
        assert torch.equal(torch.nn.functional.linear(x, mapped), x @ weight.T)


def test_rows_of_a_mapped_tensor_that_begin_unaligned_are_copied(tmp_path):
    weight = torch.randn(6, 3)
    with open_checkpoint(save_checkpoint(tmp_path / "m", {"w": weight})) as opened:
        for start in range(6):
            part = opened.read("w", rows=slice(start, None))
            assert torch.equal(part, weight[start:])
            assert part.data_ptr() % 16 == 0


def test_tensors_outlive_the_checkpoint_and_the_file(folder, weights):
    opened = open_checkpoint(folder)
    mapped = opened.read("w")
    opened.close()
    del opened
    gc.collect()
    (folder / "model.safetensors").unlink()
    assert torch.equal(mapped, weights["w"])


def test_reading_after_close_is_an_error(folder):
    opened = open_checkpoint(folder)
    opened.close()
    opened.close()
    for read in (opened.read, opened.read_raw):
        with pytest.raises(CheckpointError, match="closed"):
            read("w")


def test_a_thousand_tensors_hold_one_file_open_and_then_none(tmp_path, open_files):
    many = {f"t{i}": torch.zeros(4) for i in range(1000)}
    folder = save_checkpoint(tmp_path / "m", many)
    before = open_files()
    opened = open_checkpoint(folder)
    tensors = [opened.read(name) for name in opened]
    assert open_files() <= before + 2
    opened.close()
    del tensors
    gc.collect()
    assert open_files() == before


def test_where_the_file_system_cannot_map_tensors_are_copied(folder, weights, monkeypatch):
    def cannot(fd: int, size: int) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(rawfile_module, "_map_private", cannot)
    with open_checkpoint(folder) as opened:
        for name, tensor in weights.items():
            assert torch.equal(opened.read(name), tensor)


def test_where_the_system_has_no_preadv_files_are_read_all_the_same(folder, weights, monkeypatch):
    monkeypatch.delattr(os, "preadv")
    with open_checkpoint(folder, mmap=False) as opened, ThreadPoolExecutor(4) as pool:
        names = list(weights) * 20
        for name, found in zip(names, pool.map(opened.read, names), strict=True):
            assert torch.equal(found, weights[name])


def test_a_file_that_is_shortened_meanwhile_is_an_error_not_garbage(folder):
    with open_checkpoint(folder, mmap=False) as opened:
        os.truncate(folder / "model.safetensors", 3000)
        with pytest.raises(CheckpointError, match="shortened"):
            opened.read("w")


def test_a_big_endian_machine_is_told_that_files_are_little_endian(folder, monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")
    with open_checkpoint(folder) as opened, pytest.raises(CheckpointError, match="little endian"):
        opened.read("w")


def test_threads_read_the_same_bytes(folder, weights):
    with open_checkpoint(folder) as opened, ThreadPoolExecutor(8) as pool:
        names = list(weights) * 50
        buffers = [torch.empty(64 * 32 * 4, dtype=torch.uint8) for _ in names]
        for name, found in zip(names, pool.map(opened.read, names), strict=True):
            assert torch.equal(found, weights[name])
        for name, found in zip(names, pool.map(opened.read_into, names, buffers), strict=True):
            assert torch.equal(found, weights[name])


def test_read_into_gives_a_view_of_the_buffer(folder, weights):
    buffer = torch.empty(10_000, dtype=torch.uint8)
    with open_checkpoint(folder) as opened:
        for name, tensor in weights.items():
            found = opened.read_into(name, buffer)
            assert torch.equal(found, tensor)
            assert not tensor.numel() or found.data_ptr() == buffer.data_ptr()
        part = opened.read_into("h", buffer[16:], rows=slice(2, 5))
        assert torch.equal(part, weights["h"][2:5])
        assert torch.equal(opened.read_into("w", torch.empty(64, 32)), weights["w"])


@pytest.mark.parametrize(
    ("buffer", "said"),
    [
        (torch.empty(100, dtype=torch.uint8), "at least 8192 bytes, found 100"),
        (torch.empty(9000, dtype=torch.uint8)[1:], "multiple of 4"),
        (torch.empty(2, 9000, dtype=torch.uint8).t(), "contiguous"),
        (torch.empty(9000, dtype=torch.uint8, device="meta"), "CPU"),
    ],
)
def test_a_buffer_that_does_not_serve_is_refused(folder, buffer, said):
    with open_checkpoint(folder) as opened, pytest.raises(CheckpointError, match=said):
        opened.read_into("w", buffer)


_RSS = """
import sys, torch
from quantload.checkpoint import open_checkpoint
def rss(kind="VmRSS"):
    return int(next(l for l in open("/proc/self/status") if l.startswith(kind)).split()[1]) / 1024
opened = open_checkpoint(sys.argv[1])
buffer = torch.empty(4 << 20, dtype=torch.uint8).fill_(1)
before = rss()
total = 0.0
for name in opened:
    if sys.argv[2] == "staged":
        total += float(opened.read_into(name, buffer).sum())
    else:
        total += float(opened.read(name).sum())
        if sys.argv[2] == "released":
            opened.release(name)
print(rss() - before, rss("VmHWM") - before, total)
"""


@pytest.fixture(scope="module")
def forty_megabytes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "m"
    return save_checkpoint(folder, ((f"t{i}", torch.full((1 << 20,), float(i))) for i in range(10)))


@pytest.mark.parametrize(
    ("way", "low", "high"), [("staged", -1, 6), ("released", -1, 12), ("mapped", 38, 60)]
)
def test_what_reading_adds_to_the_process(forty_megabytes, way, low, high):
    # The third shows that the first two measure something.
    run = subprocess.run(
        [sys.executable, "-c", _RSS, forty_megabytes, way],
        capture_output=True,
        text=True,
        check=True,
    )
    _, peak, total = map(float, run.stdout.split())
    assert total == 45 * (1 << 20)
    assert low <= peak <= high


def test_a_released_tensor_is_read_again(folder, weights):
    with open_checkpoint(folder) as opened:
        kept = opened.read("h").clone()
        mapped = opened.read("w")
        opened.release("w")
        assert torch.equal(mapped, weights["w"])
        assert torch.equal(opened.read("h"), kept)


def test_releasing_one_tensor_leaves_what_was_written_into_its_neighbours(tmp_path):
    tensors = {f"t{i}": torch.full((1500,), float(i)) for i in range(5)}
    with open_checkpoint(save_checkpoint(tmp_path / "m", tensors)) as opened:
        read = {name: opened.read(name).add_(1) for name in opened}
        opened.release("t2")
        for name in ("t0", "t1", "t3", "t4"):
            assert torch.equal(read[name], tensors[name] + 1)


def sparse(path: Path, size: int) -> Path:
    """A file of one uint8 tensor that takes no room on the disk."""
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    header = header.ljust(-(-(len(header) + 8) // 16) * 16 - 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + size)
        except OSError as error:
            pytest.skip(f"this file system has no files of {size} bytes: {error}")
    return path


def test_reading_a_mapped_tensor_takes_the_same_time_whatever_its_size(tmp_path):
    with open_checkpoint(sparse(tmp_path / "big.safetensors", 1 << 32)) as opened:
        begin = time.process_time()
        for _ in range(100):
            opened.read("w")
        assert time.process_time() - begin < 0.1


def test_a_file_larger_than_memory_can_be_mapped(tmp_path):
    with open_checkpoint(sparse(tmp_path / "huge.safetensors", 1 << 42)) as opened:
        assert opened.read("w")[-1] == 0


def test_listing_needs_no_torch_and_reading_does(demo_model):
    code = (
        "import sys; from quantload.checkpoint import open_checkpoint, resolve_source, read_json\n"
        "opened = open_checkpoint(resolve_source(sys.argv[1]))\n"
        "print(len(opened), opened.nbytes, opened.config()['model_type'])\n"
        "print(len(opened.companions()))\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "opened.read(next(iter(opened)))\n"
        "assert 'torch' in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code, demo_model], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["38", "8393216", "llama", "4"]

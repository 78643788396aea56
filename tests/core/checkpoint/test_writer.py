"""Saving: shards, index, the files beside them, and what never reaches a file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from quantload.checkpoint import CheckpointWriter, companion_files, open_checkpoint, save_checkpoint
from quantload.checkpoint import shards as shards_module
from quantload.checkpoint.arguments import parse_size
from quantload.errors import CheckpointError


def contents(folder: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(folder) as opened:
        return {name: opened.read(name).clone() for name in opened}


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


@pytest.fixture
def ten() -> dict[str, torch.Tensor]:
    return {
        f"layer.{i}.weight": torch.full((25, 10), float(i)) for i in range(10)
    }  # 1000 bytes each


def test_what_fits_is_one_file_without_an_index(tmp_path, ten):
    folder = save_checkpoint(tmp_path / "m", ten)
    assert folder == tmp_path / "m"
    assert names(folder) == ["model.safetensors"]
    found = contents(folder)
    assert list(found) == list(ten)
    assert all(torch.equal(found[name], tensor) for name, tensor in ten.items())
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_does_not_fit_is_sharded_with_an_index_that_transformers_reads(tmp_path, ten):
    folder = save_checkpoint(
        tmp_path / "m", ten, max_shard_size="3KB", metadata={"format": "pt", "k": "v"}
    )
    shards = [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    assert names(folder) == [*shards, "model.safetensors.index.json"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 10_000}
    for name, file in index["weight_map"].items():
        with safe_open(folder / file, "pt") as opened:
            assert torch.equal(opened.get_tensor(name), ten[name])
            assert opened.metadata() == {"format": "pt", "k": "v"}
    assert set(index["weight_map"]) == set(ten)
    assert max((folder / shard).stat().st_size for shard in shards) < 4000
    found = contents(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in ten.items())


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path, ten):
    folder = save_checkpoint(tmp_path / "m", {"big": torch.zeros(5000), **ten}, max_shard_size=2000)
    assert (folder / "model-00001-of-00006.safetensors").exists()
    assert set(contents(folder)) == {"big", *ten}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("4GiB", 4 * 2**30),
        ("1.5 kb", 1500),
        ("300", 300),
        (7, 7),
        ("2MB", 2 * 10**6),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_read_as_the_hub_writes_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("size", ["", "GB", "-1", "5 apples", 0, -5, "0.1", None, 1.5, "1e3"])
def test_other_sizes_are_refused_before_anything_is_written(tmp_path, size):
    with pytest.raises(CheckpointError, match="max_shard_size"):
        save_checkpoint(tmp_path / "m", {}, max_shard_size=size)
    assert list(tmp_path.iterdir()) == []


def test_no_tensors_make_an_empty_checkpoint(tmp_path):
    folder = save_checkpoint(tmp_path / "m", {})
    assert contents(folder) == {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert list(file.keys()) == []


def test_another_base_name(tmp_path, ten):
    folder = save_checkpoint(
        tmp_path / "m", ten, base_name="gptq_model-4bit-128g", max_shard_size=6000
    )
    assert names(folder)[-1] == "gptq_model-4bit-128g.safetensors.index.json"
    with open_checkpoint(folder, base_name="gptq_model-4bit-128g") as opened:
        assert set(opened) == set(ten)


# --- bytes ---------------------------------------------------------------------------------


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(60.0).reshape(6, 10)
    complexes = torch.randn(3, 4, dtype=torch.complex64)
    return {
        "transposed": base.t(),
        "column": base[:, 3],
        "steps": base[::2, ::3],
        "expanded": torch.tensor([1.0, 2.0]).expand(4, 2),
        "offset": base[2:],
        "overlapping": base.reshape(-1).as_strided((5, 4), (2, 1)),
        "scalar view": base[3, 3],
        "conjugate": complexes.conj(),
        "negative": complexes.conj().imag,
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "with grad": torch.randn(3, requires_grad=True) * 2,
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "flipped bits": torch.randn(7)[1:].view(torch.int32),
    }


def test_views_are_saved_as_what_they_show(tmp_path):
    torch.manual_seed(0)
    tensors = views()
    found = contents(save_checkpoint(tmp_path / "m", tensors))
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.detach().resolve_conj().resolve_neg()), name


def test_a_tensor_under_two_names_is_written_in_full_under_both(tmp_path):
    tensor = torch.randn(8, 8)
    found = contents(save_checkpoint(tmp_path / "m", {"a": tensor, "b": tensor, "c": tensor[:4]}))
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["b"], tensor)
    assert torch.equal(found["c"], tensor[:4])


def test_a_producer_may_fill_the_same_memory_again(tmp_path):
    buffer = torch.empty(5)

    def produce():
        for i in range(8):
            yield f"t{i}", buffer.fill_(i)

    found = contents(save_checkpoint(tmp_path / "m", produce()))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        f"t{i}": [float(i)] * 5 for i in range(8)
    }


def test_odd_sized_tensors_never_make_the_others_unaligned(tmp_path):
    tensors = {}
    for i in range(6):
        tensors[f"{i}.quant_state"] = torch.zeros(77 + i, dtype=torch.uint8)
        tensors[f"{i}.weight"] = torch.zeros(64, 1, dtype=torch.uint8)
        tensors[f"{i}.scale"] = torch.tensor(1.0)
    with open_checkpoint(save_checkpoint(tmp_path / "m", tensors)) as opened:
        assert all(opened.info(f"{i}.weight").aligned for i in range(6))
        assert all(info.offset % 4 == 0 for name, info in opened.tensors.items() if "scale" in name)


def test_more_odd_sized_tensors_than_are_held_back_are_still_right(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "HELD_BYTES", 100)
    tensors = {f"t{i}": torch.full((i + 1,), i, dtype=torch.int16) for i in range(60)}
    found = contents(save_checkpoint(tmp_path / "m", tensors))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_only_one_tensor_is_made_at_a_time(tmp_path):
    made: list[weakref.ref[torch.Tensor]] = []

    def make() -> torch.Tensor:
        assert all(earlier() is None for earlier in made)
        tensor = torch.ones(100)
        made.append(weakref.ref(tensor))
        return tensor

    save_checkpoint(tmp_path / "m", {f"t{i}": make for i in range(5)})
    assert len(made) == 5


_PEAK = """
import sys, torch
from quantload.checkpoint import save_checkpoint
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
def make():
    return torch.ones(1 << 20)
make()
save_checkpoint(sys.argv[1] + "/warm", {"a": make})
before = peak()
save_checkpoint(sys.argv[1] + "/m", {f"t{i}": make for i in range(40)}, max_shard_size="50MB")
print(peak() - before)
"""


def test_saving_160_megabytes_made_one_by_one_takes_a_few(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, tmp_path], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 32  # malloc gives a few of the 4 MB back late


@pytest.mark.parametrize("reserve", [64, 1024, 100_000])
def test_the_header_is_right_whether_the_reserve_fits_or_not(tmp_path, ten, monkeypatch, reserve):
    monkeypatch.setattr("quantload.checkpoint.writer.RESERVE", reserve)
    large = {name: tensor.repeat(100, 10) for name, tensor in ten.items()}
    folder = save_checkpoint(tmp_path / "m", large.items(), max_shard_size="4MB")
    found = contents(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in large.items())
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.keys()
        with file.open("rb") as raw:
            assert (8 + int.from_bytes(raw.read(8), "little")) % 64 == 0


def test_names_may_be_any_text(tmp_path):
    strange = [
        "",
        " ",
        "a/b",
        "..",
        'quote"',
        "back\\slash",
        "\n",
        "\0",
        "é",
        "☃",
        "😀",
        "__metadata",
        "n" * 1000,
    ]
    found = contents(save_checkpoint(tmp_path / "m", {name: torch.ones(4) for name in strange}))
    assert set(found) == set(strange)


# --- what is refused -----------------------------------------------------------------------


def quantized() -> torch.Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


def sparse_csr() -> torch.Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(4).to_sparse_csr()


def wrapper() -> torch.Tensor:
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(torch.ones(4), torch.ones(4))


def fake() -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(4, device="meta"),
        lambda: torch.eye(4).to_sparse(),
        sparse_csr,
        quantized,
        fake,
        wrapper,
        lambda: [1.0],
        lambda: None,
    ],
)
def test_what_has_no_plain_bytes_is_refused_and_nothing_is_left(tmp_path, make):
    with pytest.raises(CheckpointError, match=r"'layer\.w'"):
        save_checkpoint(tmp_path / "m", {"ok": torch.ones(4), "layer.w": make()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "__metadata__", "\ud800", 5, None])
def test_a_name_that_is_taken_or_no_text_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="name"):
        save_checkpoint(tmp_path / "m", [("a", torch.ones(1)), (name, torch.ones(1))])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}])
def test_metadata_that_is_no_text_is_refused(tmp_path, metadata):
    with pytest.raises(CheckpointError, match="metadata"):
        save_checkpoint(tmp_path / "m", {}, metadata=metadata)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "",
        "a/../../x",
        ".quantload-save",
        "model.safetensors",
        "a\\b",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    ],
)
def test_a_companion_that_leaves_the_folder_or_is_ours_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path / "m", {}, companions={name: "x"})
    assert list(tmp_path.iterdir()) == []


# --- files beside the weights --------------------------------------------------------------


def test_companions_are_bytes_text_or_files(tmp_path, ten):
    source = tmp_path / "source.model"
    source.write_bytes(b"\0\1\2")
    companions = {
        "config.json": '{"é": 1}',
        "tokenizer.model": source,
        "merges.txt": b"a b\n",
        "additional_chat_templates/tool.jinja": "{{ x }}",
    }
    folder = save_checkpoint(tmp_path / "m", ten, companions=companions)
    assert (folder / "config.json").read_bytes() == '{"é": 1}'.encode()
    assert (folder / "tokenizer.model").read_bytes() == b"\0\1\2"
    assert (folder / "merges.txt").read_bytes() == b"a b\n"
    assert (folder / "additional_chat_templates/tool.jinja").read_text() == "{{ x }}"
    assert set(companion_files(folder)) == set(companions)


def test_a_whole_checkpoint_is_carried_over(tmp_path, demo_model):
    with open_checkpoint(demo_model) as opened:
        folder = save_checkpoint(
            tmp_path / "m",
            ((name, opened.read(name)) for name in opened),
            companions=opened.companions(),
        )
        for name, path in opened.companions().items():
            assert (folder / name).read_bytes() == path.read_bytes()
        with open_checkpoint(folder) as again:
            assert list(again) == list(opened)
            assert all(torch.equal(again.read(name), opened.read(name)) for name in opened)
            assert again.config() == opened.config()
            assert again.generation_config() == opened.generation_config()


def test_a_companion_file_that_is_not_there_changes_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="absent"):
        save_checkpoint(tmp_path / "m", {}, companions={"x.json": tmp_path / "absent"})
    assert list(tmp_path.iterdir()) == []


def test_modes_follow_the_umask(tmp_path, ten):
    before = os.umask(0o027)
    try:
        folder = save_checkpoint(
            tmp_path / "m", ten, companions={"config.json": "{}", "d/e.txt": ""}
        )
    finally:
        os.umask(before)
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_a_writer_adds_one_by_one_and_appears_at_the_end(tmp_path, ten):
    with CheckpointWriter(tmp_path / "m") as writer:
        for name, tensor in ten.items():
            writer.add(name, tensor)
        assert not (tmp_path / "m").exists()
        writer.add_companion("config.json", "{}")
        assert writer.commit() == tmp_path / "m"
        assert writer.commit() == tmp_path / "m"
    assert set(contents(tmp_path / "m")) == set(ten)

"""`load_into`: any module built on meta, float, without transformers."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets import IDS, Net, real, skeleton, tensors_of, write
from torch import nn

from quantload import CheckpointError, ConfigError, load_into, open_checkpoint
from quantload.errors import UnsupportedOperationError


def on_meta(module: nn.Module) -> bool:
    return all(t.is_meta for t in [*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("mmap", [True, False])
def test_every_tensor_arrives(tmp_path: Path, shards: int, mmap: bool) -> None:
    model = real()
    write(tmp_path, tensors_of(model), shards=shards)
    ours = skeleton()
    report = load_into(ours, tmp_path, mmap=mmap)
    assert report.clean
    assert list(ours.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert torch.equal(ours(IDS), model(IDS))
    assert ours.embed.weight.requires_grad
    assert ours.training


def test_an_open_checkpoint_and_a_single_file_serve_too(tmp_path: Path) -> None:
    model = real()
    write(tmp_path, tensors_of(model))
    for source in (open_checkpoint(tmp_path), tmp_path / "model.safetensors"):
        ours = skeleton()
        load_into(ours, source)
        assert torch.equal(ours(IDS), model(IDS))


def test_weights_that_need_no_conversion_stay_mapped(tmp_path: Path) -> None:
    write(tmp_path, tensors_of(real(size=64)))
    ours = skeleton(size=64)
    load_into(ours, tmp_path)
    assert _mapped(ours.blocks[0].up.weight, tmp_path)
    copied = skeleton(size=64)
    load_into(copied, tmp_path, mmap=False)
    assert not _mapped(copied.blocks[0].up.weight, tmp_path)


def _mapped(tensor: torch.Tensor, folder: Path) -> bool:
    """Whether a tensor's bytes are those of a mapped file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line:
            start, stop = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= tensor.data_ptr() < stop:
                return True
    return False


def test_writing_into_a_mapped_weight_leaves_the_file_alone(tmp_path: Path) -> None:
    write(tmp_path, tensors_of(real()))
    before = (tmp_path / "model.safetensors").read_bytes()
    ours = skeleton()
    load_into(ours, tmp_path)
    with torch.no_grad():
        ours.head.weight.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_dtype_casts_floats_and_nothing_else(tmp_path: Path) -> None:
    model = real()
    write(tmp_path, tensors_of(model))
    ours = skeleton()
    load_into(ours, tmp_path, dtype="bfloat16")
    for name, tensor in model.state_dict().items():
        wanted = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        assert ours.state_dict()[name].dtype == wanted.dtype
        assert torch.equal(ours.state_dict()[name], wanted)


def test_auto_keeps_the_dtypes_of_the_checkpoint(tmp_path: Path) -> None:
    tensors = tensors_of(real())
    tensors["embed.weight"] = tensors["embed.weight"].half()
    write(tmp_path, tensors)
    ours = skeleton()
    load_into(ours, tmp_path)
    assert ours.embed.weight.dtype == torch.float16
    assert ours.head.weight.dtype == torch.float32


def test_large_tensors_are_cast_in_chunks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"weight": torch.randn(3000, 1000), "bias": torch.randn(3000)}
    write(tmp_path, tensors)
    with torch.device("meta"):
        ours = nn.Linear(1000, 3000)
    load_into(ours, tmp_path, dtype=torch.float16)
    assert torch.equal(ours.weight, tensors["weight"].half())


@pytest.mark.parametrize("dtype", ["int8", "float12", torch.int64])
def test_a_dtype_that_is_none_is_refused(tmp_path: Path, dtype: object) -> None:
    with pytest.raises(ConfigError, match="floating-point"):
        load_into(skeleton(), tmp_path, dtype=dtype)


def test_an_unknown_keyword_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="device_maps"):
        load_into(skeleton(), tmp_path, device_maps="cpu")


class TestDifferences:
    """What does not fit is found before a byte is read, and named."""

    def load(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **kwargs: object) -> str:
        opened = open_checkpoint(folder)
        monkeypatch.setattr(opened, "read", lambda *a, **k: pytest.fail("a byte was read"))
        monkeypatch.setattr(opened, "read_into", lambda *a, **k: pytest.fail("a byte was read"))
        module = skeleton()
        with pytest.raises(CheckpointError) as caught:
            load_into(module, opened, **kwargs)
        assert on_meta(module)
        return str(caught.value)

    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tensors = tensors_of(real())
        del tensors["blocks.1.up.bias"]
        message = self.load(write(tmp_path, tensors), monkeypatch)
        assert "missing: blocks.1.up.bias" in message
        assert "1 missing, 0 that do not fit, 0 unexpected" in message

    def test_unexpected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tensors = {**tensors_of(real()), "blocks.9.up.bias": torch.ones(3)}
        message = self.load(write(tmp_path, tensors), monkeypatch)
        assert "unexpected: blocks.9.up.bias in model.safetensors" in message

    def test_shape(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tensors = {**tensors_of(real()), "head.weight": torch.ones(12, 16)}
        message = self.load(write(tmp_path, tensors), monkeypatch)
        assert (
            "head.weight in model.safetensors: expected shape [11, 16], found [12, 16]" in message
        )

    def test_integers_in_the_place_of_floats(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tensors = {**tensors_of(real()), "head.weight": torch.ones(11, 16, dtype=torch.int8)}
        message = self.load(write(tmp_path, tensors), monkeypatch)
        assert "expected torch.float32, found I8; is it quantized" in message


def test_not_strict_initialises_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = real()
    tensors = tensors_of(model)
    del tensors["blocks.0.up.bias"]
    tensors["head.weight"] = torch.full((12, 16), 3.0)
    tensors["extra"] = torch.ones(2)
    ours = skeleton()
    with caplog.at_level(logging.WARNING, "quantload"):
        report = load_into(ours, write(tmp_path, tensors), strict=False)
    assert report.missing == ["blocks.0.up.bias"]
    assert list(report.mismatched) == ["head.weight"]
    assert list(report.unexpected) == ["extra"]
    assert "blocks.0.up.bias" in caplog.text
    assert "let pass with strict=False" in caplog.text
    assert torch.equal(ours.blocks[0].up.weight, model.blocks[0].up.weight)
    bound = 1 / 16**0.5
    for fresh in (ours.blocks[0].up.bias, ours.head.weight):
        assert 0 < fresh.abs().max() <= bound * 1.01


def test_not_strict_refuses_what_nothing_can_initialise(tmp_path: Path) -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.empty(3))

    with torch.device("meta"):
        module = Bare()
    with pytest.raises(CheckpointError, match=r"scale: not in the checkpoint.*reset_parameters"):
        load_into(module, write(tmp_path, {"other": torch.ones(1)}), strict=False)
    assert on_meta(module)


def test_renamed_tensors_find_their_place(tmp_path: Path) -> None:
    model = real()
    write(tmp_path, {f"net.{name}": tensor for name, tensor in tensors_of(model).items()})
    ours = skeleton()
    load_into(ours, tmp_path, rename=lambda name: name.removeprefix("net."))
    assert torch.equal(ours(IDS), model(IDS))


class TestTies:
    def test_shared_parameters_stay_shared(self, tmp_path: Path) -> None:
        model = real(tied=True)
        write(tmp_path, tensors_of(model))
        ours = skeleton(tied=True)
        load_into(ours, tmp_path)
        assert ours.head.weight is ours.embed.weight
        assert torch.equal(ours(IDS), model(IDS))

    def test_either_name_will_do(self, tmp_path: Path) -> None:
        model = real(tied=True)
        tensors = tensors_of(model)
        tensors["head.weight"] = tensors.pop("embed.weight")
        ours = skeleton(tied=True)
        load_into(ours, write(tmp_path, tensors))
        assert ours.head.weight is ours.embed.weight
        assert torch.equal(ours(IDS), model(IDS))

    def test_equal_tensors_under_both_names_are_one(self, tmp_path: Path) -> None:
        model = real(tied=True)
        tensors = tensors_of(model)
        tensors["head.weight"] = tensors["embed.weight"].clone()
        ours = skeleton(tied=True)
        assert not load_into(ours, write(tmp_path, tensors)).untied
        assert ours.head.weight is ours.embed.weight

    def test_different_tensors_under_both_names_stay_two(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = real(tied=False)
        write(tmp_path, tensors_of(model))
        ours = skeleton(tied=True)
        report = load_into(ours, tmp_path)
        assert ("head.weight", "embed.weight") in report.untied
        assert "are not tied" in caplog.text
        assert torch.equal(ours(IDS), model(IDS))

    def test_both_names_missing_is_an_error(self, tmp_path: Path) -> None:
        tensors = tensors_of(real(tied=True))
        del tensors["embed.weight"]
        with pytest.raises(CheckpointError, match="1 missing"):
            load_into(skeleton(tied=True), write(tmp_path, tensors))


class TestBuffers:
    def test_lost_ones_are_computed(self, tmp_path: Path) -> None:
        write(tmp_path, tensors_of(real()))
        ours = skeleton()
        load_into(ours, tmp_path)
        assert torch.equal(ours.rotary.frequencies, real().rotary.frequencies)

    def test_real_ones_are_kept(self, tmp_path: Path) -> None:
        write(tmp_path, tensors_of(real()))
        ours = skeleton()
        ours.rotary.frequencies = torch.full((16,), 2.0)
        load_into(ours, tmp_path)
        assert torch.equal(ours.rotary.frequencies, torch.full((16,), 2.0))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
    def test_those_nobody_can_compute_are_refused(self, tmp_path: Path, dtype: torch.dtype) -> None:
        module = skeleton()
        module.rotary.register_buffer(
            "mask", torch.ones(3, device="meta").to(dtype), persistent=False
        )
        with pytest.raises(UnsupportedOperationError, match=r"rotary\.mask.*in no checkpoint"):
            load_into(module, write(tmp_path, tensors_of(real())))
        assert on_meta(module)


def test_modules_that_keep_lists_of_their_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.LSTM(8, 8)
    write(tmp_path, tensors_of(model))
    with torch.device("meta"):
        ours = nn.LSTM(8, 8)
    listed = [id(weight) for weight in ours._flat_weights]

    def fail(done: int, total: int) -> None:
        if done == total:
            raise OSError

    with pytest.raises(OSError):
        load_into(ours, tmp_path, progress=fail)
    assert [id(weight) for weight in ours._flat_weights] == listed
    load_into(ours, tmp_path)
    x = torch.randn(3, 8, 8)
    assert torch.equal(ours(x)[0], model(x)[0])


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("kind", [Stop, RuntimeError])
def test_an_interrupted_load_leaves_the_skeleton_and_nothing_open(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    import threading

    write(tmp_path, tensors_of(real(blocks=6)), shards=2)
    module = skeleton(blocks=6)
    before = {name: id(tensor) for name, tensor in module.named_parameters()}

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise kind

    with pytest.raises(kind):
        load_into(module, tmp_path, dtype="float16", progress=stop)
    assert on_meta(module)
    assert {name: id(tensor) for name, tensor in module.named_parameters()} == before
    assert not any(t.name.startswith("quantload-read") for t in threading.enumerate())
    assert not any(str(tmp_path) in _target(link) for link in Path("/proc/self/fd").iterdir())
    load_into(module, tmp_path)
    assert torch.equal(module(IDS), real(blocks=6)(IDS))


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def test_transformers_is_not_imported(tmp_path: Path) -> None:
    write(tmp_path, tensors_of(real()))
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
sys.modules["transformers"] = None
import quantload, nets, torch
module = nets.skeleton()
quantload.load_into(module, {str(tmp_path)!r}, device_map={{"embed": "cpu", "": "disk"}},
                    dtype="float64", offload_folder={str(tmp_path / "offload")!r})
with torch.no_grad():
    assert module(nets.IDS).isfinite().all()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_an_empty_module_takes_an_empty_checkpoint(tmp_path: Path) -> None:
    load_into(nn.ReLU(), write(tmp_path, {}))


def test_net_is_what_these_tests_think(tmp_path: Path) -> None:
    assert isinstance(real(), Net)
    assert on_meta(skeleton())

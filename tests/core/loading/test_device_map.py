"""Device maps: what they may say, and what is wrong with the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import IDS, real, skeleton, tensors_of, write
from torch import nn

from quantload import DeviceMapError, load_into
from quantload.loading.device_map import CPU, DISK, resolve_device_map

HALF = {"embed": "cpu", "rotary": "cpu", "blocks.0": "cpu", "blocks.1": DISK, "head": "cpu"}


@pytest.mark.parametrize(
    "said", [None, "cpu", torch.device("cpu"), {"": "cpu"}, "auto", "balanced"]
)
def test_everything_on_the_cpu(said: object) -> None:
    found = resolve_device_map(skeleton(), said)
    assert found.place("blocks.1.up.weight") == CPU
    assert not found.dispatched
    assert found.asked is (said is not None)


def test_the_default_device_counts() -> None:
    with torch.device("cpu"):
        assert resolve_device_map(skeleton()).place("head") == CPU
    with torch.device("meta"), pytest.raises(DeviceMapError, match="meta"):
        resolve_device_map(nn.Linear(1, 1))


def test_the_longest_name_counts() -> None:
    found = resolve_device_map(skeleton(), {"": "cpu", "blocks": DISK, "blocks.1.up": "cpu"})
    assert found.place("blocks.0.up.weight") == DISK
    assert found.place("blocks.1.down.weight") == DISK
    assert found.place("blocks.1.up.bias") == CPU
    assert found.place("embed.weight") == CPU
    assert found.dispatched
    assert found.main == CPU


def test_no_name_is_below_another_afterwards() -> None:
    found = resolve_device_map(skeleton(), {"": "cpu", "blocks": DISK, "blocks.1.up": "cpu"})
    names = list(found.places)
    assert not any(a != b and b.startswith(f"{a}.") for a in names for b in names)


def test_what_a_split_module_owns_itself_is_not_offloaded() -> None:
    found = resolve_device_map(skeleton(), {"": DISK, "head": "cpu"})
    assert found.place("steps") == CPU
    assert found.place("embed.weight") == DISK


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("gpu", "is no device"),
        ("cuda:9", "cuda"),
        (True, "expected a device"),
        (3.5, "expected a device"),
        ("meta", "meta"),
        ({"block": "cpu", "": "cpu"}, "did you mean 'blocks'"),
        ({"embed": "cpu"}, "leaves out"),
        ({"": "nowhere"}, "is no device"),
    ],
)
def test_what_cannot_be_carried_out_is_named(said: object, what: str) -> None:
    if said == "cuda:9" and torch.cuda.device_count() > 9:
        pytest.skip("has ten GPUs")
    with pytest.raises(DeviceMapError, match=what):
        resolve_device_map(skeleton(), said)


def test_memory_limits_send_the_rest_to_disk() -> None:
    model = skeleton(size=64, blocks=4)
    found = resolve_device_map(model, "auto", max_memory={"cpu": "150KB"}, no_split=["Block"])
    assert found.place("embed.weight") == CPU
    assert found.place("head.weight") == DISK
    for index in range(4):
        assert len({found.place(f"blocks.{index}.{n}") for n in ("up", "down", "norm")}) == 1


@pytest.mark.parametrize("limits", [{"cpu": "much"}, {"nowhere": "1GB"}])
def test_limits_that_say_nothing_are_refused(limits: dict[str, str]) -> None:
    with pytest.raises(DeviceMapError, match="max_memory"):
        resolve_device_map(skeleton(), "auto", max_memory=limits)


def test_limits_without_an_automatic_map_are_refused() -> None:
    with pytest.raises(DeviceMapError, match="max_memory is for"):
        resolve_device_map(skeleton(), "cpu", max_memory={"cpu": 1})


@pytest.mark.parametrize("tied", [False, True])
def test_offloading_to_disk_computes_the_same(tmp_path: Path, tied: bool) -> None:
    model = real(tied=tied)
    write(tmp_path, tensors_of(model))
    ours = skeleton(tied=tied)
    places = {"embed": DISK, "head": DISK, "": "cpu"} if tied else HALF | {"steps": "cpu"}
    load_into(ours, tmp_path, device_map=places)
    assert ours.hf_device_map["head"] == places["head"]
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(ours(IDS), model(IDS))


def test_tied_weights_in_two_places_are_two(tmp_path: Path) -> None:
    model = real(tied=True)
    write(tmp_path, tensors_of(model))
    ours = skeleton(tied=True)
    load_into(ours, tmp_path, device_map={"head": DISK, "": "cpu"})
    assert ours.head.weight.is_meta
    with torch.no_grad():
        assert torch.equal(ours(IDS), model(IDS))


def test_converted_weights_need_a_folder_which_is_left_empty(tmp_path: Path) -> None:
    model = real()
    write(tmp_path / "model", tensors_of(model))
    with pytest.raises(DeviceMapError, match=r"is converted to torch\.float64.*offload_folder="):
        load_into(skeleton(), tmp_path / "model", dtype="float64", device_map={"": DISK})
    ours = skeleton()
    folder = tmp_path / "offload"
    load_into(
        ours, tmp_path / "model", dtype="float64", device_map={"": DISK}, offload_folder=folder
    )
    with torch.no_grad():
        assert torch.allclose(ours(IDS), model.double()(IDS))
    assert len(list(folder.iterdir())) == 1
    del ours
    import gc

    gc.collect()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write(tmp_path / "model", tensors_of(real()))
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceMapError, match="cannot be written"):
        load_into(
            skeleton(),
            tmp_path / "model",
            dtype="float64",
            device_map={"": DISK},
            offload_folder=tmp_path / "file",
        )

"""Loading onto a GPU: pinned staging, asynchronous copies, offloading to the CPU and to disk."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from nets import IDS, real, skeleton, tensors_of, write
from rowwise import rowwise_tensors
from torch import nn

from quantload import load_into
from quantload.modules import hosts_of

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("rowwise")]

METHOD = {"quant_method": "rowwise"}


@pytest.mark.parametrize("device_map", ["cuda", "cuda:0", 0, {"": 0}, "auto"])
def test_every_tensor_arrives(tmp_path: Path, device_map: object) -> None:
    model = real()
    write(tmp_path, tensors_of(model), shards=2)
    ours = skeleton()
    load_into(ours, tmp_path, device_map=device_map)
    for name, tensor in ours.state_dict().items():
        assert tensor.device == torch.device("cuda", 0)
        assert torch.equal(tensor.cpu(), model.state_dict()[name])
    assert ours.rotary.frequencies.device.type == "cuda"
    assert torch.equal(ours.rotary.frequencies.cpu(), model.rotary.frequencies)


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_tensors_of_many_chunks(tmp_path: Path, dtype: str) -> None:
    torch.manual_seed(0)
    tensors = {"weight": torch.randn(30_000, 4096), "bias": torch.randn(30_000)}
    write(tmp_path, tensors)
    with torch.device("meta"):
        ours = nn.Linear(4096, 30_000)
    load_into(ours, tmp_path, device_map="cuda", dtype=dtype)
    wanted = tensors["weight"].half() if dtype == "float16" else tensors["weight"]
    assert torch.equal(ours.weight.cpu(), wanted)


def test_quantizing_happens_on_the_device(tmp_path: Path) -> None:
    model = real(size=64)
    write(tmp_path, tensors_of(model))
    ours = skeleton(size=64)
    load_into(ours, tmp_path, device_map="cuda", quantization_config=METHOD)
    for name, host in hosts_of(ours):
        assert host.weight.device.type == "cuda"
        wanted = rowwise_tensors("x", model.get_submodule(name).weight)
        assert (host.weight.codes.cpu().int() - wanted["x.codes"].int()).abs().max() <= 1
        assert torch.allclose(host.weight.scales.cpu(), wanted["x.scales"])


def test_packed_tensors_arrive(tmp_path: Path) -> None:
    model = real(tied=True)
    tensors = tensors_of(model)
    tensors |= rowwise_tensors("embed", tensors.pop("embed.weight"))
    write(tmp_path, tensors, {"quantization_config": METHOD})
    ours = skeleton(tied=True)
    load_into(ours, tmp_path, device_map="cuda")
    assert ours.embed.weight is ours.head.weight
    assert ours(IDS.cuda()).device.type == "cuda"
    assert torch.equal(ours.embed.weight.codes.cpu(), tensors["embed.codes"])


@pytest.mark.parametrize("place", ["cpu", "disk"])
@pytest.mark.parametrize("config", [None, METHOD])
def test_offloaded_modules_run_on_the_gpu(
    tmp_path: Path, place: str, config: dict[str, str] | None
) -> None:
    write(tmp_path / "model", tensors_of(real()))
    whole = skeleton()
    load_into(whole, tmp_path / "model", device_map="cuda", quantization_config=config)
    ours = skeleton()
    load_into(
        ours,
        tmp_path / "model",
        quantization_config=config,
        device_map={"blocks.0": place, "": 0},
        offload_folder=tmp_path / "offload",
    )
    assert ours.blocks[0].norm.weight.is_meta
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(ours(IDS.cuda()), whole(IDS.cuda()), atol=1e-5)


def test_limits_offload_what_does_not_fit(tmp_path: Path) -> None:
    model = real(size=128, blocks=6)
    write(tmp_path, tensors_of(model))
    ours = skeleton(size=128, blocks=6)
    load_into(
        ours,
        tmp_path,
        device_map="auto",
        max_memory={0: "1MB", "cpu": "1GB"},
        no_split_modules=["Block"],
    )
    assert set(ours.hf_device_map.values()) == {0, "cpu"}
    with torch.no_grad():
        found = ours(IDS.cuda()).cpu()
    assert torch.allclose(found, model(IDS), atol=1e-4)


def test_an_interrupted_load_leaves_the_skeleton(tmp_path: Path) -> None:
    write(tmp_path, tensors_of(real(blocks=6)))
    module = skeleton(blocks=6)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_into(module, tmp_path, device_map="cuda", progress=stop)
    assert all(p.is_meta for p in module.parameters())
    assert not any(t.name.startswith("quantload-read") for t in threading.enumerate())

"""Peak memory: the final weights and a buffer that does not grow with the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantload.checkpoint import save_checkpoint

MB = 1_000_000
SCRIPT = """
import ctypes, gc, json, sys
from pathlib import Path
import torch
from torch import nn
sys.path.insert(0, {here!r})
import nets, rowwise, quantload
from quantload.plugin import API, QuantizerPlugin

quantload.register("rowwise", QuantizerPlugin(
    api=API, config=rowwise.RowwiseConfig, quantizer=rowwise.RowwiseQuantizer))

def field(name):
    text = Path("/proc/self/status").read_text()
    return next(int(l.split()[1]) * 1024 for l in text.splitlines() if l.startswith(name))

def load(folder, count, **kwargs):
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(count)))
    quantload.load_into(model, folder, **kwargs)
    return model

kwargs = {kwargs!r}
load({small!r}, 2, **kwargs)  # imports and thread pools are not what is measured
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = field("VmRSS:")
model = load({large!r}, {count}, **kwargs)
final = sum(t.nbytes for t in model.parameters())
print(json.dumps({{"peak": field("VmHWM:") - before, "final": final}}))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small and a large checkpoint of float32 linear layers: 8 and 378 MB."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in (2, 90):
        tensors = {}
        for index in range(count):
            tensors[f"{index}.weight"] = torch.randn(1024, 1024, generator=generator)
            tensors[f"{index}.bias"] = torch.zeros(1024)
        folder = tmp_path_factory.mktemp("linears") / "model"
        found.append(save_checkpoint(folder, tensors, max_shard_size="130MB", sync=False))
    return found[0], found[1]


def measure(folders: tuple[Path, Path], **kwargs: object) -> tuple[int, int]:
    script = SCRIPT.format(
        here=str(Path(__file__).parent),
        kwargs=kwargs,
        small=str(folders[0]),
        large=str(folders[1]),
        count=90,
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=120, capture_output=True, text=True
    )
    figures = json.loads(done.stdout)
    return figures["peak"], figures["final"]


def test_mapped_weights_take_none(folders: tuple[Path, Path]) -> None:
    peak, final = measure(folders)
    assert final > 370 * MB
    assert peak < 16 * MB


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dtype": "bfloat16"},
        {"quantization_config": {"quant_method": "rowwise"}},
        pytest.param({"mmap": False}, marks=pytest.mark.slow),
    ],
    ids=["cast", "quantized", "copied"],
)
def test_the_rest_is_bounded(folders: tuple[Path, Path], kwargs: dict[str, object]) -> None:
    peak, final = measure(folders, **kwargs)
    # 64 MiB of staging, what one layer takes, and what the allocator keeps meanwhile
    assert peak < final + 200 * MB

"""`quantload info` for a name on the hub: headers are fetched, weights are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_hub import COMMIT, fake_hub
from safetensors.torch import save_file

SUPPORT = Path(__file__).parents[1] / "support"
TOY = (
    "import sys; sys.path.insert(0, {support!r})\n"
    "import quantload; from toy8.plugin import PLUGIN\n"
    "from quantload.cli import main\n"
    "sys.argv = ['quantload', 'info', *sys.argv[1:], '--json']\n"
    "with quantload.register('toy8', PLUGIN): main()\n"
)


@pytest.fixture
def repository(tmp_path):
    """A toy8 repository of two shards, in a subfolder."""
    folder = tmp_path / "repository" / "inner"
    folder.mkdir(parents=True)
    shards = {
        "model-00001-of-00002.safetensors": {
            "up.codes": torch.zeros(512, 256, dtype=torch.int8),
            "up.scales": torch.ones(512),
        },
        "model-00002-of-00002.safetensors": {"norm.weight": torch.ones(256, dtype=torch.bfloat16)},
    }
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    index = {"weight_map": {t: name for name, tensors in shards.items() for t in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "toy8"}}')
    return folder.parent


def info(tmp_path, *arguments, **env):
    done = subprocess.run(
        [sys.executable, "-c", TOY.format(support=str(SUPPORT)), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", **env},
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_repository_is_described_from_its_headers(tmp_path, repository):
    with fake_hub(repository, "owner/toy") as (endpoint, fetched):
        code, answer = info(tmp_path, "owner/toy", "--subfolder", "inner", HF_ENDPOINT=endpoint)
    assert code == 0, answer
    assert answer["parameters"] == 512 * 256 + 256
    assert answer["packed"][0]["modules"] == 1
    weights = sum((repository / "inner" / name).stat().st_size for name in answer["files"])
    assert answer["bytes"]["files"] == weights
    shards = [size for name, size in fetched if name.endswith(".safetensors")]
    assert shards
    assert all(size <= 100_001 for size in shards)  # the first request of the hub's library
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def test_a_repository_in_the_cache_asks_nobody(tmp_path, repository):
    cache = tmp_path / "hf" / "hub" / "models--owner--toy"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    (cache / "snapshots").mkdir()
    (repository / "inner").rename(cache / "snapshots" / COMMIT)
    code, answer = info(tmp_path, "owner/toy", HF_HUB_OFFLINE="1")
    assert (code, answer["method"]) == (0, "toy8"), answer


def test_a_repository_nobody_has_is_a_readable_error(tmp_path, repository):
    with fake_hub(repository, "owner/toy") as (endpoint, _):
        code, answer = info(tmp_path, "owner/other", HF_ENDPOINT=endpoint)
    assert code == 1
    assert answer["error"]["type"] == "CheckpointError"
    assert "owner/other" in answer["error"]["message"]

"""What the tests of this folder share: the device, methods, and small models of random weights.

A test that asks for `device` needs CUDA. Its body runs on the CPU, too, which is how it is
tried out where there is no GPU: `QUANTLOAD_TEST_DEVICE=cpu pytest tests/gpu`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import quantload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [
    str(ROOT / "tests" / "core" / "support"),
    str(ROOT / "tests" / "integration" / "bridge"),
    str(ROOT / "examples" / "third_party_plugin" / "src"),
    str(ROOT / "examples" / "minimal_plugin" / "src"),
]
DEVICE = os.environ.get("QUANTLOAD_TEST_DEVICE", "cuda")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.slow)


@pytest.fixture(scope="session")
def device() -> str:
    """Where models are loaded to."""
    return DEVICE


@pytest.fixture(scope="module")
def _strangers() -> Iterator[None]:
    """Methods of others, for the tests of a module: registered in code."""
    from quantload_hqq.plugin import PLUGIN as HQQ
    from quantload_rtn8.plugin import PLUGIN as RTN8
    from toy8.plugin import PLUGIN as TOY

    register = quantload.register
    with register("hqq", HQQ), register("toy8", TOY), register("rtn8", RTN8):
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a float Llama of random weights, wide enough for blocks of 256."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def packed(
    _strangers: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, Any]], Path]:
    """Folder of that model, quantized by a config and saved by quantload alone."""
    folders: dict[str, Path] = {}

    def make(config: dict[str, Any]) -> Path:
        key = repr(config)
        if key not in folders:
            folder = tmp_path_factory.mktemp("packed") / "saved"
            model = quantload.load_model(tiny, quantization_config=dict(config))
            folders[key] = quantload.save_model(model, folder, max_shard_size="1GB")
        return folders[key]

    return make

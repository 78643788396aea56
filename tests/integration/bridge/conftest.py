"""The bridge, enabled around every test, and tiny models to load."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import quantload
from quantload.registry import register

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [
    str(ROOT / "tests" / "core" / "support"),
    str(ROOT / "examples" / "third_party_plugin" / "src"),
    str(ROOT / "examples" / "minimal_plugin" / "src"),
    str(Path(__file__).parent),
]
from methods import METHODS, TINY  # noqa: E402  found by the line above

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    with quantload.enable_transformers():
        yield


@pytest.fixture(autouse=True, scope="module")
def _strangers() -> Iterator[None]:
    """Methods of others, registered in code: the bridge serves them like any other.

    For a module, not longer: other tests of the same process install methods of these names.
    """
    from quantload_hqq.plugin import PLUGIN as HQQ
    from quantload_rtn8.plugin import PLUGIN as RTN8
    from toy8.plugin import PLUGIN as TOY8

    with register("toy8", TOY8), register("hqq", HQQ), register("rtn8", RTN8):
        yield


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    """Two sequences of 12 tokens."""
    return torch.arange(24).reshape(2, 12) * 7 % 320


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a float Llama of random weights."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TINY, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def packed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the same model, quantized with a method and saved by quantload alone."""
    folders: dict[str, Path] = {}

    def make(method: str) -> Path:
        if method not in folders:
            folder = tmp_path_factory.mktemp(method)
            model = quantload.load_model(tiny, quantization_config=METHODS[method])
            folders[method] = quantload.save_model(model, folder / "saved", max_shard_size="1GB")
        return folders[method]

    return make

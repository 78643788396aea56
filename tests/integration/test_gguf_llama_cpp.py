"""The files that are written here run in llama.cpp, with the same tokens and the same numbers."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from quantload import GgufConfig, load_model, save_model
from quantload_gguf import load_tokenizer

llama_cpp = pytest.importorskip("llama_cpp")

pytestmark = pytest.mark.slow

_path = Path(__file__).parents[1] / "plugins" / "gguf" / "cases.py"
_spec = importlib.util.spec_from_file_location("gguf_cases", _path)
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

TEXTS = (
    "def read(self, path):\n    ",
    "import os\nclass A:\n\tdef f(x): return x**2  # é naïve 🙂 中文 Ünïcode 12345 don't",
    "  two   spaces\n\n\n\nend ",
)
# Their files differ from what small models can show: a choice by context length, and norms that
# llama.cpp looks for in models of 64 layers and more.
NOT_SMALL = ("phi3, longrope", "command-r, norms of heads", "bert")


def opened(path: Path) -> "llama_cpp.Llama":
    return llama_cpp.Llama(str(path), logits_all=True, verbose=False, n_ctx=256, n_threads=1)


def numbers(model: "llama_cpp.Llama", ids: list[int]) -> np.ndarray:
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


# llama.cpp rounds the input of packed products to 8 bits.
@pytest.mark.parametrize(("kind", "error"), [(None, 2e-3), ("Q8_0", 0.04), ("Q4_0", 0.04)])
def test_the_demo_model(kind, error, demo_model, tmp_path):
    config = GgufConfig(type=kind) if kind else None
    model = load_model(demo_model, quantization_config=config, dtype=torch.float16)
    path = save_model(model, tmp_path / "m.gguf")
    ours, tokenizer = load_model(path, dtype=torch.float32), load_tokenizer(path)
    theirs = opened(path)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert theirs.tokenize(text.encode(), add_bos=True, special=True) == ids
        found = ours(torch.tensor([ids])).logits[0].detach().numpy()
        expected = numbers(theirs, ids)
        assert np.linalg.norm(found - expected) < error * np.linalg.norm(expected)
    prompt = tokenizer(TEXTS[0], return_tensors="pt")
    made = ours.generate(**prompt, max_new_tokens=12, do_sample=False)
    text = tokenizer.decode(made[0][prompt.input_ids.shape[1] :], skip_special_tokens=True)
    assert theirs(TEXTS[0], max_tokens=12, temperature=0.0)["choices"][0]["text"] == text


@pytest.mark.parametrize("case", [case for case in cases.CASES if case not in NOT_SMALL])
def test_every_architecture(case, demo_model, tmp_path, monkeypatch):
    name, settings = cases.CASES[case]
    monkeypatch.setitem(cases.CASES, case, (name, {**settings, "vocab_size": 4096}))
    cases.original(case).save_pretrained(tmp_path / "float")
    for file in demo_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "float")
    model = load_model(tmp_path / "float")
    path = save_model(model, tmp_path / "m.gguf", sync=False)
    ids = torch.randint(3, 4096, (1, 40), generator=torch.Generator().manual_seed(7))
    found = cases.outputs(model, ids)[0].numpy()
    expected = numbers(opened(path), ids[0].tolist())
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_a_model_in_several_files(demo_model, tmp_path):
    model = load_model(demo_model, quantization_config=GgufConfig(type="Q8_0"))
    first = save_model(model, tmp_path / "m.gguf", max_shard_size="2MB")
    whole = save_model(model, tmp_path / "m.gguf")
    ids = load_tokenizer(first)(TEXTS[0]).input_ids
    assert np.array_equal(numbers(opened(first), ids), numbers(opened(whole), ids))

"""The files that are written here run in llama.cpp, with the same tokens and the same numbers."""

import ctypes
import importlib.util
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from quantload import GgufConfig, load_model, save_model
from quantload_gguf import load_tokenizer, open_gguf
from quantload_gguf.vocabulary.splitting import SPLITTINGS

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
NOT_SMALL = ("phi3, longrope", "command-r, norms of heads", "bert", "bert, distilled")


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


# Of the mixtures that need no importance matrix, those that differ in their types.
MIXTURES = ("Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ3_S", "IQ4_XS")


@pytest.fixture(scope="module")
def half(demo_model, tmp_path_factory) -> Path:
    model = load_model(demo_model, dtype=torch.float16)
    return save_model(model, tmp_path_factory.mktemp("half") / "F16.gguf")


@pytest.mark.parametrize("name", MIXTURES)
def test_files_that_llama_quantize_makes(name, half, tmp_path):
    path = tmp_path / f"{name}.gguf"
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype, asked.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"), 1
    done = llama_cpp.llama_model_quantize(
        str(half).encode(), str(path).encode(), ctypes.byref(asked)
    )
    assert done == 0
    with open_gguf(path) as file:
        assert len({tensor.dtype for tensor in file.tensors.values()}) > 1
    ids = load_tokenizer(path)(TEXTS[1] * 4).input_ids
    expected = numbers(opened(path), ids)
    for dtype in (torch.float32, None):
        model = load_model(path, dtype=dtype or "auto")
        with torch.no_grad():
            found = model(torch.tensor([ids])).logits[0].float().numpy()
        # llama.cpp rounds the input of every product to 8 bits.
        assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


# Where llama.cpp has an expression of its own in place of the model's, or a model has one that
# works on bytes (Falcon), the model's counts here.
OTHERWISE = (
    *("falcon", "default", "tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    *("granite-embed-multi-97m", "tiny_aya", "cohere2moe"),
)
SPLIT = (
    *TEXTS,
    "I'm here, THEY'RE there; we'Ve gone. x,000 1,000,000 $5 <a> [b] {c} ~!@#",
    "\u6c49\u5b57\u548c\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u0442\u0435\u0441\u0442 1234567",
    "a\r\n\r\nb \t\t c  \n \n  d",
)


@pytest.mark.parametrize("pre", [name for name in SPLITTINGS if name not in OTHERWISE])
def test_ways_to_split(pre, tmp_path):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([*SPLIT] * 30, trainer)
    size = trained.get_vocab_size()
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "gpt2")
    for name in ("context_length", "embedding_length", "block_count", "head_count"):
        getattr(writer, f"add_{name}")(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([trained.id_to_token(i) for i in range(size)])
    writer.add_token_types([3, 3] + [1] * (size - 2))
    writer.add_token_merges(
        [" ".join(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    theirs = llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    ours = load_tokenizer(tmp_path / "v.gguf")
    for text in SPLIT:
        expected = theirs.tokenize(text.encode(), add_bos=False, special=False)
        assert ours(text, add_special_tokens=False).input_ids == expected

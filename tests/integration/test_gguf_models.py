"""GGUF files of every covered architecture become models that give the original's logits."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from gguf import GGMLQuantizationType

import quantload
from quantload import load_model
from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.modules import QuantizedEmbedding, QuantizedLinear, hosts_of
from quantload_gguf import GgufWeight
from quantload_gguf.architectures import ARCHITECTURES

_spec = importlib.util.spec_from_file_location(
    "gguf_converter", Path(__file__).parents[1] / "plugins" / "gguf" / "converter.py"
)
converter = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(converter)

VOCABULARY = 96
BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FALCON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "long_factor": [1.5, 2.0, 2.0, 3.0, 4.0, 5.0],
    "short_factor": [1.0, 1.0, 1.0, 1.1, 1.2, 1.3],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "llama": ("LlamaForCausalLM", BASE),
    "llama, biases, tied": (
        "LlamaForCausalLM",
        {**BASE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama, wide heads, rope of Llama 3": (
        "LlamaForCausalLM",
        {**BASE, "head_dim": 32, "rope_parameters": LLAMA3},
    ),
    "llama, linear rope": (
        "LlamaForCausalLM",
        {**BASE, "rope_parameters": {"rope_type": "linear", "rope_theta": 2e4, "factor": 4.0}},
    ),
    "llama, yarn": ("LlamaForCausalLM", {**BASE, "rope_parameters": {**YARN, "rope_theta": 2e4}}),
    "llama from Mistral": ("MistralForCausalLM", {**BASE, "sliding_window": None}),
    "llama from Mixtral": (
        "MixtralForCausalLM",
        {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2": ("Qwen2ForCausalLM", BASE),
    "qwen3": ("Qwen3ForCausalLM", {**BASE, "head_dim": 32}),
    "qwen2moe": (
        "Qwen2MoeForCausalLM",
        {**BASE, **EXPERTS, "shared_expert_intermediate_size": 64, "norm_topk_prob": False},
    ),
    "qwen3moe": (
        "Qwen3MoeForCausalLM",
        {**BASE, **EXPERTS, "head_dim": 32, "norm_topk_prob": True},
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**BASE, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **BASE,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "num_hidden_layers": 7,
        },
    ),
    "phi3": ("Phi3ForCausalLM", {**BASE, "original_max_position_embeddings": 256}),
    "phi3, longrope": (
        "Phi3ForCausalLM",
        {**BASE, "original_max_position_embeddings": 128, "rope_parameters": LONG},
    ),
    "falcon, one key head": ("FalconForCausalLM", {**FALCON, "multi_query": True}),
    "falcon, two norms": (
        "FalconForCausalLM",
        {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "falcon, one norm": (
        "FalconForCausalLM",
        {
            **FALCON,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 128},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", BASE),
    "stablelm": ("StableLmForCausalLM", {**BASE, "use_qkv_bias": True}),
    "stablelm, norms of heads": (
        "StableLmForCausalLM",
        {**BASE, "qk_layernorm": True, "use_parallel_residual": True},
    ),
    "command-r": ("CohereForCausalLM", BASE),
    "command-r, norms of heads": ("CohereForCausalLM", {**BASE, "use_qk_norm": True}),
    "bert": ("BertModel", {k: v for k, v in BASE.items() if k != "num_key_value_heads"}),
}


def arch_of(case: str) -> str:
    return case.partition(",")[0].partition(" from ")[0]


def original(case: str) -> torch.nn.Module:
    """A small model with random weights, norms and biases among them."""
    name, settings = CASES[case]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**settings)).eval()
    zero_centred = "gemma" in model.config.model_type
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            norm = "norm" in key.lower() or ".ln_" in key
            mean = 1.0 if norm and key.endswith("weight") and not zero_centred else 0.0
            parameter.normal_(mean, 0.2 if norm else 0.08)
    return model


def outputs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(ids)
    return (found.logits if hasattr(found, "logits") else found.last_hidden_state).float()


def rounded(model: torch.nn.Module, arch: str, kind: str) -> torch.nn.Module:
    """The model with the numbers that a file of this type holds."""
    block = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            value = parameter.detach().float().numpy()
            turned = arch == "gpt2" and key.endswith(
                ("c_attn.weight", "c_proj.weight", "c_fc.weight")
            )
            value = np.ascontiguousarray(value.T) if turned else value
            router = key.endswith(("mlp.gate.weight", "shared_expert_gate.weight"))
            if value.ndim < 2 or value.shape[-1] % block or "norm" in key or router:
                continue
            quant = GGMLQuantizationType[kind]
            value = gguf.quants.dequantize(gguf.quants.quantize(value, quant), quant)
            parameter.copy_(torch.from_numpy(value.T.copy() if turned else value))
    return model


def ids(length: int = 40) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(7))


def test_every_covered_architecture_has_a_case():
    cases = {arch_of(case) for case in CASES}
    assert cases | {"mistral", "mixtral"} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES)
def test_a_float_file_gives_the_logits_of_the_original(case, tmp_path):
    model = original(case)
    path = converter.convert(model, arch_of(case), tmp_path / "m.gguf")
    loaded = load_model(path)
    assert loaded.dtype == torch.float32
    assert loaded.config.model_type in (model.config.model_type, "llama")
    torch.testing.assert_close(outputs(loaded, ids()), outputs(model, ids()), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_packed_file_gives_the_logits_of_its_numbers(case, tmp_path):
    arch = arch_of(case)
    model = original(case)
    path = converter.convert(model, arch, tmp_path / "m.gguf", "Q8_0")
    loaded = load_model(path, dtype=torch.float32)
    hosts = dict(hosts_of(loaded))
    assert hosts
    assert all(isinstance(host.weight, GgufWeight) for host in hosts.values())
    expected = outputs(rounded(model, arch, "Q8_0"), ids())
    torch.testing.assert_close(outputs(loaded, ids()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"])
def test_other_types(kind, tmp_path):
    model = original("llama")
    path = converter.convert(model, "llama", tmp_path / "m.gguf", kind)
    expected = outputs(rounded(model, "llama", kind), ids())
    found = outputs(load_model(path, dtype=torch.float32), ids())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    fast = load_model(path)
    assert fast.dtype == torch.bfloat16
    assert (outputs(fast, ids()) - expected).norm() < 0.03 * expected.norm()


def test_a_half_precision_file_is_loaded_in_half_precision(tmp_path):
    model = original("llama")
    loaded = load_model(converter.convert(model, "llama", tmp_path / "m.gguf", "F16"))
    assert loaded.dtype == torch.float16
    expected = outputs(model, ids())
    assert (outputs(loaded, ids()) - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_stay_packed_and_a_tied_head_shares_them(tied, tmp_path):
    _, settings = CASES["llama"]
    torch.manual_seed(1)
    config = transformers.LlamaConfig(**{**settings, "tie_word_embeddings": tied})
    model = transformers.LlamaForCausalLM(config).eval()
    path = converter.convert(model, "llama", tmp_path / "m.gguf", "Q8_0")
    loaded = load_model(path)
    embedding, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
    assert isinstance(embedding, QuantizedEmbedding)
    assert isinstance(head, QuantizedLinear)
    assert (embedding.weight is head.weight) == tied
    assert loaded.config.tie_word_embeddings == tied


def test_the_model_generates(tmp_path):
    loaded = load_model(converter.convert(original("llama"), "llama", tmp_path / "m.gguf", "Q4_0"))
    found = loaded.generate(ids(5), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert found.shape == (2, 11)


def test_generation_ends_where_the_file_says(tmp_path):
    def fill(writer):
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_eot_token_id(5)
        writer.add_pad_token_id(0)

    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf", fill=fill)
    loaded = load_model(path)
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id) == (1, 2)
    assert loaded.generation_config.eos_token_id == [2, 5]
    assert loaded.generation_config.pad_token_id == 0


def test_a_split_model_is_loaded_whole(tmp_path):
    model = original("qwen2")
    converter.convert(model, "qwen2", tmp_path / "m.gguf", "Q8_0", split_max_tensors=5)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) > 3
    loaded = load_model(parts[0], dtype=torch.float32)
    expected = outputs(rounded(model, "qwen2", "Q8_0"), ids())
    torch.testing.assert_close(outputs(loaded, ids()), expected, atol=1e-4, rtol=1e-4)
    parts[2].unlink()
    with pytest.raises(CheckpointError, match=f"1 of them are absent: {parts[2].name}"):
        load_model(parts[0])


def test_an_architecture_that_is_not_covered_is_named(tmp_path):
    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf")
    data = path.read_bytes().replace(b"llama", b"lllma")
    path.write_bytes(data)
    with pytest.raises(UnsupportedOperationError, match=r"'lllma' is not covered.*bert, command-r"):
        load_model(path)
    with quantload.open_checkpoint(path) as file:
        assert file.read("token_embd.weight").shape == (VOCABULARY, 64)


@pytest.mark.parametrize("kind", ["adapter", "imatrix", "mmproj"])
def test_files_that_hold_no_model_say_what_they_hold(kind, tmp_path):
    def fill(writer):
        writer.add_type(kind)

    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf", fill=fill)
    with pytest.raises(UnsupportedOperationError, match=r"it holds .*, not a model"):
        load_model(path)


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path, monkeypatch):
    tensors = converter.tensors

    def fewer(arch, model):
        found = tensors(arch, model)
        del found["blk.1.ffn_up.weight"]
        return found

    monkeypatch.setattr(converter, "tensors", fewer)
    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(CheckpointError, match=r"missing.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(path)


def test_a_tensor_that_no_rule_knows_is_noticed(tmp_path, monkeypatch):
    tensors = converter.tensors

    def more(arch, model):
        return {**tensors(arch, model), "blk.0.something_new.weight": torch.ones(3, 32)}

    monkeypatch.setattr(converter, "tensors", more)
    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(CheckpointError, match=r"blk\.0\.something_new\.weight"):
        load_model(path)


def test_a_setting_that_is_missing_is_named(tmp_path):
    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf")
    path.write_bytes(
        path.read_bytes().replace(b"llama.embedding_length", b"llama.embedding_lengtX")
    )
    with pytest.raises(
        CheckpointError, match=r"whole number for llama\.embedding_length, found noth"
    ):
        load_model(path)


def test_load_into_takes_a_file_too(tmp_path):
    model = original("qwen3")
    path = converter.convert(model, "qwen3", tmp_path / "m.gguf", "Q8_0")
    with init_empty_weights():
        skeleton = transformers.Qwen3ForCausalLM(model.config)
    quantload.load_into(skeleton, path, dtype=torch.float32)
    expected = outputs(rounded(model, "qwen3", "Q8_0"), ids())
    torch.testing.assert_close(outputs(skeleton.eval(), ids()), expected, atol=1e-4, rtol=1e-4)


def test_rope_factors_that_no_llama_3_setting_gives_are_kept_as_they_are(tmp_path, monkeypatch):
    factors = torch.tensor([1.0, 3.0, 1.5, 2.0, 5.0, 1.0, 7.0, 2.5])
    monkeypatch.setattr(converter, "llama3_factors", lambda rope, width: factors)
    _, settings = CASES["llama"]
    config = transformers.LlamaConfig(**{**settings, "rope_parameters": LLAMA3})
    model = transformers.LlamaForCausalLM(config)
    loaded = load_model(converter.convert(model, "llama", tmp_path / "m.gguf"))
    plain = 500000.0 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq.float(), plain / factors)

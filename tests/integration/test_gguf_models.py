"""GGUF files of every covered architecture become models that give the original's logits."""

import importlib.util
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from accelerate import init_empty_weights

import quantload
from quantload import load_model
from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.modules import QuantizedEmbedding, QuantizedLinear, hosts_of
from quantload_gguf import GgufWeight, open_gguf
from quantload_gguf.architectures import ARCHITECTURES


def _helper(name: str):
    path = Path(__file__).parents[1] / "plugins" / "gguf" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"gguf_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


converter, cases = _helper("converter"), _helper("cases")
CASES, LLAMA3, VOCABULARY = cases.CASES, cases.LLAMA3, cases.VOCABULARY
arch_of, ids, original = cases.arch_of, cases.ids, cases.original
outputs, rounded = cases.outputs, cases.rounded


def test_every_covered_architecture_has_a_case():
    cases = {arch_of(case) for case in CASES}
    assert cases | {"mistral", "mixtral", "distilbert"} == set(ARCHITECTURES)


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


@pytest.mark.parametrize("chat", [True, False])
def test_a_chat_ends_with_its_turns(chat, tmp_path):
    def fill(writer):
        tokens = [f"t{i}" for i in range(VOCABULARY)]
        tokens[7], tokens[9] = "<end_of_turn>", "<|im_end|>"
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([1] * 7 + [3] + [1] * (VOCABULARY - 8))  # the other one is text
        writer.add_eos_token_id(2)
        if chat:
            writer.add_chat_template("{{ messages }}")

    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf", fill=fill)
    loaded = load_model(path)
    assert loaded.config.eos_token_id == 2
    assert loaded.generation_config.eos_token_id == ([2, 7] if chat else 2)
    again = load_model(quantload.save_model(loaded, tmp_path / "n.gguf", sync=False))
    assert again.generation_config.eos_token_id == loaded.generation_config.eos_token_id


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


def test_heads_by_layer_count_where_all_are_equal_and_are_refused_where_not(tmp_path):
    model = original("llama")

    def fill(writer, heads):
        writer.kv_data[0].pop("llama.attention.head_count_kv")
        writer.add_head_count_kv(heads)

    path = converter.convert(model, "llama", tmp_path / "m.gguf", fill=lambda w: fill(w, [2, 2, 2]))
    torch.testing.assert_close(outputs(load_model(path), ids()), outputs(model, ids()))
    path = converter.convert(model, "llama", tmp_path / "m.gguf", fill=lambda w: fill(w, [2, 4, 2]))
    with pytest.raises(UnsupportedOperationError, match=r"head_count_kv differs from layer to lay"):
        load_model(path)
    with open_gguf(path) as file:
        assert file.read("blk.1.attn_k.weight").shape == (32, 64)


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


def test_a_type_that_is_not_decoded_is_named_with_its_tensor(tmp_path):
    path = tmp_path / "m.gguf"
    found = converter.tensors("llama", original("llama"))
    writer = gguf.GGUFWriter(path, "llama")
    converter.settings(writer, "llama", original("llama").config)
    for name, tensor in found.items():
        writer.add_tensor(name, tensor.numpy())
    blocks = torch.zeros(2, 36, dtype=torch.uint8).numpy()
    writer.add_tensor("blk.0.w", blocks, raw_dtype=gguf.GGMLQuantizationType.Q1_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        UnsupportedOperationError, match=r"m\.gguf: tensor blk\.0\.w is of the type Q1_0"
    ):
        load_model(path)


def test_an_importance_matrix_names_no_architecture_and_is_told_by_its_type(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedOperationError, match="it holds an importance matrix, not a mod"):
        load_model(tmp_path / "m.gguf")


def test_sampling_settings_are_those_of_generation(tmp_path):
    def fill(writer):
        writer.add_uint32("general.sampling.top_k", 20)
        writer.add_float32("general.sampling.top_p", 0.8)
        writer.add_float32("general.sampling.temp", 0.7)

    path = converter.convert(original("llama"), "llama", tmp_path / "m.gguf", fill=fill)
    loaded = load_model(path)
    found = loaded.generation_config
    assert (found.top_k, found.top_p, found.temperature) == (20, 0.8, 0.7)
    assert found.do_sample
    again = load_model(quantload.save_model(loaded, tmp_path / "n.gguf")).generation_config
    assert (again.top_k, again.top_p, again.temperature) == (20, 0.8, 0.7)


def test_a_factor_of_attention_on_top_of_yarn(tmp_path):
    def fill(writer):
        writer.add_float32("llama.rope.scaling.attn_factor", 0.5)

    case = "llama, yarn"
    loaded = load_model(converter.convert(original(case), "llama", tmp_path / "m.gguf", fill=fill))
    plain = load_model(converter.convert(original(case), "llama", tmp_path / "p.gguf"))
    assert loaded.model.rotary_emb.attention_scaling == pytest.approx(
        0.5 * plain.model.rotary_emb.attention_scaling
    )
    again = load_model(quantload.save_model(loaded, tmp_path / "n.gguf"))
    assert torch.allclose(outputs(again, ids()), outputs(loaded, ids()), atol=1e-5)


def test_mistral_says_that_yarn_does_not_scale_attention(tmp_path):
    def fill(writer):
        writer.add_float32("llama.rope.scaling.yarn_log_multiplier", 1.0)

    path = converter.convert(original("llama, yarn"), "llama", tmp_path / "m.gguf", fill=fill)
    assert load_model(path).model.rotary_emb.attention_scaling == pytest.approx(1.0)


@pytest.mark.parametrize(
    "case", ["llama, biases, tied", "llama, wide heads, rope of Llama 3", "qwen3"]
)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_projections_that_were_merged_are_taken_apart(case, kind, tmp_path, monkeypatch):
    tensors = converter.tensors

    def merged(arch, model):
        found = tensors(arch, model)
        for name in [name for name in found if ".attn_q." in name]:
            parts = [found.pop(name.replace("attn_q", f"attn_{which}")) for which in "qkv"]
            found[name.replace("attn_q", "attn_qkv")] = torch.cat(parts)
        return found

    model, arch = original(case), arch_of(case)
    apart = load_model(converter.convert(model, arch, tmp_path / "a.gguf", kind))
    monkeypatch.setattr(converter, "tensors", merged)
    loaded = load_model(converter.convert(model, arch, tmp_path / "m.gguf", kind))
    assert loaded.config.attention_bias == apart.config.attention_bias
    assert len(dict(hosts_of(loaded))) == len(dict(hosts_of(apart)))
    assert torch.equal(outputs(loaded, ids()), outputs(apart, ids()))
    again = load_model(quantload.save_model(loaded, tmp_path / "again.gguf", sync=False))
    assert torch.equal(outputs(again, ids()), outputs(apart, ids()))


def test_files_of_gemma_2_that_name_no_window_have_the_one_of_all_its_models(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.GGUFWriter, "add_sliding_window", lambda *_: None)
    loaded = load_model(converter.convert(original("gemma2"), "gemma2", tmp_path / "m.gguf"))
    assert loaded.config.sliding_window == 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["llama", "command-r", "bert"])
def test_the_dtype_of_a_packed_model_is_the_one_it_computes_in(case, dtype, tmp_path):
    path = converter.convert(original(case), arch_of(case), tmp_path / "m.gguf", "Q8_0")
    assert load_model(path, dtype=dtype).dtype == dtype

"""Models become `.gguf` files that load again equal, whichever way they came in."""

import importlib.util
from pathlib import Path

import gguf
import pytest
import torch
import transformers

import quantload
from quantload import GgufConfig, load_model, save_model
from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.modules import hosts_of
from quantload_gguf import load_tokenizer, open_gguf


def _helper(name: str):
    path = Path(__file__).parents[1] / "plugins" / "gguf" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"gguf_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


converter, cases = _helper("converter"), _helper("cases")
outputs, ids = cases.outputs, cases.ids
TEXTS = ("def f(x):\n\treturn x", "élan naïve", "🙂🇨🇭", "中文 text", "  two  spaces ", "")


def same_config(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.config.to_dict(), b.config.to_dict()
    for config in (first, second):
        for key in ("_name_or_path", "transformers_version"):
            config.pop(key, None)
    return first == second


@pytest.mark.parametrize("case", cases.CASES)
def test_a_model_from_a_file_is_saved_byte_for_byte(case, tmp_path):
    model = cases.original(case)
    source = converter.convert(model, cases.arch_of(case), tmp_path / "a.gguf", "Q8_0")
    loaded = load_model(source, dtype=torch.float32)
    out = save_model(loaded, tmp_path / "b.gguf", sync=False)
    with open_gguf(source) as old, open_gguf(out) as new:
        for key, value in old.metadata.items():
            if case == "gpt2, narrow" and key == "gpt2.feed_forward_length":
                continue  # converters write four times the hidden size whatever the tensors are
            assert new.metadata[key] == value, key
        assert set(new.tensors) == set(old.tensors)
        for name, tensor in old.tensors.items():
            assert new.tensors[name].shape == tensor.shape, name
            if tensor.dtype == "F32" or new.tensors[name].dtype == "F32":  # experts may be float
                same = (new.dequantize(name), old.dequantize(name))
                torch.testing.assert_close(*same, atol=1e-7, rtol=0)
            else:
                assert new.tensors[name].dtype == tensor.dtype, name
                assert torch.equal(new.read(name), old.read(name)), name
    again = load_model(out)
    assert again.dtype == torch.float32
    assert type(again) is type(loaded)
    assert same_config(again, loaded)
    torch.testing.assert_close(outputs(again, ids()), outputs(loaded, ids()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", cases.CASES)
def test_a_float_folder_becomes_a_file(case, tmp_path):
    model = cases.original(case)
    model.save_pretrained(tmp_path / "float")
    loaded = load_model(tmp_path / "float")
    out = save_model(loaded, tmp_path / "m.gguf", sync=False)
    again = load_model(out)
    assert type(again) is type(loaded)
    torch.testing.assert_close(outputs(again, ids()), outputs(model, ids()), atol=2e-6, rtol=1e-5)
    reader = gguf.GGUFReader(out)
    written = {tensor.name for tensor in reader.tensors}
    assert written == set(converter.tensors(cases.arch_of(case), model))


@pytest.mark.parametrize("case", ["llama", "gemma2", "qwen2", "phi3", "gpt2", "falcon, two norms"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_a_model_quantized_on_load_becomes_a_file(case, kind, tmp_path):
    cases.original(case).save_pretrained(tmp_path / "float")
    loaded = load_model(tmp_path / "float", quantization_config=GgufConfig(type=kind))
    assert len(list(hosts_of(loaded))) > 3
    again = load_model(save_model(loaded, tmp_path / "m.gguf", sync=False))
    assert len(list(hosts_of(again))) == len(list(hosts_of(loaded)))
    torch.testing.assert_close(outputs(again, ids()), outputs(loaded, ids()), atol=2e-6, rtol=1e-5)


def alignment(writer):
    writer.add_custom_alignment(64)


# The writer of the gguf package leaves the halves in blocks as they are in big-endian files (so
# floats there), and names the alignment in the first part of a split file only.
@pytest.mark.parametrize(
    ("kind", "fill", "options"),
    [
        ("F16", alignment, {"endianess": gguf.GGUFEndian.BIG}),
        ("Q8_0", alignment, {}),
        ("Q8_0", None, {"split_max_tensors": 5}),
        ("Q8_0", alignment, {"split_max_tensors": 5}),
    ],
    ids=["big-endian", "aligned", "split", "split and aligned"],
)
def test_a_file_of_another_form_becomes_one_little_endian_file(kind, fill, options, tmp_path):
    source = tmp_path / "a.gguf"
    converter.convert(cases.original("llama"), "llama", source, kind, fill, **options)
    loaded = load_model(source if source.exists() else min(tmp_path.glob("a-*.gguf")))
    out = save_model(loaded, tmp_path / "b.gguf")
    expected = 64 if fill else 32
    with open_gguf(out) as file:
        assert (file.big_endian, file.alignment) == (False, expected)
        assert not any(key.startswith("split.") for key in file.metadata)
        assert all(tensor.offset % expected == 0 for tensor in file.tensors.values())
    found = outputs(load_model(out), ids())
    assert found.isfinite().all()
    assert torch.equal(found, outputs(loaded, ids()))


@pytest.mark.parametrize("kind", [None, "Q8_0", "Q4_0"])
def test_the_demo_model_goes_into_a_file_and_comes_back(kind, demo_model, tmp_path):
    config = GgufConfig(type=kind) if kind else None
    model = load_model(demo_model, quantization_config=config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model)
    out = save_model(model, tmp_path / "deep" / "m.gguf")
    assert [path.name for path in out.parent.iterdir()] == ["m.gguf"]
    again, read = load_model(out), load_tokenizer(out)
    prompt = tokenizer("def read(self, path):", return_tensors="pt")
    assert torch.equal(again(**prompt).logits, model(**prompt).logits)
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    for text in TEXTS:
        assert read(text).input_ids == tokenizer(text).input_ids
        assert read.decode(tokenizer(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)
    assert (read.bos_token, read.eos_token, read.pad_token) == ("<s>", "</s>", "<pad>")
    # A second round is the same file.
    second = save_model(again, tmp_path / "n.gguf", sync=False)
    assert second.read_bytes() == out.read_bytes()


def test_a_model_that_transformers_loaded_is_written_with_its_tokenizer(demo_model, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(demo_model)
    out = save_model(model, tmp_path / "m.gguf", sync=False)
    assert torch.equal(outputs(load_model(out), ids()), outputs(model, ids()))
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model)
    assert load_tokenizer(out)(TEXTS[0]).input_ids == tokenizer(TEXTS[0]).input_ids
    # Programs that read such files without quantload agree.
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    difference = outputs(again, ids()) - outputs(model.float(), ids())
    assert difference.norm() < 0.01 * outputs(model, ids()).norm()


def test_a_folder_gets_the_file_and_what_belongs_beside_it(demo_model, tmp_path):
    model = load_model(demo_model, quantization_config=GgufConfig(type="Q8_0"))
    folder = save_model(model, tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert {"model.gguf", "config.json", "tokenizer.json"} <= names
    assert not any(name.endswith(".safetensors") for name in names)
    again = load_model(folder)
    assert torch.equal(outputs(again, ids()), outputs(model, ids()))
    # From the file alone, the tokenizer is made anew.
    other = save_model(load_model(folder / "model.gguf"), tmp_path / "other")
    found = transformers.AutoTokenizer.from_pretrained(other)
    assert found("x = 1").input_ids == load_tokenizer(folder / "model.gguf")("x = 1").input_ids


def test_a_model_is_saved_over_the_file_it_lies_in(demo_model, tmp_path):
    model = load_model(demo_model, quantization_config=GgufConfig(type="Q8_0"))
    out = save_model(model, tmp_path / "m.gguf")
    before, loaded = out.read_bytes(), load_model(out)
    expected = outputs(loaded, ids())
    assert save_model(loaded, out).read_bytes() == before
    assert torch.equal(outputs(loaded, ids()), expected)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    cases.original("llama").save_pretrained(tmp_path / "float")
    model = load_model(tmp_path / "float")
    out = tmp_path / "m.gguf"
    out.write_bytes(b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("quantload_gguf.container.writing._bytes", full)
    with pytest.raises(CheckpointError, match=r"No space left.*nothing was changed"):
        save_model(model, out)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float", "m.gguf"]


@pytest.mark.parametrize(
    ("case", "changes", "says"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', read from the file .* 'silu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_parameters is",
        ),
        ("gemma2", {"query_pre_attn_scalar": 7}, "query_pre_attn_scalar is 7"),
        ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob is False"),
    ],
)
def test_a_setting_that_files_cannot_hold_is_named(case, changes, says, tmp_path):
    name, settings = cases.CASES[case]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**settings, **changes}))
    with pytest.raises(UnsupportedOperationError, match=says):
        save_model(model, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_an_architecture_that_cannot_be_written_is_named_and_saved_as_safetensors(tmp_path):
    config = transformers.OPTConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=64,
        vocab_size=96,
        word_embed_proj_dim=64,
    )
    model = transformers.OPTForCausalLM(config).eval()
    with pytest.raises(UnsupportedOperationError, match=r"OPTForCausalLM cannot be .*LlamaForC"):
        save_model(model, tmp_path / "m.gguf")
    model.save_pretrained(tmp_path / "float")
    loaded = load_model(tmp_path / "float", quantization_config=GgufConfig(type="Q8_0"))
    folder = save_model(loaded, tmp_path / "out")
    assert (folder / "model.safetensors").is_file()
    assert torch.equal(outputs(load_model(folder), ids()), outputs(loaded, ids()))


def test_what_another_method_packed_is_not_put_into_a_gguf_file(demo_model, tmp_path):
    bnb = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    model = load_model(demo_model, quantization_config=bnb)
    with pytest.raises(UnsupportedOperationError, match=r"q_proj is packed as .*dequantize"):
        save_model(model, tmp_path / "m.gguf")
    floats = quantload.dequantize(model)
    again = load_model(save_model(floats, tmp_path / "m.gguf"))
    assert torch.equal(outputs(again, ids()), outputs(floats, ids()))


@pytest.mark.parametrize("source", ["float", "packed file"])
def test_a_model_becomes_several_files(source, demo_model, tmp_path):
    config = None if source == "float" else GgufConfig(type="Q8_0")
    model = load_model(demo_model, quantization_config=config)
    if source == "packed file":
        model = load_model(save_model(model, tmp_path / "whole.gguf", sync=False))
    first = save_model(model, tmp_path / "m.gguf", max_shard_size="2MB")
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert first == parts[0]
    assert [part.name for part in parts] == [
        f"m-{i:05d}-of-{len(parts):05d}.gguf" for i in range(1, len(parts) + 1)
    ]
    assert len(parts) > 2
    assert not list(tmp_path.glob(".quantload-*"))
    assert not (tmp_path / "m.gguf").exists()
    counts = []
    for number, part in enumerate(parts):
        reader = gguf.GGUFReader(part)
        assert int(reader.fields["split.no"].contents()) == number
        assert int(reader.fields["split.count"].contents()) == len(parts)
        assert ("tokenizer.ggml.tokens" in reader.fields) == (number == 0)
        counts.append(len(reader.tensors))
        assert sum(t.n_bytes for t in reader.tensors) <= 2_000_000 or counts[-1] == 1
    assert int(reader.fields["split.tensors.count"].contents()) == sum(counts)
    again = load_model(parts[1])
    assert again.dtype == model.dtype
    assert torch.equal(again(ids(9)).logits, model(ids(9)).logits)
    text = "def f(x):"
    assert load_tokenizer(first)(text).input_ids == load_tokenizer(parts[-1])(text).input_ids
    # Onto itself, and with other sizes; a single file where one is enough.
    assert save_model(again, first, max_shard_size="2MB", sync=False) == first
    assert torch.equal(load_model(first)(ids(9)).logits, model(ids(9)).logits)
    one = save_model(again, tmp_path / "one.gguf", max_shard_size="1GB", sync=False)
    assert one.name == "one.gguf"
    assert torch.equal(load_model(one)(ids(9)).logits, model(ids(9)).logits)


def test_several_files_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch):
    from quantload_gguf.saving import model as saving

    cases.original("llama").save_pretrained(tmp_path / "float")
    loaded = load_model(tmp_path / "float")
    first = save_model(loaded, tmp_path / "m.gguf", max_shard_size="50KB", sync=False)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.gguf")}

    def fails(*_):
        raise UnsupportedOperationError("not this one")

    monkeypatch.setattr(saving, "check_tensors", fails)
    with pytest.raises(UnsupportedOperationError, match="not this one"):
        save_model(loaded, first, max_shard_size="50KB")
    assert {path: path.read_bytes() for path in tmp_path.glob("*.gguf")} == before
    assert not list(tmp_path.glob(".quantload-*"))

"""`gguf_file=`: config, tokenizer and packed weights of one file, read by the plugin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from blocks import only_read
from methods import TINY
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import quantload
from quantload.modules import QuantizedEmbedding, QuantizedLinear

Q8 = {"quant_method": "gguf", "type": "Q8_0"}


@pytest.fixture(scope="module")
def files(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    packed = quantload.load_model(demo_model, quantization_config=Q8)
    quantload.save_model(packed, folder / "packed.gguf")
    quantload.save_model(quantload.load_model(demo_model), folder / "float.gguf")
    return folder


def _logits(model: transformers.PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


def test_a_packed_file_stays_packed(files: Path, ids: Tensor, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(files, gguf_file="packed.gguf")
    direct = quantload.load_model(files / "packed.gguf")
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)
    assert model.quantization_method == "gguf"
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    assert torch.equal(_logits(model, ids), _logits(direct, ids))
    assert model.generation_config.eos_token_id == direct.generation_config.eos_token_id
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(_logits(again, ids), _logits(model, ids))


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_blocks_that_are_only_read_go_through_every_door(
    kind: str, ids: Tensor, tmp_path: Path
) -> None:
    wide = {**TINY, "hidden_size": 256, "intermediate_size": 512}
    config = transformers.LlamaConfig(**wide, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "float")
    packed = quantload.load_model(tmp_path / "float", quantization_config=Q8)
    quantload.save_model(packed, tmp_path / "source.gguf")
    only_read(kind, tmp_path / "source.gguf", tmp_path / "blocks.gguf")

    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="blocks.gguf")
    direct = quantload.load_model(tmp_path / "blocks.gguf")
    logits = _logits(model, ids)
    assert torch.equal(logits, _logits(direct, ids))
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    plain = model.generate(ids, max_new_tokens=4, do_sample=False)
    static = {"cache_implementation": "static", "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(ids, **static), plain)
    half = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="blocks.gguf", dtype=torch.bfloat16, device_map="auto"
    )
    assert half.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(
        _logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), ids), logits
    )
    away = dict.fromkeys(
        ("model.embed_tokens", "model.layers.1", "model.norm", "model.rotary_emb"), "cpu"
    ) | dict.fromkeys(("model.layers.0", "lm_head"), "disk")
    limited = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", device_map=away, offload_folder=tmp_path / "offload"
    )
    torch.testing.assert_close(_logits(limited, ids), logits, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(_logits(model.dequantize(), ids), logits, atol=1e-3, rtol=1e-3)


def test_embedding_and_head_of_a_file_may_be_packed_and_tied(
    files: Path, tiny: Path, ids: Tensor, tmp_path: Path
) -> None:
    tied = transformers.AutoModelForCausalLM.from_pretrained(tiny, tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    config = {**Q8, "types": {"model.embed_tokens": "Q8_0"}}
    model = quantload.load_model(tmp_path / "tied", quantization_config=config)
    quantload.save_model(model, tmp_path / "packed", max_shard_size="1GB")
    direct = quantload.load_model(tmp_path / "packed")
    bridged = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    assert type(bridged.model.embed_tokens) is type(direct.model.embed_tokens)
    assert type(bridged.lm_head) is type(direct.lm_head)
    if isinstance(bridged.model.embed_tokens, QuantizedEmbedding):
        assert bridged.lm_head.weight is bridged.model.embed_tokens.weight
    assert torch.equal(_logits(bridged, ids), _logits(direct, ids))


def test_a_split_file_is_read_whole(files: Path, ids: Tensor, tmp_path: Path) -> None:
    parts = in_parts(files / "packed.gguf", tmp_path / "parts.gguf")
    assert len(parts) > 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=parts[0].name)
    assert isinstance(model.model.layers[-1].mlp.up_proj, QuantizedLinear)
    whole = quantload.load_model(files / "packed.gguf")
    assert torch.equal(_logits(model, ids), _logits(whole, ids))


def in_parts(file: Path, target: Path) -> list[Path]:
    """The same model as files of at most twelve tensors, by the original writer."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(target, "llama", split_max_tensors=12)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(target.parent.glob("parts-*.gguf"))


def test_a_float_file_is_a_float_model(files: Path, ids: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(files, gguf_file="float.gguf")
    assert not model.is_quantized
    assert not hasattr(model, "hf_quantizer")
    direct = quantload.load_model(files / "float.gguf")
    assert torch.equal(_logits(model, ids), _logits(direct, ids))


def test_config_and_tokenizer_come_from_the_file(files: Path, demo_model: Path) -> None:
    config = AutoConfig.from_pretrained(files, gguf_file="packed.gguf")
    original = AutoConfig.from_pretrained(demo_model)
    assert (config.model_type, config.hidden_size) == ("llama", original.hidden_size)
    text = "def main(argv):\n    return 0\n"
    mine = AutoTokenizer.from_pretrained(files, gguf_file="packed.gguf")
    theirs = AutoTokenizer.from_pretrained(demo_model)
    assert mine(text).input_ids == theirs(text).input_ids


def test_a_kept_format_is_read_by_transformers(files: Path) -> None:
    with quantload.enable_transformers(keep="gguf"):
        config = AutoConfig.from_pretrained(files, gguf_file="packed.gguf")
    assert getattr(config, "quantization_config", None) is None


def test_asking_for_a_float_model_says_how(files: Path) -> None:
    config = transformers.GgufConfig(dequantize=True)
    with pytest.raises(quantload.UnsupportedOperationError, match="dequantize"):
        AutoModelForCausalLM.from_pretrained(
            files, gguf_file="packed.gguf", quantization_config=config
        )


def test_a_quantization_config_of_its_own_file_counts(
    packed: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(packed("gptq"), tmp_path, dirs_exist_ok=True)
    said = json.loads((tmp_path / "config.json").read_text())
    own = said.pop("quantization_config")
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "quantize_config.json").write_text(json.dumps(own))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)

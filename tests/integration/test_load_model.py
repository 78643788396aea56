"""`load_model`: what a user of transformers finds, and what goes wrong in plain words."""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import quantload
from quantload import CheckpointError, UnsupportedOperationError
from quantload.modules import QuantizedLinear, hosts_of

IDS = torch.arange(2 * 8).reshape(2, 8) % 90 + 3
TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def make(folder: Path, kind: str = "llama", name: str = "LlamaForCausalLM", **more: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, name)(AutoConfig.for_model(kind, **{**TINY, **more})).eval()
    model.save_pretrained(folder)
    return model


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for key, value in changes.items():
        config.pop(key, None) if value is None else config.update({key: value})
    file.write_text(json.dumps(config))


class TestLikeFromPretrained:
    def test_attributes(self, demo_model: Path) -> None:
        ours = quantload.load_model(demo_model)
        theirs = AutoModelForCausalLM.from_pretrained(demo_model)
        assert ours.name_or_path == theirs.name_or_path == str(demo_model)
        assert ours.dtype == theirs.dtype == torch.bfloat16
        assert ours.config.to_dict() == theirs.config.to_dict()
        assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
        assert ours.get_memory_footprint() == theirs.get_memory_footprint()
        assert ours.num_parameters() == theirs.num_parameters()
        assert not hasattr(ours, "hf_quantizer")
        assert not ours.training
        assert torch.equal(
            ours.generate(IDS, max_new_tokens=5), theirs.generate(IDS, max_new_tokens=5)
        )

    def test_attributes_of_a_quantized_model(self, demo_model: Path) -> None:
        ours = quantload.load_model(
            demo_model, quantization_config={"load_in_8bit": True}, device_map="cpu"
        )
        assert ours.is_quantized
        assert ours.quantization_method == "bitsandbytes"
        assert isinstance(ours.hf_quantizer, quantload.HfQuantizer)
        assert ours.config.quantization_config.load_in_8bit
        assert ours.hf_device_map == {"": torch.device("cpu")}
        sizes = [t.nbytes for t in [*ours.parameters(), *ours.buffers()]]
        assert ours.get_memory_footprint() == sum(sizes)
        assert sum(sizes) < 0.7 * quantload.load_model(demo_model).get_memory_footprint()
        ours.tie_weights()
        assert isinstance(ours.model.layers[0].mlp.up_proj, QuantizedLinear)
        assert ours.lm_head.weight is ours.model.embed_tokens.weight

    def test_bias_dropout_and_buffers_of_a_class_with_masks(self, tmp_path: Path) -> None:
        config = {"vocab_size": 99, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
        torch.manual_seed(0)
        model = transformers.GPTNeoForCausalLM(
            transformers.GPTNeoConfig(**config, attention_types=[[["global", "local"], 1]])
        ).eval()
        model.save_pretrained(tmp_path)
        ours = quantload.load_model(tmp_path)
        for name, buffer in model.named_buffers():
            assert torch.equal(dict(ours.named_buffers())[name], buffer), name
        assert torch.equal(ours(IDS).logits, model(IDS).logits)

    def test_attention_implementation(self, tmp_path: Path) -> None:
        make(tmp_path)
        ours = quantload.load_model(tmp_path, attn_implementation="eager")
        assert ours.config._attn_implementation == "eager"

    def test_save_pretrained_of_a_float_model(self, tmp_path: Path) -> None:
        make(tmp_path / "a", "mixtral", "MixtralForCausalLM", num_local_experts=4)
        quantload.load_model(tmp_path / "a").save_pretrained(tmp_path / "b")
        one, other = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


class TestAfterwards:
    @pytest.fixture
    def model(self, demo_model: Path) -> Any:
        return quantload.load_model(demo_model, quantization_config={"load_in_8bit": True})

    def test_casts_are_refused_or_right(self, model: Any) -> None:
        for cast in (model.half, model.float, lambda: model.to(torch.float16)):
            with pytest.raises(ValueError, match=r"uantize|cast"):
                cast()
        expected = model(IDS).logits
        assert torch.equal(model.to("cpu")(IDS).logits, expected)
        assert torch.equal(nn.Module.half(copy.deepcopy(model))(IDS).logits, expected) is False

    def test_copies_compute_the_same(self, model: Any) -> None:
        expected = model(IDS).logits
        twin = copy.deepcopy(model)
        assert torch.equal(twin(IDS).logits, expected)
        assert twin.lm_head.weight is twin.model.embed_tokens.weight
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert torch.equal(again(IDS).logits, expected)

    def test_save_pretrained_names_what_to_use(self, model: Any, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedOperationError, match=r"save_model.*enable_transformers"):
            model.save_pretrained(tmp_path / "no")
        assert not (tmp_path / "no").exists()

    def test_dequantize(self, model: Any, tmp_path: Path) -> None:
        packed = {n: h.weight.dequantize(torch.bfloat16) for n, h in hosts_of(model)}
        floated = quantload.dequantize(model)
        assert floated is model
        assert not model.is_quantized
        assert not hasattr(model, "hf_quantizer")
        assert not hasattr(model.config, "quantization_config")
        for name, weight in packed.items():
            module = model.get_submodule(name)
            assert type(module) is nn.Linear
            assert torch.equal(module.weight, weight)
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(again(IDS).logits, model(IDS).logits)

    def test_dequantize_gives_conv1d_back(self, tmp_path: Path) -> None:
        original = make(tmp_path, "gpt2", "GPT2LMHeadModel")
        model = quantload.load_model(tmp_path, quantization_config={"load_in_8bit": True})
        layer = model.transformer.h[0].attn.c_attn
        assert isinstance(layer, QuantizedLinear)
        assert tuple(layer.weight.shape) == (96, 32)
        expected = model(IDS).logits
        quantload.dequantize(model)
        layer = model.transformer.h[0].attn.c_attn
        assert type(layer) is type(original.transformer.h[0].attn.c_attn)
        assert tuple(layer.weight.shape) == (32, 96)
        assert (model(IDS).logits - expected).abs().max() < 0.05
        close = (layer.weight - original.transformer.h[0].attn.c_attn.weight).abs().max()
        assert close < 0.01


class TestClasses:
    def test_an_auto_class_a_class_or_a_name(self, tmp_path: Path) -> None:
        make(tmp_path)
        for asked in (
            transformers.LlamaModel,
            "LlamaModel",
            transformers.AutoModel,
            "AutoModel",
        ):
            found = quantload.load_model(tmp_path, model_class=asked, strict=False)
            assert type(found) is transformers.LlamaModel

    @pytest.mark.parametrize("asked", ["Nonesuch", nn.Linear, "AutoConfig"])
    def test_what_is_no_model_class_is_refused(self, tmp_path: Path, asked: Any) -> None:
        make(tmp_path)
        with pytest.raises(CheckpointError, match="expected a model class"):
            quantload.load_model(tmp_path, model_class=asked)

    def test_a_config_without_architectures(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make(tmp_path)
        edit(tmp_path, architectures=None)
        assert type(quantload.load_model(tmp_path)) is transformers.LlamaForCausalLM
        assert "names no architecture" in caplog.text
        edit(tmp_path, architectures=["LlamaOfOldForCausalLM"])
        assert type(quantload.load_model(tmp_path)) is transformers.LlamaForCausalLM

    def test_an_unknown_model_type(self, tmp_path: Path) -> None:
        make(tmp_path)
        edit(tmp_path, model_type="nonesuch", architectures=["Nonesuch"])
        with pytest.raises(CheckpointError, match="nonesuch"):
            quantload.load_model(tmp_path)

    def test_no_config(self, tmp_path: Path) -> None:
        make(tmp_path)
        (tmp_path / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"config\.json"):
            quantload.load_model(tmp_path)


CODE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
pathlib.Path({ran!r}).touch()
import torch
from transformers import PreTrainedModel, PretrainedConfig

class OwnConfig(PretrainedConfig):
    model_type = "own_model"
    def __init__(self, size=4, **kwargs):
        self.size = size
        super().__init__(**kwargs)

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(config.size, config.size)
        self.register_buffer("table", torch.arange(config.size).float() ** 2, persistent=False)
        self.post_init()
    def forward(self, x):
        return self.layer(x) * self.table
"""


class TestRemoteCode:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "own"
        folder.mkdir()
        (folder / "modeling_own.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
        config = {
            "model_type": "own_model",
            "architectures": ["OwnModel"],
            "auto_map": {
                "AutoConfig": "modeling_own.OwnConfig",
                "AutoModel": "modeling_own.OwnModel",
            },
        }
        (folder / "config.json").write_text(json.dumps(config))
        tensors = {"layer.weight": torch.randn(4, 4), "layer.bias": torch.randn(4)}
        save_file(tensors, folder / "model.safetensors")
        return folder

    def test_it_is_never_run_unasked(self, folder: Path) -> None:
        with pytest.raises(UnsupportedOperationError, match="trust_remote_code=True"):
            quantload.load_model(folder)
        assert not (folder.parent / "ran").exists()

    def test_it_is_run_where_it_is_trusted(self, folder: Path) -> None:
        model = quantload.load_model(folder, trust_remote_code=True)
        assert type(model).__name__ == "OwnModel"
        assert (folder.parent / "ran").exists()
        tensors = load_file(folder / "model.safetensors")
        x = torch.randn(8, 4)
        wanted = nn.functional.linear(x, tensors["layer.weight"], tensors["layer.bias"])
        # transformers computes no such buffer: it would be garbage
        assert torch.equal(model(x), wanted * torch.arange(4) ** 2)
        quantload.save_model(model, folder.parent / "again")
        assert (folder.parent / "again" / "modeling_own.py").exists()
        assert torch.equal(
            quantload.load_model(folder.parent / "again", trust_remote_code=True)(x), model(x)
        )


class TestErrors:
    def test_a_missing_tensor_is_named_and_nothing_returned(self, tmp_path: Path) -> None:
        make(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
            quantload.load_model(tmp_path)

    def test_not_strict_initialises_as_the_class_does(self, tmp_path: Path) -> None:
        make(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.norm.weight"] = torch.ones(7)
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        model = quantload.load_model(tmp_path, strict=False)
        fresh = model.model.layers[1].mlp.up_proj.weight
        assert 0.015 < fresh.std() < 0.025  # the class's initializer_range is 0.02
        assert torch.equal(model.model.norm.weight, torch.ones(32))
        assert torch.isfinite(model(IDS).logits).all()

    def test_an_expert_that_is_missing(self, tmp_path: Path) -> None:
        make(tmp_path, "mixtral", "MixtralForCausalLM", num_local_experts=4)
        tensors = load_file(tmp_path / "model.safetensors")
        gone = next(n for n in tensors if "experts.2.w2" in n)
        del tensors[gone]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            CheckpointError, match=r"expected shape \[4, 32, 48\], found \[3, 32, 48\]"
        ):
            quantload.load_model(tmp_path)

    def test_experts_of_different_shapes(self, tmp_path: Path) -> None:
        make(tmp_path, "mixtral", "MixtralForCausalLM", num_local_experts=4)
        tensors = load_file(tmp_path / "model.safetensors")
        odd = next(n for n in tensors if "experts.2.w2" in n)
        tensors[odd] = torch.ones(3, 3)
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="do not fit"):
            quantload.load_model(tmp_path)

    def test_packed_experts_that_a_class_runs_in_a_way_of_its_own(self, tmp_path: Path) -> None:
        make(tmp_path, "jetmoe", "JetMoeForCausalLM", kv_channels=8)
        tensors = load_file(tmp_path / "model.safetensors")
        experts = "model.layers.0.mlp.input_linear"
        del tensors[f"{experts}.weight"]
        tensors |= {
            f"{experts}.0.up_proj.weight": torch.ones(96, 32, dtype=torch.int8),
            f"{experts}.0.up_proj.SCB": torch.ones(96),
        }
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        edit(tmp_path, quantization_config={"load_in_8bit": True, "quant_method": "bitsandbytes"})
        with pytest.raises(
            UnsupportedOperationError,
            match=r"input_linear\.0\.up_proj is packed.*JetMoeParallelExperts computes",
        ):
            quantload.load_model(tmp_path)

    def test_experts_of_such_a_class_stay_float_when_quantizing_on_load(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = make(tmp_path, "jetmoe", "JetMoeForCausalLM", kv_channels=8)
        ours = quantload.load_model(tmp_path, quantization_config={"load_in_8bit": True})
        assert "stay float: JetMoeParallelExperts computes its experts" in caplog.text
        assert isinstance(ours.model.layers[0].self_attention.kv_proj, QuantizedLinear)
        experts = ours.model.layers[0].mlp.input_linear.weight
        assert torch.equal(experts, model.model.layers[0].mlp.input_linear.weight)

    def test_an_unknown_method_is_an_error(self, tmp_path: Path) -> None:
        make(tmp_path)
        edit(tmp_path, quantization_config={"quant_method": "nonesuch"})
        with pytest.raises(quantload.UnknownMethodError, match="nonesuch"):
            quantload.load_model(tmp_path)

    def test_an_unknown_keyword_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="torch_dtype"):
            quantload.load_model(tmp_path, torch_dtype="auto")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="nowhere"):
            quantload.load_model(tmp_path / "nowhere")

    def test_without_transformers_it_says_what_to_do(self, demo_model: Path) -> None:
        script = f"""
import importlib.metadata, sys
version = importlib.metadata.version
def absent(name):
    if name == "transformers":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = absent
sys.modules["transformers"] = None
import quantload
try:
    quantload.load_model({str(demo_model)!r})
except quantload.MissingRequirementError as error:
    assert "pip install 'transformers>=5'" in str(error) and "load_into" in str(error), error
else:
    raise AssertionError
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


class TestWhere:
    def test_a_subfolder_and_a_variant(self, tmp_path: Path) -> None:
        model = make(tmp_path / "repo" / "inner")
        inner = tmp_path / "repo" / "inner"
        shutil.move(inner / "model.safetensors", inner / "model.fp16.safetensors")
        ours = quantload.load_model(tmp_path / "repo", subfolder="inner", variant="fp16")
        assert torch.equal(ours(IDS).logits, model(IDS).logits)
        with pytest.raises(CheckpointError):
            quantload.load_model(tmp_path / "repo", subfolder="inner", variant="bf16")

    def test_a_hub_cache(self, tmp_path: Path) -> None:
        model = make(tmp_path / "made")
        repo = tmp_path / "cache" / "models--somebody--something"
        commit = "0123456789abcdef0123456789abcdef01234567"
        snapshot = repo / "snapshots" / commit
        (repo / "refs").mkdir(parents=True)
        (repo / "blobs").mkdir()
        snapshot.mkdir(parents=True)
        (repo / "refs" / "main").write_text(commit)
        for number, file in enumerate((tmp_path / "made").iterdir()):
            shutil.copy(file, repo / "blobs" / str(number))
            (snapshot / file.name).symlink_to(f"../../blobs/{number}")
        ours = quantload.load_model(
            "somebody/something", cache_dir=tmp_path / "cache", local_files_only=True
        )
        assert ours.name_or_path == "somebody/something"
        assert torch.equal(ours(IDS).logits, model(IDS).logits)

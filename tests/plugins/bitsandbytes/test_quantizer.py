"""What the quantizer tells a loader: which modules, where, and how large."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantload import AutoHfQuantizer
from quantload.plugin import ModuleSpec
from quantload.quantizers.spec import Header


def _quantizer(**settings: Any) -> Any:
    return AutoHfQuantizer.from_config({"load_in_4bit": True, **settings}, pre_quantized=False)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)


class Model(nn.Module):
    """The parts of a causal model that skip rules look at."""

    def __init__(self, *, tie: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layers = nn.ModuleList([Block(), Block()])
        self.lm_head = nn.Linear(8, 10, bias=False)
        if tie:
            self.lm_head.weight = self.embed.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


LAYERS = ["layers.0.up", "layers.0.down", "layers.1.up", "layers.1.down"]


def test_the_head_stays_float_where_nothing_is_said() -> None:
    assert list(_quantizer().targets(Model())) == LAYERS


def test_a_list_replaces_what_stays_float() -> None:
    assert list(_quantizer(llm_int8_skip_modules=[]).targets(Model())) == [*LAYERS, "lm_head"]
    found = _quantizer(llm_int8_skip_modules=["layers.0", "down"]).targets(Model())
    assert list(found) == ["layers.1.up", "lm_head"]
    full_path = _quantizer(llm_int8_skip_modules=["layers.1.up", "lm_head"]).targets(Model())
    assert list(full_path) == ["layers.0.up", "layers.0.down", "layers.1.down"]


def test_what_is_tied_stays_float_whatever_the_list_says() -> None:
    found = _quantizer(llm_int8_skip_modules=["down"]).targets(Model(tie=True))
    assert list(found) == ["layers.0.up", "layers.1.up"]


def test_what_the_class_keeps_in_float32_stays_float() -> None:
    model: Any = Model()
    model._keep_in_fp32_modules = ["down"]
    assert list(_quantizer().targets(model)) == ["layers.0.up", "layers.1.up"]


def test_modules_to_not_convert_stay_float_too() -> None:
    quantizer: Any = AutoHfQuantizer.from_config(
        {"load_in_8bit": True}, pre_quantized=False, modules_to_not_convert=["layers.1"]
    )
    assert list(quantizer.targets(Model())) == LAYERS[:2]


@pytest.mark.parametrize("skip", [None, [], ["lm_head"], ["layers.0.mlp", "v_proj"], ["proj"]])
def test_the_same_modules_as_transformers_for_a_llama(skip: list[str] | None) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=50,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    patterns = HfQuantizer.get_modules_to_not_convert(model, skip, model._keep_in_fp32_modules)
    theirs = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and should_convert_module(name, patterns)
    ]
    assert list(_quantizer(llm_int8_skip_modules=skip).targets(model)) == theirs


SPLIT = {"embed": 0, "layers.0": 0, "layers.1": "cpu", "lm_head": "disk"}


def test_offloaded_modules_stay_float_where_that_is_asked_for() -> None:
    quantizer = _quantizer(llm_int8_enable_fp32_cpu_offload=True)
    assert quantizer.update_device_map(SPLIT) == SPLIT
    assert list(quantizer.targets(Model())) == LAYERS[:2]


def test_offloaded_modules_are_packed_otherwise() -> None:
    quantizer = _quantizer()
    quantizer.update_device_map(SPLIT)
    assert list(quantizer.targets(Model())) == LAYERS


def test_a_model_that_is_all_on_the_cpu_is_packed() -> None:
    quantizer = _quantizer(llm_int8_enable_fp32_cpu_offload=True)
    for device_map in ({"": "cpu"}, "auto", None):
        quantizer.update_device_map(device_map)
        assert list(quantizer.targets(Model())) == LAYERS


def test_a_tenth_of_each_device_is_left_for_buffers() -> None:
    assert _quantizer().adjust_max_memory({0: 1000, "cpu": 50}) == {0: 900.0, "cpu": 45.0}


def _nbytes(weight: Any) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (p.dtype, tuple(p.shape)) for name, p in weight.named_parameters()}


@pytest.mark.parametrize(
    "settings",
    [
        {"bnb_4bit_quant_type": "nf4"},
        {"bnb_4bit_use_double_quant": True, "bnb_4bit_blocksize": 32},
        {"bnb_4bit_quant_storage": "bfloat16"},
        {"load_in_4bit": False, "load_in_8bit": True},
    ],
)
@pytest.mark.parametrize("shape", [(64, 128), (36, 44)])
def test_empty_has_the_shapes_of_what_quantizing_and_packing_give(
    shape: tuple[int, int], settings: dict[str, Any]
) -> None:
    quantizer = _quantizer(**settings)
    spec = ModuleSpec("a", shape=shape, dtype=torch.bfloat16)
    empty = quantizer.empty(spec)
    made = quantizer.quantize(spec, torch.randn(shape).bfloat16())
    assert empty.is_meta
    assert type(empty) is type(made)
    assert _nbytes(empty) == _nbytes(made)
    assert empty.dtype == made.dtype
    tensors = quantizer.unpack("a", made)
    headers = {f"a.{key}": Header.of(tensor) for key, tensor in tensors.items()}
    claimed = quantizer.claims(headers)["a"].replace(shape=shape, dtype=torch.bfloat16)
    from_headers = quantizer.empty(claimed)
    assert _nbytes(from_headers) == _nbytes(quantizer.pack(claimed, tensors))
    assert {k: v.shape for k, v in quantizer.unpack("a", from_headers).items()}.keys() == (
        tensors.keys()
    )


def test_claims_ignore_what_is_float(library_4bit: Callable[..., dict[str, Tensor]]) -> None:
    headers = {
        f"layers.0.up.{key}": Header.of(tensor)
        for key, tensor in library_4bit(torch.randn(16, 64)).items()
    }
    for name in ("layers.0.up.bias", "layers.0.norm.weight", "embed.weight"):
        headers[name] = Header.of(torch.zeros(16))
    found = _quantizer(bnb_4bit_quant_type="nf4").claims(headers)
    assert list(found) == ["layers.0.up"]
    assert "bias" not in found["layers.0.up"].tensors
    assert found["layers.0.up"].params == {"width": 4, "quant_type": "nf4"}


def test_compute_dtypes() -> None:
    spec = ModuleSpec("a", shape=(8, 64), dtype=torch.float16)
    four = _quantizer(bnb_4bit_compute_dtype="bfloat16").quantize(spec, torch.randn(8, 64))
    assert four.dtype == torch.bfloat16
    eight = _quantizer(load_in_4bit=False, load_in_8bit=True).quantize(spec, torch.randn(8, 64))
    assert eight.dtype == torch.float16


def test_dequantizing_a_model_takes_the_dtype_of_its_float_tensors() -> None:
    model: Any = Model().bfloat16()
    quantizer = _quantizer()
    for name, spec in quantizer.targets(model).items():
        from quantload.modules import host_for, set_module

        module = model.get_submodule(name)
        weight = quantizer.quantize(spec, module.weight)
        assert weight.dtype == torch.float32
        set_module(model, name, host_for(spec, weight, module))
    quantizer.dequantize(model)
    assert type(model.layers[0].up) is nn.Linear
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_quantizer_can_be_copied_with_its_model() -> None:
    quantizer = _quantizer()
    quantizer.quantize(ModuleSpec("a"), torch.randn(1024, 1024))
    twin = copy.deepcopy(quantizer)
    assert twin.quantization_config == quantizer.quantization_config
    weight = twin.quantize(ModuleSpec("a"), torch.randn(64, 64))
    assert weight.shape == (64, 64)


def test_verdicts() -> None:
    quantizer = _quantizer()
    assert quantizer.is_available()
    assert quantizer.is_serializable()
    assert quantizer.is_trainable
    assert quantizer.is_compileable
    assert quantizer.supports_device("cpu")
    assert not quantizer.supports_device("tpu")

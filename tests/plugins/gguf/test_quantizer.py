"""The `gguf` method: config, discovery, packing and unpacking, quantizing a module."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import quantload
from quantload import AutoHfQuantizer, AutoQuantizationConfig
from quantload.errors import CheckpointError, ConfigError
from quantload.quantizers.spec import Header, ModuleSpec
from quantload_gguf import GgufConfig, GgufQuantizer, GgufWeight, dequantize, quantize
from quantload_gguf.ggml import TYPES

PACKED = [t for t in TYPES if t.decodable and t.packed]


def quantizer(**config) -> GgufQuantizer:
    return AutoHfQuantizer.from_config({"quant_method": "gguf", **config})


def test_the_method_is_found_by_its_name():
    assert isinstance(quantizer(), GgufQuantizer)
    assert quantload.GgufConfig is GgufConfig
    assert quantizer().is_available()
    assert quantizer().is_serializable()


def test_the_descriptor_imports_neither_torch_nor_gguf():
    code = (
        "import sys, quantload_gguf, quantload_gguf.plugin, quantload_gguf.config\n"
        "print(*{'torch', 'gguf', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("spelling", ["Q8_0", "q8_0", 8])
def test_types_are_known_by_name_and_number(spelling):
    assert (
        AutoQuantizationConfig.from_dict({"quant_method": "gguf", "type": spelling}).type == "Q8_0"
    )
    found = AutoQuantizationConfig.from_dict({"quant_method": "gguf", "quant_type": spelling})
    assert found.type == "Q8_0"


def test_the_config_survives_a_round_trip():
    config = GgufConfig(type="Q4_0", types={"a.b": "Q6_K"}, compute_dtype=torch.bfloat16)
    assert AutoQuantizationConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["compute_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"type": "Q4_9"}, "no ggml type is called 'Q4_9'"),
        ({"type": "Q8_1"}, "found 'Q8_1', expected one of F32"),
        ({"type": 31}, "retired"),
        ({"type": ["Q4_0"]}, "expected one of"),
        ({"types": {"a": "Q8_K"}}, r"types\['a'\]: found 'Q8_K'"),
        ({"types": {"a": "nonsense"}}, r"types\['a'\]: no ggml type"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config, says):
    with pytest.raises(ConfigError, match=says):
        AutoQuantizationConfig.from_dict({"quant_method": "gguf", **config})


@pytest.mark.parametrize("kind", PACKED, ids=lambda t: t.name)
def test_pack_and_unpack_give_the_bytes_back(kind):
    blocks = torch.randint(0, 256, (5, 3 * kind.nbytes), dtype=torch.uint8)
    method = quantizer(type=kind.name)
    weight = method.pack("layer", {"weight": blocks})
    assert isinstance(weight, GgufWeight)
    assert tuple(weight.shape) == (5, 3 * kind.elements)
    weight.linear(torch.zeros(1, weight.shape[1]))
    out = method.unpack("layer", weight)
    assert out.keys() == {"weight"}
    assert torch.equal(out["weight"], blocks)


def test_a_module_may_have_a_type_of_its_own():
    method = quantizer(type="Q4_K", types={"model.head": "Q6_K"})
    assert method.pack("x", {"weight": torch.zeros(2, 144, dtype=torch.uint8)}).shape[1] == 256
    head = method.pack("model.head", {"weight": torch.zeros(2, 210, dtype=torch.uint8)})
    assert head.ggml_type.name == "Q6_K"


def test_the_type_in_a_header_counts_before_the_config():
    headers = {
        "a.weight": Header("Q4_K", (8, 512), 8 * 288),
        "b.weight": Header("F32", (8,), 32),
        "c.weight": Header("Q6_K", (4, 256), 840),
        "c.bias": Header("F32", (4,), 16),
    }
    specs = quantizer(type="Q8_0").claims(headers)
    assert set(specs) == {"a", "c"}
    assert (specs["a"].shape, specs["a"].params) == ((8, 512), {"ggml_type": "Q4_K"})
    empty = quantizer().empty(specs["c"])
    assert empty.is_meta
    assert empty.nbytes == 840
    assert tuple(empty.shape) == (4, 256)


@pytest.mark.parametrize(
    ("config", "tensors", "says"),
    [
        ({}, {"weight": torch.zeros(2, 18, dtype=torch.uint8)}, "does not say of which ggml type"),
        ({"type": "Q4_0"}, {"weight": torch.zeros(2, 17, dtype=torch.uint8)}, "multiple of 18"),
        ({"type": "Q4_0"}, {"weight": torch.zeros(2, 18)}, "are not those of a gguf layer"),
        ({"type": "Q4_0"}, {"qweight": torch.zeros(1)}, r"\(qweight\) are not those"),
    ],
)
def test_tensors_that_are_no_blocks_are_refused(config, tensors, says):
    with pytest.raises(CheckpointError, match=says):
        quantizer(**config).pack("layer", tensors)


def test_a_spec_whose_tensor_is_absent_or_of_another_shape_is_refused():
    spec = ModuleSpec("layer", shape=(2, 64), params={"ggml_type": "Q4_0"})
    with pytest.raises(CheckpointError, match="layer: expected the tensor 'weight'"):
        quantizer().pack(spec, {})
    with pytest.raises(CheckpointError, match=r"layer: expected blocks of shape \[2, 36\]"):
        quantizer().pack(spec, {"weight": torch.zeros(2, 18, dtype=torch.uint8)})


def test_the_compute_dtype_of_the_config_counts_before_that_of_the_model():
    spec = ModuleSpec("layer", shape=(2, 32), dtype=torch.float16, params={"ggml_type": "Q4_0"})
    blocks = {"weight": torch.zeros(2, 18, dtype=torch.uint8)}
    assert quantizer().pack(spec, blocks).dtype == torch.float16
    assert quantizer(compute_dtype="bfloat16").pack(spec, blocks).dtype == torch.bfloat16


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(64, 96)
        self.odd = nn.Linear(40, 64, bias=False)
        self.down = nn.Linear(96, 64)

    def get_output_embeddings(self):
        return None

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def test_rows_that_do_not_fill_blocks_stay_float(caplog):
    caplog.set_level("INFO", "quantload")
    method = AutoHfQuantizer.from_config(GgufConfig(type="Q8_0"), pre_quantized=False)
    assert set(method.targets(Small())) == {"up", "down"}
    assert "odd stays float: its rows of 40 do not fill blocks of 32" in caplog.text


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantizing_a_weight_gives_the_blocks_of_its_type(kind):
    method = AutoHfQuantizer.from_config(GgufConfig(type=kind), pre_quantized=False)
    assert method.can_quantize()
    values = torch.randn(6, 64).to(torch.bfloat16)
    weight = method.quantize(ModuleSpec("layer", shape=(6, 64), dtype=torch.bfloat16), values)
    assert torch.equal(weight.blocks, quantize(values, kind))
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight.dequantize(torch.float32), dequantize(quantize(values, kind), kind))


@pytest.mark.parametrize("config", [{}, {"type": "Q4_K"}, {"type": "Q8_0", "types": {"a": "Q6_K"}}])
def test_types_that_nothing_quantizes_to_are_named(config):
    verdict = AutoHfQuantizer.from_config(GgufConfig(**config), pre_quantized=False).can_quantize()
    assert not verdict
    assert "gguf quantizes to Q4_0, Q4_1, Q5_0, Q5_1, Q8_0" in verdict.reason


def test_numbers_that_cannot_be_quantized_name_the_layer():
    method = AutoHfQuantizer.from_config(GgufConfig(type="Q8_0"), pre_quantized=False)
    values = torch.full((2, 32), float("nan"))
    with pytest.raises(quantload.UnsupportedOperationError, match=r"^a\.b: .*NaNs"):
        method.quantize(ModuleSpec("a.b", shape=(2, 32)), values)


def test_hosts_are_put_in_and_taken_out_again():
    model = Small()
    method = AutoHfQuantizer.from_config(GgufConfig(type="Q8_0"), pre_quantized=False)
    expected = {}
    specs = method.targets(model)
    for name, spec in specs.items():
        expected[name] = method.quantize(spec, model.get_submodule(name).weight)
    method.preprocess_model(model, specs=specs)
    for name, weight in expected.items():
        model.get_submodule(name)._modules["weight"] = weight
    x = torch.randn(3, 64)
    packed = model(x)
    dense = method.dequantize(model)
    assert type(dense.up) is nn.Linear
    torch.testing.assert_close(dense(x), packed, atol=1e-4, rtol=1e-4)

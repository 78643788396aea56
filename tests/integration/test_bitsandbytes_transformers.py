"""Checkpoints travel between `transformers` with bitsandbytes and quantload, both ways."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import quantload
from quantload.modules import QuantizedLinear

transformers = pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")

CONFIGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4 double": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    "nf4 double in bf16": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "bfloat16",
        "bnb_4bit_compute_dtype": "bfloat16",
    },
    "int8": {"load_in_8bit": True},
    "int8 but for two": {
        "load_in_8bit": True,
        "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp", "o_proj"],
    },
}
IDS = torch.arange(24).reshape(2, 12) * 7 % 500


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def conv1d_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2, whose layers store the transpose of what is quantized."""
    folder: Path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=500, n_positions=64, n_embd=96, n_layer=2, n_head=4, dtype=torch.float32
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def _by_transformers(source: Path, **kwargs: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(source, device_map="cpu", **kwargs)


def _config(name: str) -> Any:
    return transformers.BitsAndBytesConfig(**CONFIGS[name])


def _files(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  no mapping
    return found


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _same_files(one: Path, other: Path) -> None:
    mine, theirs = _files(one), _files(other)
    assert sorted(mine) == sorted(theirs)
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype, name
        assert mine[name].shape == tensor.shape, name
        assert torch.equal(_bytes(mine[name]), _bytes(tensor)), name


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(IDS).logits
    return logits.double()


def _packed(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]


@pytest.mark.parametrize("name", CONFIGS)
def test_quantizing_on_load_and_saving_writes_what_transformers_writes(
    demo_model: Path, tmp_path: Path, name: str
) -> None:
    _by_transformers(demo_model, quantization_config=_config(name)).save_pretrained(tmp_path / "t")
    model = quantload.load_model(demo_model, quantization_config=CONFIGS[name])
    _logits(model)  # what is saved after a forward pass is what was loaded
    quantload.save_model(model, tmp_path / "q")
    _same_files(tmp_path / "q", tmp_path / "t")


@pytest.mark.parametrize("name", CONFIGS)
def test_what_transformers_saved_loads_and_saves_byte_for_byte(
    demo_model: Path, tmp_path: Path, name: str
) -> None:
    theirs = _by_transformers(demo_model, quantization_config=_config(name))
    theirs.save_pretrained(tmp_path / "t")
    packed = [
        module_name
        for module_name, module in theirs.named_modules()
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt")
    ]
    model = quantload.load_model(tmp_path / "t")
    assert _packed(model) == packed
    exact = _logits(quantload.dequantize(quantload.load_model(tmp_path / "t")).float())
    for _ in range(2):
        found = _logits(model)
        assert (found - exact).norm() < 0.05 * exact.norm()
    quantload.save_model(model, tmp_path / "q")
    _same_files(tmp_path / "q", tmp_path / "t")


@pytest.mark.parametrize("name", CONFIGS)
def test_what_we_saved_loads_in_transformers_and_errs_no_less_there(
    demo_model: Path, tmp_path: Path, name: str
) -> None:
    mine = quantload.load_model(demo_model, quantization_config=CONFIGS[name])
    quantload.save_model(mine, tmp_path / "q")
    theirs = _by_transformers(tmp_path / "q")
    kinds = {type(module).__name__ for module in theirs.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    exact = _logits(
        quantload.dequantize(quantload.load_model(tmp_path / "q"), torch.float32).float()
    )
    my_error = (_logits(mine) - exact).norm() / exact.norm()
    their_error = (_logits(theirs) - exact).norm() / exact.norm()
    assert their_error < 0.1
    assert my_error < 1.15 * their_error


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_conv1d_layers_are_transposed_before_they_are_quantized(
    conv1d_model: Path, tmp_path: Path, name: str
) -> None:
    _by_transformers(conv1d_model, quantization_config=_config(name)).save_pretrained(
        tmp_path / "t"
    )
    model = quantload.load_model(conv1d_model, quantization_config=CONFIGS[name])
    quantload.save_model(model, tmp_path / "q")
    _same_files(tmp_path / "q", tmp_path / "t")
    again = quantload.load_model(tmp_path / "t")
    assert torch.equal(_logits(again), _logits(model))
    layer = again.transformer.h[0].mlp.c_fc
    assert isinstance(layer, QuantizedLinear)
    assert layer.weight.shape == (4 * 96, 96)
    floats: Any = quantload.dequantize(again)
    assert type(floats.transformer.h[0].mlp.c_fc).__name__ == "Conv1D"
    assert floats.transformer.h[0].mlp.c_fc.weight.shape == (96, 4 * 96)
    original = _logits(quantload.load_model(conv1d_model))
    assert (_logits(floats) - original).norm() < 0.2 * original.norm()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_module_choice_is_that_of_transformers(demo_model: Path, name: str) -> None:
    theirs = _by_transformers(demo_model, quantization_config=_config(name))
    expected = [
        module_name
        for module_name, module in theirs.named_modules()
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt")
    ]
    mine = quantload.load_model(demo_model, quantization_config=_config(name))
    assert _packed(mine) == expected


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_adapters_of_peft_learn_on_top(demo_model: Path, name: str) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = quantload.load_model(demo_model, quantization_config=CONFIGS[name])
    before = {key: value.clone() for key, value in base.state_dict().items()}
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    optimizer = torch.optim.Adam(trained, lr=5e-3)
    losses = []
    for _ in range(8):
        loss = model(IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    after = model.unload().state_dict()
    for key, value in before.items():
        assert torch.equal(_bytes(after[key]), _bytes(value)), key


def test_offloaded_modules_stay_float_where_that_is_asked_for(demo_model: Path) -> None:
    """On a machine without a GPU only the choice can be seen."""
    from quantload import AutoHfQuantizer

    quantizer: Any = AutoHfQuantizer.from_config(
        {"load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True}, pre_quantized=False
    )
    quantizer.update_device_map({"model.layers.0": "cpu", "model.layers.1": 0, "lm_head": "disk"})
    model = quantload.load_model(demo_model)
    names = quantizer.targets(model)
    assert not any(name.startswith("model.layers.0.") for name in names)
    assert any(name.startswith("model.layers.1.") for name in names)


def test_the_compute_dtype_may_be_chosen_while_loading(
    demo_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = quantload.load_model(demo_model, quantization_config=CONFIGS["nf4"])
    quantload.save_model(model, tmp_path / "q")
    chosen = quantload.load_model(
        tmp_path / "q",
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    )
    assert chosen.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.float32


def test_a_pickle_of_the_layer_is_what_it_was(demo_model: Path, tmp_path: Path) -> None:
    model = quantload.load_model(demo_model, quantization_config=CONFIGS["nf4"])
    torch.save(model.model.layers[0].mlp, tmp_path / "mlp.pt")
    loaded = torch.load(tmp_path / "mlp.pt", weights_only=False)
    x = torch.randn(3, 256)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.model.layers[0].mlp(x))

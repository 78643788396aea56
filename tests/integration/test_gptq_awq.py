"""Whole models in GPTQ and AWQ: made, measured, saved, and read by others."""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import quantload
from quantload import CheckpointError
from quantload.modules import hosts_of
from quantload.weights.affine import AffineWeight

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "gptq" / "support"))
import slow_layouts  # noqa: E402  found by the line above

WINDOW, WINDOWS = 512, 12

MAKES: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True},
    "gptq asymmetric": {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": False},
    "gptq 8-bit": {"quant_method": "gptq", "bits": 8, "group_size": -1},
    "gptq planar": {"quant_method": "gptq", "bits": 6, "group_size": 128, "sym": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "awq gemv_fast": {"quant_method": "awq", "group_size": 64, "version": "gemv_fast"},
}
WORSE = {
    "gptq": 1.2,
    "gptq asymmetric": 1.15,
    "gptq 8-bit": 1.01,
    "gptq planar": 1.02,
    "awq": 1.13,
    "awq gemv_fast": 1.15,
}
QUICK = ("gptq", "gptq planar", "awq")
PARAMETERS = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MAKES]


@pytest.fixture(scope="module")
def windows(demo_model: Path) -> Tensor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model)
    stream: list[int] = []
    with lzma.open(demo_model / "held_out.jsonl.xz", "rt") as lines:
        for line in lines:
            stream += [
                1,
                *tokenizer(json.loads(line)["text"], add_special_tokens=False).input_ids,
                2,
            ]
            if len(stream) > WINDOW * WINDOWS:
                break
    return torch.tensor(stream[: WINDOW * WINDOWS]).view(WINDOWS, WINDOW)


@torch.no_grad()
def perplexity(model: nn.Module, windows: Tensor) -> float:
    logits = model(windows[:, :-1]).logits.float()
    targets = windows[:, 1:].flatten()
    return float(nn.functional.cross_entropy(logits.flatten(0, 1), targets).exp())


@pytest.fixture(scope="module")
def float_perplexity(demo_model: Path, windows: Tensor) -> float:
    return perplexity(quantload.load_model(demo_model), windows)


@pytest.fixture(scope="module", params=PARAMETERS)
def saved(
    request: pytest.FixtureRequest, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, nn.Module, Path]:
    model = quantload.load_model(demo_model, quantization_config=MAKES[request.param])
    folder = tmp_path_factory.mktemp("made")
    quantload.save_model(model, folder)
    return request.param, model, folder


def test_a_rounded_model_still_knows_its_language(
    saved: tuple[str, nn.Module, Path], windows: Tensor, float_perplexity: float
) -> None:
    name, model, _ = saved
    worse = perplexity(model, windows) / float_perplexity
    assert 0.95 < worse < WORSE[name]


def test_saved_and_loaded_again_it_answers_the_same(
    saved: tuple[str, nn.Module, Path], windows: Tensor
) -> None:
    _, model, folder = saved
    again = quantload.load_model(folder)
    with torch.no_grad():
        assert torch.equal(model(windows[:1]).logits, again(windows[:1]).logits)
    for (name, mine), (_, theirs) in zip(hosts_of(model), hosts_of(again), strict=True):
        assert isinstance(theirs.weight, AffineWeight), name
        exact = mine.weight.dequantize(torch.float32)
        assert torch.equal(exact, theirs.weight.dequantize(torch.float32)), name


def test_saved_once_more_it_is_the_same_file(
    saved: tuple[str, nn.Module, Path], tmp_path: Path
) -> None:
    _, _, folder = saved
    quantload.save_model(quantload.load_model(folder), tmp_path)
    first, second = (load_file(f / "model.safetensors") for f in (folder, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = [json.loads((f / "config.json").read_text()) for f in (folder, tmp_path)]
    assert configs[0] == configs[1]


def test_the_files_hold_what_other_readers_look_for(saved: tuple[str, nn.Module, Path]) -> None:
    name, model, folder = saved
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        layer = "model.layers.1.mlp.down_proj"
        own = {n.rpartition(".")[2] for n in names if n.startswith(f"{layer}.")}
        tensors = {leaf: file.get_tensor(f"{layer}.{leaf}") for leaf in own}
    weight = model.get_submodule(layer).weight.canonical()
    assert "lm_head.qweight" not in names
    assert tensors["scales"].dtype == torch.float16
    if name.startswith("gptq"):
        assert own == {"qweight", "qzeros", "scales", "g_idx"}
        assert config["quant_method"] == "gptq"
        assert tensors["g_idx"].dtype == torch.int32
        layout, bits = config["checkpoint_format"], config["bits"]
        codes = slow_layouts.gptq_codes(tensors["qweight"][:, :8], bits, 768, layout)
        zeros = slow_layouts.gptq_zeros(tensors["qzeros"], bits, 256, layout)
        assert codes == weight.plain_codes()[:8].tolist()
        assert zeros == weight.zero_points().tolist()
    else:
        assert own == {"qweight", "qzeros", "scales"}
        assert config["quant_method"] == "awq"
        assert config["version"] in ("gemm", "gemv_fast")


def test_a_file_of_an_odd_name_with_its_config_beside_it(
    demo_model: Path, tmp_path: Path, windows: Tensor
) -> None:
    model = quantload.load_model(demo_model, quantization_config=MAKES["gptq"])
    quantload.save_model(model, tmp_path)
    name = "gptq_model-4bit-128g"
    (tmp_path / "model.safetensors").rename(tmp_path / f"{name}.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    old = {"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False}
    old |= {"sym": True, "true_sequential": True, "model_file_base_name": name}
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(old))
    again = quantload.load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(windows[:1]).logits, again(windows[:1]).logits)


@pytest.fixture
def made_folder(demo_model: Path, tmp_path: Path) -> Path:
    model = quantload.load_model(demo_model, quantization_config=MAKES["gptq"])
    quantload.save_model(model, tmp_path)
    return tmp_path


def rewritten(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def test_biases_of_zeros_that_the_model_lacks_are_let_go(
    made_folder: Path, windows: Tensor
) -> None:
    before = quantload.load_model(made_folder)
    name = "model.layers.0.mlp.up_proj.bias"
    rewritten(made_folder, lambda t: t.update({name: torch.zeros(768, dtype=torch.float16)}))
    after = quantload.load_model(made_folder)
    with torch.no_grad():
        assert torch.equal(before(windows[:1]).logits, after(windows[:1]).logits)
    rewritten(made_folder, lambda t: t.update({name: torch.ones(768, dtype=torch.float16)}))
    with pytest.raises(CheckpointError, match=r"up_proj\.bias"):
        quantload.load_model(made_folder)


LAYER = "model.layers.2.self_attn.q_proj"
DAMAGES: list[tuple[Any, str]] = [
    (lambda t: t.pop(f"{LAYER}.scales"), rf"{LAYER}\.scales missing"),
    (lambda t: t.pop(f"{LAYER}.qweight"), rf"{LAYER}\.qweight missing"),
    (
        lambda t: t[f"{LAYER}.scales"].fill_(torch.nan),
        rf"{LAYER}\.scales: 512 of 512 values are NaN",
    ),
    (lambda t: t[f"{LAYER}.g_idx"].add_(9), rf"{LAYER}\.g_idx: group numbers from 9"),
    (
        lambda t: t.update({f"{LAYER}.qweight": t[f"{LAYER}.qweight"][:-1].clone()}),
        rf"{LAYER}\.qweight: shape",
    ),
]


@pytest.mark.parametrize(("damage", "match"), DAMAGES)
def test_a_damaged_layer_ends_the_load_with_its_name(
    made_folder: Path, damage: Any, match: str
) -> None:
    rewritten(made_folder, damage)
    with pytest.raises(CheckpointError, match=match):
        quantload.load_model(made_folder)


def test_a_config_of_the_other_method_is_refused(made_folder: Path) -> None:
    config = json.loads((made_folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (made_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quant_method should be 'gptq'"):
        quantload.load_model(made_folder)


def test_activations_with_scales_are_loaded_run_and_saved(tmp_path: Path) -> None:
    config = transformers.GPTJConfig(
        vocab_size=64, n_positions=32, n_embd=64, n_layer=2, n_head=4, rotary_dim=8
    )
    torch.manual_seed(0)
    source, folder, again = (tmp_path / name for name in ("float", "awq", "again"))
    transformers.GPTJForCausalLM(config).save_pretrained(source)
    made = quantload.load_model(
        source, quantization_config={"quant_method": "awq", "group_size": 32}
    )
    quantload.save_model(made, folder)
    names = [f"transformer.h.{i}.mlp.act.scales" for i in range(2)]
    scales = {name: torch.rand(256).half() + 0.5 for name in names}
    rewritten(folder, lambda t: t.update(scales))
    ids = torch.arange(12)[None]
    for i, block in enumerate(made.transformer.h):
        factor = scales[names[i]].float()
        block.mlp.act.register_forward_hook(lambda m, a, y, f=factor: y / f)
    with torch.no_grad():
        expected = made(ids).logits
        model = quantload.load_model(folder)
        assert torch.equal(model(ids).logits, expected)
        quantload.save_model(model, again)
        stored = load_file(again / "model.safetensors")
        assert all(torch.equal(stored[n].float(), s.float()) for n, s in scales.items())
        assert torch.equal(quantload.load_model(again)(ids).logits, expected)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_overrides_go_by_the_names_in_the_file(
    demo_model: Path, tmp_path: Path, windows: Tensor, method: str
) -> None:
    """The inner model calls its layers otherwise than the one that was saved."""
    dynamic = {r"+:model\.layers\.1\.": {"bits": 8}, r"-:model\.layers\.2\..*k_proj": {}}
    make = {"quant_method": method, "bits": 4, "group_size": 64, "dynamic": dynamic}
    quantload.save_model(quantload.load_model(demo_model, quantization_config=make), tmp_path)
    whole, inner = (quantload.load_model(tmp_path, model_class=c) for c in (None, "AutoModel"))
    packed = {name: host.weight.bits for name, host in hosts_of(inner)}
    assert packed["layers.1.mlp.up_proj"] == 8
    assert packed["layers.0.mlp.up_proj"] == 4
    assert "layers.2.self_attn.k_proj" not in packed
    with torch.no_grad():
        mine = inner(windows[:1]).last_hidden_state
        assert torch.equal(mine, whole.model(windows[:1]).last_hidden_state)

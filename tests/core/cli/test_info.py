"""`quantload info`."""

from __future__ import annotations

import json

import pytest

from quantload.registry.requirements import check_requirement
from quantload.testing import fake_distribution


def needs(answer):
    return {need["what"]: need["ok"] for need in answer["needs"]}


def test_a_float_checkpoint(run, run_json, demo_model):
    code, answer = run_json("info", demo_model)
    assert code == (0 if check_requirement("transformers>=5") else 1)  # the core may be alone
    assert answer["architecture"] == "LlamaForCausalLM"
    assert answer["method"] == ""
    assert answer["parameters"] > 4_000_000
    assert answer["bytes"]["tensors"] == 2 * answer["parameters"] == answer["bytes"]["memory"]
    assert answer["not_packed"]["BF16"]["tensors"] == answer["tensors"]
    assert "none: a float checkpoint" in run("info", demo_model).stdout


def test_a_packed_checkpoint(run, run_json, toy8, toy_checkpoint):
    code, answer = run_json("info", toy_checkpoint)
    assert code == 0
    assert answer["format"] == "safetensors"
    assert (answer["method"], answer["provider"]) == ("toy8", "quantload-toy8 2.1")
    assert answer["config"] == {"quant_method": "toy8", "odd_key": 1}
    assert answer["parameters"] == 2 * 16 * 32 + 16
    (group,) = answer["packed"]
    assert group["modules"] == 2
    assert group["layout"] == "Toy8Weight"
    assert group["params"] == {"scale_dtype": "F32"}
    assert group["disk_bytes"] == group["memory_bytes"] == 2 * 512 + 4 * 48
    assert answer["not_packed"] == {"BF16": {"tensors": 1, "bytes": 32}}
    chosen = group["kernels"]["cpu"]
    assert list(chosen) == ["toy8"]
    assert chosen["toy8"]["modules"] == 2
    assert {"candidate": "toy8", "ok": True, "reason": ""} in chosen["toy8"]["report"]
    shown = run("info", toy_checkpoint).stdout
    for part in ("toy8 (quantload-toy8 2.1)", "Toy8Weight", "kernel on cpu", "odd_key"):
        assert part in shown


def test_why_a_kernel_was_not_chosen_is_said(run, run_json, toy8, toy_checkpoint, monkeypatch):
    refusing = (
        "from quantload.plugin import *\n"
        "class No(Kernel):\n"
        "    name, priority = 'refusing', 99\n"
        "    def supports(self, spec): return Verdict.no('not on a Monday')\n"
        "    def linear(self, weight, x): raise AssertionError\n"
        "PACK = KernelPack(api=1, kernels=('refusing_pack:No',))\n"
    )
    with fake_distribution(
        "dist-k", kernels={"refusing": "refusing_pack:PACK"}, modules={"refusing_pack": refusing}
    ):
        _, answer = run_json("info", toy_checkpoint)
        shown = run("info", toy_checkpoint).stdout
    report = answer["packed"][0]["kernels"]["cpu"]["toy8"]["report"]
    assert {"candidate": "refusing", "ok": False, "reason": "not on a Monday"} in report
    assert "not refusing: not on a Monday" in " ".join(shown.split())  # the line may be wrapped


def test_a_kernel_that_is_insisted_on_and_cannot_is_shown(
    run_json, toy8, toy_checkpoint, monkeypatch
):
    monkeypatch.setenv("QUANTLOAD_KERNEL", "nobodys")
    _, answer = run_json("info", toy_checkpoint)
    assert list(answer["packed"][0]["kernels"]["cpu"]) == ["none"]


def test_an_absent_plugin_is_a_problem_with_a_remedy(run, run_json, toy_checkpoint):
    code, answer = run_json("info", toy_checkpoint)
    assert code == 1
    assert answer["method"] == "toy8"
    assert answer["parameters"] is None
    assert "no installed plugin provides" in answer["problems"][0]
    shown = run("info", toy_checkpoint)
    assert shown.exit_code == 1
    assert "not installed" in shown.stdout


def test_a_config_that_is_wrong_is_a_problem(run_json, toy8, toy_checkpoint):
    config = {"quantization_config": {"quant_method": "toy8", "limit": 0}}
    (toy_checkpoint / "config.json").write_text(json.dumps(config))
    code, answer = run_json("info", toy_checkpoint)
    assert code == 1
    assert "Toy8Config.limit" in answer["problems"][0]


def test_tensors_that_contradict_the_method_are_a_problem(run_json, toy8, toy_checkpoint):
    import torch
    from safetensors.torch import save_file

    save_file(
        {"up.codes": torch.zeros(2, 2, dtype=torch.int8)}, toy_checkpoint / "model.safetensors"
    )
    code, answer = run_json("info", toy_checkpoint)
    assert code == 1
    assert "up.scales is missing" in answer["problems"][0]


def test_an_unmet_requirement_is_a_problem_with_the_command(run_json, toy_checkpoint):
    source = (
        "from quantload.plugin import QuantizerPlugin as Q\n"
        "PLUGIN = Q(api=1, config='toy8.config:Toy8Config',"
        " quantizer='toy8.quantizer:Toy8Quantizer', requires=('quantload-no-such',))\n"
    )
    with fake_distribution(
        "dist-a", quantizers={"toy8": "needy.plugin:PLUGIN"}, modules={"needy.plugin": source}
    ):
        code, answer = run_json("info", toy_checkpoint)
    assert code == 1
    (need,) = [n for n in answer["needs"] if not n["ok"]]
    assert need["fix"] == "pip install 'quantload-no-such'"


@pytest.mark.parametrize("damage", ["truncate", "remove", "pickle"])
def test_a_damaged_checkpoint_is_a_readable_error(run, run_json, toy_checkpoint, damage):
    file = toy_checkpoint / "model.safetensors"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        file.unlink()
    if damage == "pickle":
        (toy_checkpoint / "pytorch_model.bin").write_bytes(b"x")
    code, answer = run_json("info", toy_checkpoint)
    assert (code, answer["error"]["type"]) == (1, "CheckpointError")
    shown = run("info", toy_checkpoint)
    assert shown.exit_code == 1
    assert shown.stderr.startswith("error: ")
    assert "Traceback" not in shown.output


def test_a_path_that_is_not_there(run):
    result = run("info", "/no/such/folder")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_a_subfolder(run_json, toy8, toy_checkpoint, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("config.json", "model.safetensors"):
        (toy_checkpoint / name).rename(inner / name)
    code, answer = run_json("info", tmp_path, "--subfolder", "inner")
    assert (code, answer["method"]) == (0, "toy8")


def test_shapes_that_headers_do_not_tell_come_from_the_models_class(run_json, tmp_path, demo_model):
    """The method below hides every shape; `transformers` builds the model without memory."""
    pytest.importorskip("transformers")
    import torch
    from safetensors.torch import load_file, save_file

    source = (
        "from toy8.quantizer import Toy8Quantizer\n"
        "from quantload.plugin import QuantizerPlugin\n"
        "class Secretive(Toy8Quantizer):\n"
        "    def claims(self, headers):\n"
        "        return {n: s.replace(shape=None) for n, s in super().claims(headers).items()}\n"
        "PLUGIN = QuantizerPlugin(api=1, config='toy8.config:Toy8Config', quantizer=Secretive)\n"
    )
    tensors = load_file(demo_model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    weight = tensors.pop(f"{name}.weight")
    tensors[f"{name}.codes"] = torch.zeros(weight.shape, dtype=torch.int8)
    tensors[f"{name}.scales"] = torch.ones(weight.shape[0])
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((demo_model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "toy8"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with fake_distribution(
        "dist-a",
        quantizers={"toy8": "secretive.plugin:PLUGIN"},
        modules={"secretive.plugin": source},
    ):
        code, answer = run_json("info", tmp_path)
    assert code == 0
    assert answer["packed"][0]["parameters"] == weight.numel()
    _, plain = run_json("info", demo_model)
    assert answer["parameters"] == plain["parameters"]

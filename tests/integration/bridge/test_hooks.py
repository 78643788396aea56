"""One test per hook that the bridge leans on; its failure names the hook and the release.

`transformers` is driven as its users drive it, and what it hands to a hook, or takes from
it, is looked at. The tables are checked against the code: a new hook without a test fails.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hooks import ROOT, Calls, leaning_on, located, releases, watch
from methods import METHODS
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.quantizers import AutoHfQuantizer
from transformers.quantizers.auto import AutoQuantizationConfig
from transformers.quantizers.base import HfQuantizer

import quantload
from quantload.integrations.transformers.bridge import converters
from quantload.integrations.transformers.bridge.patches import PATCHES, Patch
from quantload.integrations.transformers.bridge.quantizer import BridgedQuantizer

PACKAGE = Path(inspect.getfile(quantload)).parent / "integrations" / "transformers"


class World(SimpleNamespace):
    """What the checks below work with."""

    tiny: Path
    packed: Callable[[str], Path]
    demo_model: Path
    folder: Path

    def load(self, method: str = "gptq", **options: Any) -> Any:
        """A packed model, through `transformers`."""
        return AutoModelForCausalLM.from_pretrained(self.packed(method), **options)

    def quantize(self, method: str = "nf4", **options: Any) -> Any:
        """The float model, quantized by `transformers`' loader."""
        return AutoModelForCausalLM.from_pretrained(
            self.tiny, quantization_config=METHODS[method], **options
        )

    def gguf(self, **options: Any) -> Any:
        """A model in one file."""
        if not (self.folder / "one.gguf").exists():
            config = {"quant_method": "gguf", "type": "Q8_0"}
            model = quantload.load_model(self.demo_model, quantization_config=config)
            quantload.save_model(model, self.folder / "one.gguf")
        return AutoModelForCausalLM.from_pretrained(self.folder, gguf_file="one.gguf", **options)


@pytest.fixture
def world(
    tiny: Path, packed: Callable[[str], Path], demo_model: Path, tmp_path: Path, ids: Tensor
) -> World:
    return World(tiny=tiny, packed=packed, demo_model=demo_model, folder=tmp_path, ids=ids)


# -- what is replaced ----------------------------------------------------------------------


def _mapping_of_quantizers(world: World, patch: Patch) -> None:
    mapping = getattr(*located(patch.target))
    assert isinstance(mapping, dict)
    assert all(issubclass(cls, HfQuantizer) for cls in mapping.values())
    with quantload.enable_transformers(keep="fp8"):  # an entry that stays is what the original has
        assert mapping["fp8"].__module__.startswith("transformers.")
        config = transformers.FineGrainedFP8Config()
        assert type(AutoHfQuantizer.from_config(config)) is mapping["fp8"]
    assert mapping["gptq"] is BridgedQuantizer


def _mapping_of_configs(world: World, patch: Patch) -> None:
    mapping = getattr(*located(patch.target))
    assert isinstance(mapping, dict)
    assert type(AutoQuantizationConfig.from_dict({"quant_method": "fp8"})) is mapping["fp8"]
    assert mapping["gptq"].from_dict({"quant_method": "gptq", "bits": 4}).bits == 4


def _config_from_dict(world: World, calls: Calls) -> None:
    # Kept methods are made by the original, which asks its own class.
    with quantload.enable_transformers(keep="bitsandbytes"):
        AutoHfQuantizer.from_config({"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert calls[-1]["quantization_config_dict"]["load_in_8bit"] is True


def _config_from_pretrained(world: World, calls: Calls) -> None:
    quantizer = AutoHfQuantizer.from_pretrained(world.packed("awq"))
    assert calls[-1]["pretrained_model_name_or_path"] == world.packed("awq")
    assert isinstance(quantizer, BridgedQuantizer)


def _quantizer_from_config(world: World, calls: Calls) -> None:
    world.load()
    world.quantize()
    assert [call["kwargs"]["pre_quantized"] for call in calls] == [True, False]
    assert isinstance(calls[0]["quantization_config"], quantload.QuantizationConfig)


def _merge(world: World, calls: Calls) -> None:
    asked = {"quant_method": "gptq", "backend": "auto", "bits": 4}
    world.load(quantization_config=asked)
    assert calls[-1]["quantization_config"]["quant_method"] == "gptq"
    assert calls[-1]["quantization_config_from_args"] == asked


def _supports(world: World, calls: Calls) -> None:
    world.load()
    assert calls[-1]["quantization_config_dict"]["quant_method"] == "gptq"
    assert calls.results[-1] is True


def _config_of_a_file(world: World, calls: Calls) -> None:
    world.gguf()
    files = [call["kwargs"].get("gguf_file") for call in calls]
    assert "one.gguf" in files
    for found, rest in calls.results:
        assert isinstance(found, dict)
        assert isinstance(rest, dict)
    assert AutoConfig.from_pretrained(world.tiny).hidden_size == 128


def _tokenizer_of_a_file(world: World, calls: Calls) -> None:
    world.gguf()
    made = AutoTokenizer.from_pretrained(world.folder, gguf_file="one.gguf")
    (asked,) = [call for call in calls if "gguf_file" in call.get("kwargs", {})]
    assert asked["kwargs"]["gguf_file"] == "one.gguf"
    assert Path(asked["pretrained_model_name_or_path"]) == world.folder
    assert made("def").input_ids


def _report(world: World, calls: Calls) -> None:
    world.load()
    assert {"model", "loading_info", "ignore_mismatched_sizes"} <= calls[-1].keys()
    info = calls[-1]["loading_info"]
    assert info.mismatched_keys == set()
    assert info.conversion_errors == {}


def _save_pretrained(world: World, calls: Calls) -> None:
    model = world.load()
    held = dict(model.state_dict())
    model.save_pretrained(world.folder / "saved", state_dict=held)
    assert calls[-1]["self"] is model
    assert calls[-1]["state_dict"] is held


def _added(world: World, patch: Patch) -> None:
    owner, name = located(patch.target)
    assert owner is HfQuantizer
    with quantload.enable_transformers(keep="bitsandbytes"):
        kept = AutoHfQuantizer.from_config({"quant_method": "bitsandbytes", "load_in_8bit": True})
        value = getattr(kept, name)
    assert (
        value == "bitsandbytes"
        if isinstance(value, str)
        else isinstance(value(), quantload.Verdict)
    )


AUTO = "transformers.quantizers.auto"
REPLACED: dict[str, Callable[[World, Any], None]] = {
    f"{AUTO}.AUTO_QUANTIZER_MAPPING": _mapping_of_quantizers,
    f"{AUTO}.AUTO_QUANTIZATION_CONFIG_MAPPING": _mapping_of_configs,
    f"{AUTO}.AutoQuantizationConfig.from_dict": _config_from_dict,
    f"{AUTO}.AutoQuantizationConfig.from_pretrained": _config_from_pretrained,
    f"{AUTO}.AutoHfQuantizer.from_config": _quantizer_from_config,
    f"{AUTO}.AutoHfQuantizer.merge_quantization_configs": _merge,
    f"{AUTO}.AutoHfQuantizer.supports_quant_method": _supports,
    "transformers.configuration_utils.PreTrainedConfig._get_config_dict": _config_of_a_file,
    "transformers.models.auto.tokenization_auto.AutoTokenizer.from_pretrained": (
        _tokenizer_of_a_file
    ),
    "transformers.modeling_utils.log_state_dict_report": _report,
    "transformers.modeling_utils.PreTrainedModel.save_pretrained": _save_pretrained,
    "transformers.quantizers.base.HfQuantizer.quant_method": _added,
    "transformers.quantizers.base.HfQuantizer.is_available": _added,
}
UNWATCHED = (_mapping_of_quantizers, _mapping_of_configs, _added)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.target)
def test_what_is_replaced_is_called_as_the_replacement_expects(
    patch: Patch, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = REPLACED[patch.target]  # a KeyError: write the check of a new patch
    with leaning_on(patch.target), monkeypatch.context() as patched:
        calls: Any = patch
        if check not in UNWATCHED:
            calls = watch(patched, *located(patch.target))
        check(world, calls)
        assert calls, "it was never called"


def test_every_replacement_has_its_check_and_no_other() -> None:
    assert set(REPLACED) == {patch.target for patch in PATCHES}


# -- what the quantizer is asked -------------------------------------------------------------

OFFLOADED = {"device_map": "auto", "max_memory": {"cpu": "300KB"}}


def _offload(world: World) -> Any:
    return world.load(**OFFLOADED, offload_folder=world.folder / "offload")


def _trainer(world: World) -> None:
    from transformers import trainer_utils

    with pytest.raises(ValueError, match="adapters"):
        trainer_utils.validate_quantization_for_training(world.load())


def _generate(world: World) -> Any:
    return world.load().generate(
        world.ids, max_new_tokens=2, do_sample=False, cache_implementation="static"
    )


ASKED: dict[str, tuple[Callable[[World], Any], dict[str, Any]]] = {
    "validate_environment": (World.load, {"kwargs": dict}),
    "update_dtype": (World.load, {"dtype": torch.dtype}),
    "update_device_map": (World.load, {"device_map": object}),
    "adjust_max_memory": (_offload, {"max_memory": dict}),
    "preprocess_model": (World.load, {"model": nn.Module, "dtype": torch.dtype, "kwargs": dict}),
    "read_header": (World.gguf, {"gguf_file": str}),
    "get_state_dict": (World.gguf, {"checkpoint_file": str, "model": nn.Module}),
    "update_weight_conversions": (World.load, {"weight_conversions": list}),
    "get_quantize_ops": (World.quantize, {}),
    "param_needs_quantization": (World.quantize, {"model": nn.Module, "param_name": str}),
    "param_element_size": (
        lambda world: world.quantize(**OFFLOADED, offload_folder=world.folder / "offload"),
        {"model": nn.Module, "param_name": str, "param": Tensor},
    ),
    "get_new_dtype": (World.load, {"converter": object, "param": object, "dtype": object}),
    "postprocess_model": (World.load, {"model": nn.Module}),
    "dequantize": (lambda world: world.load().dequantize(), {"model": nn.Module}),
    "get_state_dict_and_metadata": (
        lambda world: world.load().save_pretrained(world.folder / "saved"),
        {"model": nn.Module},
    ),
    "is_serializable": (
        lambda world: world.load().save_pretrained(world.folder / "saved"),
        {},
    ),
    "is_trainable": (_trainer, {}),
    "is_qat_trainable": (_trainer, {}),
    "is_compileable": (_generate, {}),
}
NOT_ASKED = {
    "requires_calibration": "asked by HfQuantizer.__init__ of a float model",
    "modules_to_not_convert": "for callers, where the quantizers of transformers have it",
    "quant_method": "for callers; added to the class by a patch",
    "is_available": "for callers; added to the class by a patch",
    "place": "the bridge's own",
    "in_parts": "the bridge's own",
    "core": "the bridge's own",
}
LATER = {"get_new_dtype": (5, 18)}
"""Release from which on a hook is there; before it the bridge does without."""


@pytest.mark.parametrize("name", ASKED)
def test_the_quantizer_is_asked_as_it_answers(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if release < LATER.get(name, (0, 0)):
        pytest.skip(f"transformers {transformers.__version__} has no {name} yet")
    act, expected = ASKED[name]
    if act is _trainer:
        pytest.importorskip("accelerate")
    with leaning_on(f"transformers' loader calls HfQuantizer.{name}"), monkeypatch.context() as m:
        calls = watch(m, BridgedQuantizer, name)
        act(world)
        assert calls, "it was never called"
        for call in calls:
            for argument, kind in expected.items():
                assert argument in call, f"called without {argument}"
                assert isinstance(call[argument], kind), f"{argument} is {call[argument]!r}"


def test_everything_the_quantizer_overrides_has_its_check() -> None:
    own = {name for name in vars(BridgedQuantizer) if not name.startswith("_")}
    assert own == set(ASKED) | (set(NOT_ASKED) - {"core"})


def test_preprocessing_is_told_the_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with leaning_on("HfQuantizer.preprocess_model(checkpoint_files=)"):
        calls = watch(monkeypatch, BridgedQuantizer, "preprocess_model")
        world.load()
        files = [Path(file) for file in calls[0]["kwargs"]["checkpoint_files"]]
        assert files == [world.packed("gptq") / "model.safetensors"]


def test_calibration_is_asked_for_by_the_base_class() -> None:
    with leaning_on("HfQuantizer.requires_calibration"):

        class Calibrated(BridgedQuantizer):
            requires_calibration = True

        with pytest.raises(ValueError, match="pre-quantized"):
            Calibrated(METHODS["gptq"], pre_quantized=False)


# -- what is imported and built upon -----------------------------------------------------------


def _weight_converter(world: World) -> None:
    from transformers.core_model_loading import WeightConverter

    made = WeightConverter(["a", "b"], ["c"], [converters.Quantize(None)])  # type: ignore[arg-type]
    assert made.source_patterns == ["a", "b"]
    made.add_tensor("t", "x.a", "a", torch.ones(2))
    made.add_tensor("t", "y.a", "a", torch.zeros(2))
    collected = made.materialize_tensors()
    assert [len(found) for found in collected.values()] == [2]
    assert hasattr(made, "was_used")


def _conversion_ops(world: World) -> None:
    from transformers.core_model_loading import ConversionOps

    assert "convert" in vars(ConversionOps)
    assert "input_dict" in inspect.signature(ConversionOps.convert).parameters


def _weight_renaming(world: World) -> None:
    from transformers.core_model_loading import WeightRenaming

    key, _ = WeightRenaming(r"blocks", r"layers").rename_source_key("model.blocks.0.w")
    assert key == "model.layers.0.w"


def _rename_source_key(world: World) -> None:
    from transformers.core_model_loading import rename_source_key

    state = {"model.norm.weight": torch.ones(1)}
    assert rename_source_key("norm.weight", [], [], "model", state)[0] == "model.norm.weight"


def _dot_natural_key(world: World) -> None:
    from transformers.core_model_loading import dot_natural_key

    assert sorted(["a.10", "a.9"], key=dot_natural_key) == ["a.9", "a.10"]


def _mixtral() -> Any:
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    return transformers.MixtralForCausalLM(config)


def _conversion_mapping(world: World) -> None:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    found = get_model_conversion_mapping(_mixtral())
    assert any(isinstance(one, WeightConverter) for one in found)


def _revert(world: World) -> None:
    from transformers.core_model_loading import revert_weight_conversion

    model = _mixtral()
    reverted = revert_weight_conversion(model, dict(model.state_dict()))
    assert any(".experts.1." in name for name in reverted)


def _initialization(world: World) -> None:
    from transformers import initialization

    with initialization.no_init_weights():
        layer = nn.Linear(2, 2)
        before = layer.weight.clone()
        nn.init.zeros_(layer.weight)
    assert torch.equal(layer.weight, before)


def _quantization_method(world: World) -> None:
    from transformers.utils.quantization_config import QuantizationMethod

    assert {"bitsandbytes", "gptq", "awq", "aqlm"} <= {one.value for one in QuantizationMethod}
    assert isinstance(QuantizationMethod("gptq"), str)


def _there(target: str) -> Callable[[World], None]:
    def check(world: World) -> None:
        assert getattr(*located(target)) is not None

    return check


def _generation_config(world: World) -> None:
    assert transformers.GenerationConfig.from_dict({"eos_token_id": 3}).eos_token_id == 3


IMPORTED: dict[str, Callable[[World], None]] = {
    "transformers.GenerationConfig": _generation_config,
    "transformers.PreTrainedModel": _there("transformers.PreTrainedModel.initialize_weights"),
    "transformers.initialization": _initialization,
    "transformers.conversion_mapping.get_model_conversion_mapping": _conversion_mapping,
    "transformers.core_model_loading.ConversionOps": _conversion_ops,
    "transformers.core_model_loading.WeightConverter": _weight_converter,
    "transformers.core_model_loading.WeightRenaming": _weight_renaming,
    "transformers.core_model_loading.dot_natural_key": _dot_natural_key,
    "transformers.core_model_loading.rename_source_key": _rename_source_key,
    "transformers.core_model_loading.revert_weight_conversion": _revert,
    "transformers.dynamic_module_utils.get_class_from_dynamic_module": _there(
        "transformers.dynamic_module_utils.get_class_from_dynamic_module"
    ),
    "transformers.models.auto.auto_factory.add_generation_mixin_to_remote_model": _there(
        "transformers.models.auto.auto_factory.add_generation_mixin_to_remote_model"
    ),
    "transformers.quantizers.auto": _there(f"{AUTO}.AutoHfQuantizer"),
    "transformers.quantizers.base.HfQuantizer": _there(
        "transformers.quantizers.base.HfQuantizer.preprocess_model"
    ),
    "transformers.utils.quantization_config.QuantizationMethod": _quantization_method,
}


@pytest.mark.parametrize("name", IMPORTED)
def test_what_is_imported_behaves_as_it_did(name: str, world: World) -> None:
    with leaning_on(name):
        module, _, attribute = name.rpartition(".")
        exec(f"from {module} import {attribute}", {})
        IMPORTED[name](world)


def test_everything_imported_has_its_check() -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("transformers"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert found == set(IMPORTED)


# -- what is read and set on models ----------------------------------------------------------


def test_the_attributes_that_are_read_and_set_are_there(world: World) -> None:
    model = world.load()
    for name in (
        "_weight_conversions",
        "_no_split_modules",
        "_tp_size",
        "all_tied_weights_keys",
        "base_model_prefix",
        "tp_plan",
    ):
        with leaning_on(f"PreTrainedModel.{name}"):
            assert hasattr(model, name)
    with leaning_on("PreTrainedModel._weight_conversions is what save_pretrained reverts"):
        assert model._weight_conversions == []
        model.save_pretrained(world.folder / "saved")
        held = load_file(world.folder / "saved" / "model.safetensors")
        assert held.keys() == load_file(world.packed("gptq") / "model.safetensors").keys()


# -- the messages ------------------------------------------------------------------------------


def test_a_failure_names_the_hook_the_release_and_what_is_releases() -> None:
    with pytest.raises(pytest.fail.Exception) as failure, leaning_on("transformers.x.Hook"):
        raise TypeError("got an unexpected keyword argument 'plan'")
    told = str(failure.value)
    assert f"transformers {transformers.__version__} broke" in told
    assert "transformers.x.Hook" in told
    assert releases() in told
    assert "unexpected keyword argument 'plan'" in told
    assert re.fullmatch(r"[\d.]+ to [\d.]+", releases())


def test_a_hook_that_is_no_longer_called_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks can fail: here a release that stopped asking, and one that asks otherwise."""
    patch = next(patch for patch in PATCHES if patch.name.endswith("supports_quant_method"))
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", classmethod(lambda cls, *args, **kwargs: None)
    )
    with pytest.raises(pytest.fail.Exception, match="supports_quant_method"):
        test_what_is_replaced_is_called_as_the_replacement_expects(patch, world, monkeypatch)


def test_the_table_of_releases_is_that_of_the_sessions() -> None:
    page = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")
    assert releases().split(" to ")[0].rpartition(".")[0] in page

"""`GPTQConfig`: spellings, precedence, overrides per module, what other readers find in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from quantload import AutoHfQuantizer, AutoQuantizationConfig, ConfigError, GPTQConfig
from quantload.quantizers.overrides import override_for
from quantload_gptq.overrides import parameters_for


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"bits": 4}, "gptq"),
        ({"bits": 4, "checkpoint_format": "gptq_v2"}, "gptq_v2"),
        ({"bits": 4, "format": "gptq_v2"}, "gptq_v2"),
        ({"bits": 4, "version": "GPTQ_V2"}, "gptq_v2"),
        ({"bits": 4, "checkpoint_format": "gptq_v2", "format": "gptq"}, "gptq_v2"),
        ({"bits": 4, "quant_method": "gptq_v2"}, "gptq_v2"),
        ({"bits": 4, "quant_method": "gptq_p"}, "gptq_p"),
        ({"bits": 4, "quant_method": "marlin"}, "marlin"),
        ({"bits": 4, "quant_method": "marlin", "checkpoint_format": "gptq"}, "marlin"),
        ({"bits": 4, "is_marlin_format": True}, "marlin"),
        ({"bits": 4, "is_marlin_format": False}, "gptq"),
        ({"bits": 4, "method": "gptq", "format": None}, "gptq"),
    ],
)
def test_the_layout_is_found_wherever_it_is_said(raw: dict[str, object], expected: str) -> None:
    config = AutoQuantizationConfig.from_dict({"quant_method": "gptq", **raw})
    assert config.checkpoint_format == config.format == expected


def test_contradicting_formats_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "quantload.gptq"):
        GPTQConfig.from_dict({"bits": 4, "checkpoint_format": "gptq_v2", "format": "gptq"})
    assert "checkpoint_format='gptq_v2' and format='gptq'" in caplog.text


@pytest.mark.parametrize("key", ["w_bit", "wbits"])
def test_old_names_of_bits_and_group_size(key: str) -> None:
    config = GPTQConfig.from_dict({key: 3, "q_group_size": 64})
    assert (config.bits, config.group_size) == (3, 64)


def test_the_name_that_gptq_for_llama_has_for_group_size() -> None:
    assert AutoQuantizationConfig.from_dict({"wbits": 4, "groupsize": 64}).group_size == 64


@pytest.mark.parametrize("key", ["method", "quant_method"])
def test_the_method_is_found_under_both_of_its_names(key: str) -> None:
    config = AutoQuantizationConfig.from_dict({key: "gptq", "bits": 4, "format": "gptq_v2"})
    assert isinstance(config, GPTQConfig)
    assert config.checkpoint_format == "gptq_v2"


def test_what_has_no_effect_on_reading_never_refuses_a_checkpoint() -> None:
    inert = sorted(GPTQConfig.inert_fields() | GPTQConfig.loading_fields())
    inert.remove("modules_in_block_to_quantize")  # the layers to quantize are chosen by these
    inert.remove("block_name_to_quantize")
    for junk in ("text", 3, 2.5, True, [1], {"a": None}):
        raw = {"quant_method": "gptq", "bits": 4, **dict.fromkeys(inert, junk)}
        config = AutoHfQuantizer.from_config(raw).quantization_config
        written = config.to_dict()
        assert {key: written[key] for key in inert} == dict.fromkeys(inert, junk)


def test_zero_point_is_the_opposite_of_sym() -> None:
    assert GPTQConfig.from_dict({"bits": 4, "zero_point": True}).sym is False
    assert GPTQConfig.from_dict({"bits": 4, "zero_point": True, "sym": True}).sym is True
    assert GPTQConfig.from_dict({"bits": 4, "zero_point": True, "sym": None}).sym is False
    assert GPTQConfig.from_dict({"bits": 4, "zero_point": None}).sym is True


def test_a_config_object_of_transformers_is_taken() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPTQConfig(bits=4, group_size=64, desc_act=True, sym=False)
    quantizer = AutoHfQuantizer.from_config(theirs)
    config = quantizer.quantization_config
    assert isinstance(config, GPTQConfig)
    assert (config.bits, config.group_size, config.desc_act, config.sym) == (4, 64, True, False)


def test_what_is_written_is_what_transformers_reads() -> None:
    transformers = pytest.importorskip("transformers")
    written = GPTQConfig(bits=4, group_size=64, sym=False, checkpoint_format="gptq_v2").to_dict()
    theirs = transformers.GPTQConfig.from_dict(written)
    assert theirs.format == "gptq_v2"
    assert (theirs.bits, theirs.group_size, theirs.sym) == (4, 64, False)


def test_the_written_config_has_what_readers_look_up_and_no_nulls() -> None:
    written = GPTQConfig(bits=4).to_dict()
    assert None not in written.values()
    needed = {
        "quant_method",
        "bits",
        "group_size",
        "desc_act",
        "sym",
        "checkpoint_format",
        "lm_head",
    }
    assert needed <= set(written)
    assert json.loads(json.dumps(written)) == written


DYNAMIC = {
    r"-:.*\.k_proj": {},
    r"+:.*\.0\..*q_proj": {"bits": 8, "group_size": 64},
    r"model\.layers\.1\.": {"w_bit": 2, "sym": False, "checkpoint_format": "gptq_v2"},
    r".*q_proj": {"bits": 3},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.attn.k_proj", None),
        ("model.layers.0.attn.q_proj", {"bits": 8, "group_size": 64}),
        (
            "model.layers.1.attn.q_proj",
            {"w_bit": 2, "sym": False, "checkpoint_format": "gptq_v2"},
        ),
        ("model.layers.2.attn.q_proj", {"bits": 3}),
        ("model.layers.2.attn.v_proj", {}),
        ("other.model.layers.1.x", {}),
    ],
)
def test_the_first_pattern_that_matches_from_the_start_counts(
    name: str, expected: dict[str, object] | None
) -> None:
    assert override_for(DYNAMIC, name) == expected


def test_overrides_replace_the_parameters_of_one_module() -> None:
    config = GPTQConfig(bits=4, dynamic=DYNAMIC)
    said = parameters_for(config, "model.layers.1.attn.q_proj")
    assert (said.bits, said.group_size, said.sym, said.format) == (2, 128, False, "gptq_v2")
    assert parameters_for(config, "model.layers.0.attn.k_proj").bits == 4


def test_overrides_are_spelled_as_the_config_is() -> None:
    dynamic = {"a": {"format": "GPTQ_V2", "pack_dtype": "torch.int8"}, "b": None}
    config = GPTQConfig(bits=4, dynamic=dynamic)
    said = parameters_for(config, "a")
    assert (said.format, said.pack_dtype) == ("gptq_v2", "int8")
    assert parameters_for(config, "b").format == "gptq"


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_widths_that_exist_planar_only_are_planar(bits: int) -> None:
    assert parameters_for(GPTQConfig(bits=bits), "x").format == "gptq_p"


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
def test_a_config_in_a_file_of_its_own_is_found(tmp_path: Path, file: str) -> None:
    stored = {"bits": 4, "group_size": 64, "damp_percent": 0.01, "desc_act": True, "sym": True}
    (tmp_path / file).write_text(json.dumps(stored))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    config = AutoQuantizationConfig.from_pretrained(tmp_path)
    assert isinstance(config, GPTQConfig)
    assert (config.group_size, config.desc_act) == (64, True)


def test_config_json_comes_before_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 8, "desc_act": True}))
    inside = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": inside}))
    assert AutoQuantizationConfig.from_pretrained(tmp_path).to_dict()["bits"] == 4


def test_rotated_checkpoints_are_refused() -> None:
    with pytest.raises(ConfigError, match="rotate activations"):
        AutoHfQuantizer.from_config({"quant_method": "gptq", "bits": 4, "rotation": "hadamard"})


def test_old_asymmetric_files_of_gptqmodel_are_told(caplog: pytest.LogCaptureFixture) -> None:
    raw = {"quant_method": "gptq", "bits": 4, "sym": False, "meta": {"quantizer": ["x"]}}
    with caplog.at_level(logging.WARNING, "quantload.gptq"):
        AutoHfQuantizer.from_config(raw)
        assert not caplog.records
        AutoHfQuantizer.from_config({**raw, "meta": {"quantizer": ["gptqmodel:0.8.1"]}})
    assert "damaged zero-points" in caplog.text

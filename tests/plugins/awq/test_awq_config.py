"""`AwqConfig`: spellings, layouts, and what other readers find in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from quantload import AutoHfQuantizer, AutoQuantizationConfig, AwqConfig


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, "gemm"),
        ({"version": "GEMM"}, "gemm"),
        ({"version": "GEMV_FAST"}, "gemv_fast"),
        ({"format": "gemv"}, "gemv"),
        ({"version": "gemm", "format": "gemv"}, "gemm"),
        ({"checkpoint_format": "gemv_fast"}, "gemv_fast"),
        ({"version": "ipex"}, "gemm"),
        ({"backend": "llm-awq", "version": "gemm"}, "llm-awq"),
        ({"quant_method": "llm-awq"}, "llm-awq"),
        ({"backend": "autoawq"}, "gemm"),
        ({"version": "marlin"}, "marlin"),
    ],
)
def test_the_layout_is_found_wherever_it_is_said(raw: dict[str, object], expected: str) -> None:
    config = AutoQuantizationConfig.from_dict({"quant_method": "awq", **raw})
    assert config.version == config.format == expected


def test_contradicting_versions_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "quantload.awq"):
        AwqConfig.from_dict({"version": "gemm", "format": "gemv"})
    assert "version='gemm' and format='gemv'" in caplog.text


def test_sym_says_zero_point_where_nothing_else_does() -> None:
    assert AwqConfig.from_dict({"sym": True}).zero_point is False
    assert AwqConfig.from_dict({"sym": True, "zero_point": True}).zero_point is True


def test_a_config_object_of_transformers_is_taken() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AwqConfig(bits=4, group_size=64, zero_point=False, version="GEMV")
    config = AutoHfQuantizer.from_config(theirs).quantization_config
    assert isinstance(config, AwqConfig)
    assert (config.group_size, config.zero_point, config.version) == (64, False, "gemv")


def test_what_is_written_is_what_transformers_reads() -> None:
    transformers = pytest.importorskip("transformers")
    written = AwqConfig(group_size=64, version="gemv_fast").to_dict()
    theirs = transformers.AwqConfig.from_dict(written)
    assert theirs.format == "gemv_fast"
    assert (theirs.bits, theirs.group_size, theirs.zero_point) == (4, 64, True)


def test_the_written_config_has_what_readers_look_up() -> None:
    written = AwqConfig().to_dict()
    needed = {
        "quant_method",
        "bits",
        "group_size",
        "zero_point",
        "version",
        "modules_to_not_convert",
    }
    assert needed <= set(written)
    assert json.loads(json.dumps(written)) == written


def test_a_config_in_a_file_of_its_own_is_found(tmp_path: Path) -> None:
    stored = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
    (tmp_path / "quant_config.json").write_text(json.dumps(stored))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    config = AutoQuantizationConfig.from_pretrained(tmp_path)
    assert isinstance(config, AwqConfig)
    assert (config.bits, config.group_size, config.version) == (4, 64, "gemm")

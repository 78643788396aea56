"""Switching the bridge on and off: what is replaced, by whom, and that it comes back."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer

import quantload
from quantload.integrations.transformers.bridge import SUPPORTED
from quantload.integrations.transformers.bridge.patches import PATCHES
from quantload.integrations.transformers.bridge.quantizer import BridgedQuantizer

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _enabled() -> None:
    """Not here: these tests switch themselves."""


def _state() -> dict[str, Any]:
    """Everything that the table names, as it is now."""
    found: dict[str, Any] = {}
    for patch in PATCHES:
        owner: Any = importlib.import_module(patch.module)
        *parts, name = patch.name.split(".")
        for part in parts:
            owner = getattr(owner, part)
        value = vars(owner).get(name)
        found[patch.target] = dict(value) if isinstance(value, dict) else value
    return found


def test_everything_is_replaced_and_comes_back() -> None:
    before = _state()
    with quantload.enable_transformers() as bridge:
        during = _state()
        assert bridge.enabled
        assert {name for name in before if during[name] != before[name]} == set(before)
    assert not bridge.enabled
    assert _state() == before


def test_what_raises_inside_leaves_nothing_behind(tmp_path: Path) -> None:
    before = _state()
    with pytest.raises(ValueError, match="model_type"), quantload.enable_transformers():
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert _state() == before


def test_the_documentation_names_every_patch_and_no_other() -> None:
    page = (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(transformers\.[\w.]+)` \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(patch.target, patch.purpose) for patch in PATCHES]


def test_calls_nest_and_the_latest_decides() -> None:
    before = _state()
    outer = quantload.enable_transformers()
    inner = quantload.enable_transformers(keep="bitsandbytes")
    assert auto.AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] is not BridgedQuantizer
    inner.undo()
    inner.undo()
    assert auto.AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] is BridgedQuantizer
    outer.undo()
    assert _state() == before


def test_undoing_in_another_order_leaves_nothing() -> None:
    before = _state()
    first = quantload.enable_transformers()
    second = quantload.enable_transformers(only=["gptq"])
    first.undo()
    assert auto.AUTO_QUANTIZER_MAPPING["gptq"] is BridgedQuantizer
    assert auto.AUTO_QUANTIZER_MAPPING["awq"] is not BridgedQuantizer
    second.undo()
    assert _state() == before


def test_only_and_keep_take_all_names_of_a_method() -> None:
    with quantload.enable_transformers(only="bitsandbytes"):
        served = {n for n, c in auto.AUTO_QUANTIZER_MAPPING.items() if c is BridgedQuantizer}
    assert served == {"bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"}
    with quantload.enable_transformers(keep=["bitsandbytes_4bit"]):
        kept = {n for n, c in auto.AUTO_QUANTIZER_MAPPING.items() if c is not BridgedQuantizer}
    assert {"bitsandbytes_4bit", "bitsandbytes_8bit"} <= kept


def test_unknown_names_are_refused() -> None:
    with pytest.raises(quantload.UnknownMethodError, match="gpqt"):
        quantload.enable_transformers(only="gpqt")
    with pytest.raises(quantload.ConfigError, match="gpqt"):
        quantload.enable_transformers(keep="gpqt")
    assert auto.AUTO_QUANTIZER_MAPPING["gptq"] is not BridgedQuantizer


@pytest.mark.parametrize("version", ["5.16.2", "6.0.0", None])
def test_unsupported_releases_are_refused(
    monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    from quantload.registry import requirements

    monkeypatch.setattr(requirements, "installed_version", lambda _: version)
    with pytest.raises(quantload.MissingRequirementError, match=re.escape(SUPPORTED)):
        quantload.enable_transformers()


def test_a_release_without_a_hook_is_refused_and_nothing_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(auto.AutoHfQuantizer, "supports_quant_method")
    before = vars(auto.AutoHfQuantizer)["from_config"]
    with pytest.raises(quantload.MissingRequirementError, match="supports_quant_method"):
        quantload.enable_transformers()
    assert vars(auto.AutoHfQuantizer)["from_config"] is before


def test_kept_quantizers_have_a_name_and_say_whether_they_can_run() -> None:
    with quantload.enable_transformers(keep="bitsandbytes"):
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(load_in_4bit=True)
        quantizer = auto.AutoHfQuantizer.from_config(config)
        assert type(quantizer).__module__.startswith("transformers.")
        assert quantizer.quant_method == "bitsandbytes"
        assert isinstance(quantizer.is_available(), quantload.Verdict)
    assert not hasattr(HfQuantizer, "is_available")

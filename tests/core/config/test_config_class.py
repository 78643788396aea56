"""Config classes: validation, round trips, unknown keys."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import logging
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import pytest
from stub_plugin import StubConfig

from quantload.errors import ConfigError
from quantload.plugin import DtypeField, QuantizationConfig, option

if TYPE_CHECKING:
    import torch


class Shape(enum.Enum):
    ROW = "row"
    COLUMN = "column"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RichConfig(QuantizationConfig):
    quant_method = "rich"

    bits: int = option(minimum=2, maximum=8)
    shape: Shape = Shape.ROW
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, str] = (1, "x")
    numbers: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()
    table: dict[int, list[float]] = option(default_factory=dict)
    maybe: Shape | None = None
    either: int | list[int] = 0
    ratio: float = option(0.5, check=lambda v: v != 13, allowed="anything but 13")
    flag: bool = False
    storage: torch.dtype = DtypeField("uint8", choices=("uint8", "bfloat16"))
    optional: torch.dtype | None = DtypeField(None)
    anything: torch.Tensor | None = None

    def check(self) -> None:
        if self.flag and self.bits == 8:
            raise ConfigError("flag goes with fewer than 8 bits", field="flag", value=True)


FULL = RichConfig(
    bits=3,
    shape=Shape.COLUMN,
    kind="b",
    pair=(2, "y"),
    numbers=(1, 2, 3),
    names=frozenset({"b", "a"}),
    table={3: [0.5], -1: []},
    maybe=Shape.COLUMN,
    either=[1, 2],
    ratio=1,
    flag=True,
    storage="bfloat16",
    optional="fp16",
    extra={"unknown": {"deep": [1]}},
)


@pytest.mark.parametrize(
    "config", [FULL, RichConfig(bits=4), StubConfig()], ids=lambda config: type(config).__name__
)
@pytest.mark.parametrize("use_diff", [True, False])
def test_every_way_of_writing_can_be_read_back(config, use_diff, tmp_path):
    cls = type(config)
    assert cls.from_dict(config.to_dict()) == config
    assert cls.from_dict(config.to_diff_dict()) == config
    assert cls.from_dict(json.loads(config.to_json_string(use_diff))) == config
    config.to_json_file(tmp_path / "c.json")
    assert cls.from_json_file(tmp_path / "c.json") == config
    assert cls.from_dict(dict(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config


def test_what_is_written_is_json_and_does_not_depend_on_a_hash():
    assert json.loads(json.dumps(FULL.to_dict())) == FULL.to_dict()
    assert FULL.to_dict()["names"] == ["a", "b"]
    assert FULL.to_dict()["optional"] == "float16"
    assert FULL.to_json_string() == RichConfig.from_dict(FULL.to_dict()).to_json_string()


def test_the_diff_holds_the_method_and_what_was_changed():
    assert StubConfig(bits=8).to_diff_dict() == {"quant_method": "stub", "bits": 8}
    assert RichConfig(bits=2).to_diff_dict() == {"quant_method": "rich", "bits": 2}


def test_dicts_given_and_taken_are_copies():
    modules, extra = ["a"], {"unknown": {"deep": [1]}}
    config = StubConfig.from_dict({"modules": modules, **extra})
    modules.append("b")
    extra["unknown"]["deep"].append(2)
    config.to_dict()["unknown"]["deep"].append(3)
    assert config.modules == ["a"]
    assert config.extra == {"unknown": {"deep": [1]}}


def test_fields_cannot_be_changed_but_replaced():
    config = StubConfig(bits=8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.bits = 4
    assert config.replace(group_size=64).to_diff_dict() == {
        "quant_method": "stub",
        "bits": 8,
        "group_size": 64,
    }
    with pytest.raises(ConfigError):
        config.replace(bits=5)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("bits", 1, "from 2 to 8"),
        ("bits", 9, "from 2 to 8"),
        ("bits", "4", "whole number"),
        ("bits", 4.0, "whole number"),
        ("bits", True, "whole number"),
        ("bits", None, "whole number"),
        ("shape", "diagonal", "Shape"),
        ("kind", "c", "'a', 'b'"),
        ("pair", [1], "tuple"),
        ("pair", ["x", 1], "tuple"),
        ("numbers", [1, "2"], "tuple"),
        ("numbers", 3, "tuple"),
        ("names", ["a", 1], "frozenset of a string"),
        ("table", {"x": [1.0]}, "dict"),
        ("table", {"1": 1.0}, "dict"),
        ("either", "x", "whole number or list of a whole number"),
        ("ratio", 13, "anything but 13"),
        ("ratio", float("nan"), "13"),
        ("ratio", float("inf"), "13"),
        ("ratio", 10**400, "13"),
        ("flag", 1, "true or false"),
        ("flag", "true", "true or false"),
        ("storage", "float32", "uint8, bfloat16"),
        ("storage", "nonsense", "uint8, bfloat16"),
        ("storage", None, "uint8, bfloat16"),
        ("storage", 8, "uint8, bfloat16"),
        ("optional", "int8", "float16"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(field, value, allowed):
    with pytest.raises(ConfigError) as caught:
        RichConfig.from_dict({"bits": 4, field: value})
    assert caught.value.field == field
    assert allowed in caught.value.allowed
    assert f"RichConfig.{field}" in str(caught.value)
    assert allowed in str(caught.value)


def test_flags_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="fewer than 8 bits"):
        RichConfig(bits=8, flag=True)


def test_a_field_without_default_is_missed_by_name():
    with pytest.raises(ConfigError, match=r"RichConfig\.bits is missing.*from 2 to 8"):
        RichConfig.from_dict({"flag": True})


@pytest.mark.parametrize("value", [None, 3, "bits", [("bits", 4)], StubConfig])
def test_from_dict_wants_a_dict(value):
    with pytest.raises(ConfigError, match="expected a dict"):
        StubConfig.from_dict(value)


def test_an_unknown_keyword_is_an_error():
    with pytest.raises(TypeError, match="bitz"):
        StubConfig(bitz=4)


def test_unknown_keys_survive_and_are_reported_once(caplog):
    raw = {"bits": 8, "zz_new": [1, {"a": None}], "extra": 5}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(QuantizationConfig):
        quant_method = "own"
        bits: int = 4

    with caplog.at_level(logging.WARNING, "quantload"):
        config = Config.from_dict(raw)
        Config.from_dict(raw)
        Config.from_dict(config.to_dict())
    assert config.to_dict() == {"quant_method": "own", **raw}
    assert [r.getMessage() for r in caplog.records].count(
        "Config does not know the key 'zz_new'; it is kept as it is"
    ) == 1
    assert len(caplog.records) == 2


@pytest.mark.parametrize("key", ["bits", "quant_method"])
def test_an_unknown_key_cannot_shadow_a_field(key):
    with pytest.raises(ConfigError, match=f"'{key}' is a field of its own"):
        StubConfig(extra={key: 3})


def test_an_unknown_key_that_json_cannot_hold_is_an_error_when_written():
    config = StubConfig(extra={"object": object()})
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        config.to_json_string()


def test_normalize_sees_the_method_as_it_is_spelled():
    seen = {}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(QuantizationConfig):
        quant_method = "own"
        version: int = 1

        @classmethod
        def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
            seen.update(raw)
            if raw.get("quant_method") == "own_v2":
                raw["version"] = 2
            return raw

    assert Config.from_dict({"quant_method": "own_v2"}).version == 2
    assert seen["quant_method"] == "own_v2"
    assert Config.from_dict({}).to_dict() == {"quant_method": "own", "version": 1}


def test_normalize_cannot_change_the_callers_dict():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(QuantizationConfig):
        quant_method = "own"
        bits: int = 4

        @classmethod
        def normalize(cls, raw: dict[str, Any]) -> dict[str, Any]:
            raw["bits"] = raw.pop("w_bit")
            raw["list"].append(1)
            return raw

    raw = {"w_bit": 8, "list": []}
    assert Config.from_dict(raw).bits == 8
    assert raw == {"w_bit": 8, "list": []}


def test_overrides_replace_entries():
    assert StubConfig.from_dict({"bits": 8}, bits=2).bits == 2


def test_what_was_written_out_is_remembered_even_where_it_is_the_default():
    assert StubConfig().given() == frozenset()
    assert StubConfig(backend="auto").given() == {"backend"}
    assert "backend" in StubConfig.from_dict({"backend": "auto"}).given()
    assert "bits" not in StubConfig.from_dict({"backend": "auto"}).given()
    copied = pickle.loads(pickle.dumps(StubConfig(backend="auto")))
    assert copied.given() == {"backend"}
    assert StubConfig(backend="auto").replace(bits=8).given() == {"backend", "bits"}


def test_declared_loading_and_inert_fields():
    assert StubConfig.loading_fields() == {"backend", "compute_dtype"}
    assert StubConfig.inert_fields() == {"damp_percent"}


def test_a_class_that_is_no_dataclass_says_what_to_add():
    class Config(QuantizationConfig):
        quant_method = "own"
        bits: int = 4

    for make in (Config, lambda: Config.from_dict({})):
        with pytest.raises(ConfigError, match=r"@dataclass\(frozen=True, kw_only=True\)"):
            make()


def test_a_class_without_fields_of_its_own_needs_no_decorator():
    class Config(StubConfig):
        quant_method = "own"

    assert Config.from_dict({"bits": 8}).to_diff_dict() == {"quant_method": "own", "bits": 8}


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_named(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.json"):
        StubConfig.from_json_file(tmp_path / "c.json")


def test_dtypes_are_given_as_names_or_dtypes_and_read_as_dtypes():
    import torch

    for value in (torch.bfloat16, "bfloat16", "torch.bfloat16", "bf16"):
        config = StubConfig(compute_dtype=value)
        assert config.compute_dtype is torch.bfloat16
        assert config.to_dict()["compute_dtype"] == "bfloat16"


def test_a_config_with_a_dtype_is_made_and_written_without_torch():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from stub_plugin import StubConfig\n"
        "c = StubConfig.from_dict({'compute_dtype': 'torch.float16', 'bits': 8})\n"
        "assert c.to_dict()['compute_dtype'] == 'float16'\n"
        "c.to_json_string(); c.replace(bits=2); hash(c.given()); repr(c.to_diff_dict())\n"
        "assert 'torch' not in sys.modules\n"
        "assert c.compute_dtype is sys.modules['torch'].float16\n"
    )
    import stub_plugin

    folder = stub_plugin.__file__.rpartition("/")[0]
    subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=120)

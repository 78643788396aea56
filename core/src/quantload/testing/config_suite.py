"""`ConfigSuite`: what every config class owes."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from quantload.config.auto import AutoQuantizationConfig
from quantload.config.base import QuantizationConfig, undecorated
from quantload.config.merge import merge
from quantload.errors import ConfigError
from quantload.registry import registry
from quantload.testing.children import imported_after

JUNK: tuple[Any, ...] = (
    None,
    "\x00nonsense",
    -7,
    3.7,
    float("nan"),
    10**400,
    True,
    [],
    [None],
    {},
    {"a": {"b": []}},
)


class ConfigSuite:
    """Round trips, refusal of nonsense, no torch.

    Attributes:
        method: the `quant_method`.
        distribution: who must provide it; None where it is registered in code.
        samples: dicts as they are found in the wild, old spellings included; all valid.
        nonsense: dicts that must be refused.
    """

    method: ClassVar[str] = ""
    distribution: ClassVar[str | None] = None
    samples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    nonsense: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test with each of what was declared."""
        for name, values in (("sample", self.samples), ("nonsense_sample", self.nonsense)):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values, ids=[repr(dict(v))[:60] for v in values])

    @property
    def config_class(self) -> type[QuantizationConfig]:
        """The class that the method resolves to."""
        found: type[QuantizationConfig] = registry.resolve(
            self.method, self.distribution
        ).config_class
        return found

    def read(self, sample: Mapping[str, Any]) -> QuantizationConfig:
        """The config of a sample, found by its method."""
        raw = {"quant_method": self.method, **sample}
        return AutoQuantizationConfig.from_dict(raw, provider=self.distribution)

    def test_the_class_is_a_dataclass_of_its_own(self) -> None:
        """Without the decorator its fields would be none, and nobody would notice."""
        culprit = undecorated(self.config_class)
        assert culprit is None, f"put @dataclass(frozen=True, kw_only=True) above {culprit}"

    def test_there_is_nonsense_to_refuse(self) -> None:
        """An author says what is wrong, too: a value out of range, flags that contradict."""
        if not {field.name for field in dataclasses.fields(self.config_class)} - {"extra"}:
            pytest.skip("the config has no fields of its own: there is nothing to get wrong")
        assert self.nonsense, "declare `nonsense`: dicts that must be refused"

    def test_a_sample_gives_the_methods_config(self, sample: Mapping[str, Any]) -> None:
        """The method resolves to its class, whatever the spelling of the sample."""
        config = self.read(sample)
        assert type(config) is self.config_class

    def test_what_is_written_can_be_read_back(self, sample: Mapping[str, Any]) -> None:
        """`to_dict`, `to_diff_dict` and JSON all lead back to an equal config."""
        config, read = self.read(sample), self.config_class.from_dict
        assert read(config.to_dict()) == config, "to_dict"
        assert read(config.to_diff_dict()) == config, "to_diff_dict"
        for use_diff in (True, False):
            text = config.to_json_string(use_diff)
            assert read(json.loads(text)) == config, f"to_json_string(use_diff={use_diff})"
        assert config.to_dict()["quant_method"] == config.quant_method

    def test_what_is_written_is_json(self, sample: Mapping[str, Any]) -> None:
        """Nothing in `to_dict` changes on its way through JSON."""
        written = self.read(sample).to_dict()
        assert json.loads(json.dumps(written)) == written

    def test_normalizing_twice_changes_nothing(self, sample: Mapping[str, Any]) -> None:
        """What was written by this class is already in its own spelling."""
        config = self.read(sample)
        again = self.config_class.from_dict(config.to_dict())
        assert again.to_dict() == config.to_dict()

    def test_copies_and_pickles_are_equal(self, sample: Mapping[str, Any]) -> None:
        """Configs travel between processes."""
        config = self.read(sample)
        assert copy.deepcopy(config) == config
        assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  made one line above

    def test_unknown_keys_survive(self, sample: Mapping[str, Any]) -> None:
        """A key from the future is kept and written again."""
        raw = {**sample, "zz_from_the_future": {"deep": [1]}}
        config = self.read(raw)
        assert config.to_dict()["zz_from_the_future"] == {"deep": [1]}
        assert self.read(config.to_dict()) == config

    def test_the_dict_that_is_read_is_not_changed(self, sample: Mapping[str, Any]) -> None:
        """The caller's dict is the caller's."""
        raw = {"quant_method": self.method, **copy.deepcopy(dict(sample))}
        before = copy.deepcopy(raw)
        self.config_class.from_dict(raw)
        assert raw == before

    def test_nonsense_is_refused(self, nonsense_sample: Mapping[str, Any]) -> None:
        """With a `ConfigError` that says something."""
        with pytest.raises(ConfigError) as caught:
            self.read(nonsense_sample)
        assert str(caught.value).strip()

    def test_junk_in_a_field_is_refused_or_kept_and_never_crashes(
        self, sample: Mapping[str, Any]
    ) -> None:
        """Whatever stands in a field, reading gives a config or a `ConfigError`."""
        for field in dataclasses.fields(self.config_class):
            for junk in (*JUNK, object()):
                raw = {"quant_method": self.method, **sample, field.name: junk}
                try:
                    self.config_class.from_dict(raw)
                except ConfigError:
                    continue
                except Exception as error:
                    raise AssertionError(
                        f"{field.name}={junk!r} ended in {type(error).__name__}: {error}; "
                        f"it should be a ConfigError"
                    ) from error

    def test_fields_declare_their_part_in_loading(self) -> None:
        """Loading and inert fields exist, and none is both."""
        cls = self.config_class
        names = {field.name for field in dataclasses.fields(cls)}
        assert cls.loading_fields() <= names
        assert cls.inert_fields() <= names
        assert not cls.loading_fields() & cls.inert_fields()

    def test_merging_with_itself_changes_nothing(self, sample: Mapping[str, Any]) -> None:
        """A caller who repeats what the checkpoint says contradicts nobody."""
        config = self.read(sample)
        assert merge(config, config) == config
        assert merge(config, config, config.given()) == config

    def test_a_passed_default_never_contradicts(self, sample: Mapping[str, Any]) -> None:
        """Nor does a config that says nothing."""
        try:
            plain = self.config_class.from_dict({"quant_method": self.method})
        except ConfigError:
            pytest.skip("the config has fields without a default")
        config = self.read(sample)
        assert merge(config, plain) == config

    def test_configs_are_made_without_torch(self) -> None:
        """Reading configs is what listings and error messages do: torch is not imported."""
        record = registry.choose("quantload.quantizers", self.method, self.distribution)
        if record.target is not None:
            pytest.skip("registered in code: there is nothing a fresh process could import")
        code = (
            "import quantload\n"
            f"samples = {[dict(s) for s in self.samples]!r}\n"
            "for sample in samples:\n"
            f"    raw = {{'quant_method': {self.method!r}, **sample}}\n"
            f"    config = quantload.AutoQuantizationConfig.from_dict(raw, "
            f"provider={self.distribution!r})\n"
            "    config.to_json_string()\n"
        )
        assert not imported_after(code, "torch"), "making a config imports torch"

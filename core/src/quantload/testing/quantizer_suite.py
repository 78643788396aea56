"""`QuantizerSuite`: discovery, availability, what a method claims, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from quantload.errors import (
    ConfigError,
    DeviceMapError,
    MissingRequirementError,
    QuantloadError,
    UnsupportedOperationError,
)
from quantload.modules import QuantizedLinear, hosts_of
from quantload.plugin import API, QuantizerPlugin
from quantload.quantizers.spec import Header, ModuleSpec
from quantload.registry.records import distribution_key
from quantload.registry.status import status_of
from quantload.testing.children import imported_after
from quantload.testing.damage import DamageChecks
from quantload.testing.declared import LAYER, there_is
from quantload.testing.roundtrip import RoundTripChecks, small_net
from quantload.verdict import Verdict

FLOAT_LAYERS = {
    "model.norm.weight": Header("F32", (64,), 256),
    "model.embed_tokens.weight": Header("BF16", (100, 64), 12800),
    "lm_head.weight": Header("F16", (100, 64), 12800),
    "lm_head.bias": Header("F16", (100,), 200),
}


class QuantizerSuite(DamageChecks, RoundTripChecks):
    """What every `WeightQuantizer` owes beside its weights.

    Attributes:
        torch_free: making the quantizer, its class included, imports no torch.
    """

    torch_free: ClassVar[bool] = False

    # -- discovery ---------------------------------------------------------------------

    def test_the_method_is_found_where_it_should_be(self) -> None:
        """By its name, from its distribution, with the API of this core."""
        found = self.resolved()
        assert isinstance(found.plugin, QuantizerPlugin)
        assert found.plugin.api == API
        if self.distribution is not None:
            wanted = distribution_key(self.distribution)
            assert distribution_key(found.record.distribution) == wanted
            assert found.record.version, "the distribution has a version"
        assert found.plugin.summary, "the descriptor has a summary, for listings"

    def test_listing_shows_it_ready(self) -> None:
        """Its requirements are met here and nothing is wrong with it."""
        status = status_of(self.resolved().record)
        assert status.status == "ready", status.reason

    def test_the_descriptor_imports_no_torch(self) -> None:
        """So that listing everything installed stays quick."""
        record = self.resolved().record
        if record.target is not None:
            pytest.skip("registered in code: there is nothing a fresh process could import")
        module = record.value.partition(":")[0]
        assert not imported_after(f"import {module}", "torch"), f"{module} imports torch"

    def test_making_the_quantizer_imports_no_torch_where_declared(
        self, config: Mapping[str, Any]
    ) -> None:
        """A quantizer is made long before a tensor is seen."""
        if not self.torch_free or self.resolved().record.target is not None:
            pytest.skip("not declared, or registered in code")
        raw = {"quant_method": self.method, **config}
        code = (
            f"import quantload\nquantload.AutoHfQuantizer.from_config({raw!r}, "
            f"provider={self.distribution!r}).is_available()"
        )
        assert not imported_after(code, "torch"), "making the quantizer imports torch"

    # -- what it says of itself ----------------------------------------------------------

    def test_it_is_available_here(self, config: Mapping[str, Any]) -> None:
        """The suite runs where the plugin can."""
        verdict = self.quantizer(config).is_available()
        assert isinstance(verdict, Verdict)
        assert verdict, verdict

    def test_a_requirement_that_is_not_met_is_named_with_what_mends_it(
        self, config: Mapping[str, Any]
    ) -> None:
        """In the verdict, and in the error before loading begins."""
        quantizer = self.quantizer(config)
        absent = "quantload-no-such-package>=7"
        needs = (*self.resolved().plugin.requires, absent)
        quantizer.plugin = dataclasses.replace(self.resolved().plugin, requires=needs)
        verdict = quantizer.is_available()
        assert not verdict
        assert "quantload-no-such-package" in verdict.reason
        assert "pip install" in verdict.fix
        with pytest.raises(MissingRequirementError, match="quantload-no-such-package"):
            quantizer.validate_environment()

    def test_the_environment_is_accepted_as_it_is(
        self, config: Mapping[str, Any], device: str
    ) -> None:
        """Every declared device is one of the descriptor's, and may be in a device map."""
        quantizer = self.quantizer(config)
        assert quantizer.supports_device(device), f"{device} is not among the descriptor's devices"
        quantizer.validate_environment(device_map=None)
        quantizer.validate_environment(device_map={"": device})
        quantizer.validate_environment(device_map="auto")

    def test_every_device_that_is_promised_and_here_is_tested(self) -> None:
        """What the descriptor says of devices is held by tests wherever there is one."""
        for device in set(self.resolved().plugin.devices) - set(self.devices):
            if there_is(device):
                raise AssertionError(f"the descriptor promises {device}: name it in `devices`")

    def test_a_device_it_does_not_run_on_is_refused_before_loading(
        self, config: Mapping[str, Any]
    ) -> None:
        """With an error that names it."""
        with pytest.raises(DeviceMapError, match="vulkan"):
            self.quantizer(config).validate_environment(device_map={"model": "vulkan:0"})

    def test_what_was_declared_is_what_it_says(self, config: Mapping[str, Any]) -> None:
        """Capabilities of the suite and of the quantizer agree."""
        quantizer = self.quantizer(config)
        serializable = quantizer.is_serializable()
        assert isinstance(serializable, Verdict)
        said = {
            "can_quantize": bool(quantizer.can_quantize()),
            "requires_calibration": quantizer.requires_calibration,
            "serializable": bool(serializable),
            "trainable": quantizer.is_trainable,
            "compileable": quantizer.is_compileable,
        }
        assert said == {name: getattr(self, name) for name in said}
        for verdict in (serializable, quantizer.can_quantize()):
            assert verdict or verdict.reason, "a no owes a reason"

    def test_its_method_is_that_of_its_config(self, config: Mapping[str, Any]) -> None:
        """And the settings arrive."""
        quantizer = self.quantizer(config, modules_to_not_convert=["lm_head"], pre_quantized=True)
        assert quantizer.quant_method == quantizer.quantization_config.quant_method
        assert quantizer.pre_quantized is True
        assert "lm_head" in quantizer.modules_to_not_convert

    def test_a_float_checkpoint_is_refused_where_data_is_needed(
        self, config: Mapping[str, Any]
    ) -> None:
        """Before anything is loaded."""
        if not self.requires_calibration:
            assert self.quantizer(config, pre_quantized=False).pre_quantized is False
            return
        with pytest.raises(ConfigError):
            self.quantizer(config, pre_quantized=False)

    # -- what it claims ------------------------------------------------------------------

    def test_nothing_is_claimed_of_a_float_checkpoint(self, config: Mapping[str, Any]) -> None:
        """Evidence decides, and there is none."""
        assert self.quantizer(config).claims({}) == {}
        assert self.quantizer(config).claims(FLOAT_LAYERS) == {}

    def test_the_packed_modules_of_a_checkpoint_are_claimed_and_no_others(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """From headers alone, wherever in the model they are."""
        tensors = self.checkpoint_tensors(config, shape)
        headers: dict[str, Any] = dict(FLOAT_LAYERS)
        modules = ("proj", "model.layers.0.q_proj", "model.layers.10.q_proj")
        for module in modules:
            headers |= {f"{module}.{key}": Header.of(tensor) for key, tensor in tensors.items()}
            headers[f"{module}.bias"] = Header("F16", (shape[0],), 2 * shape[0])
        claimed = self.quantizer(config).claims(headers)
        assert sorted(claimed) == sorted(modules)
        for module, spec in claimed.items():
            assert spec.name == module
            assert set(tensors) <= {*spec.tensors, "bias"}, "spec.tensors names every tensor"
            assert spec.shape is None or tuple(spec.shape) == shape

    def test_a_bare_name_is_enough_to_pack(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """`pack(name, tensors)` gives the weight; the bias is the host's and left alone."""
        tensors = self.checkpoint_tensors(config, shape)
        weight = self.quantizer(config).pack(LAYER, tensors)
        assert tuple(weight.shape) == shape
        with_bias = {**tensors, "bias": torch.zeros(shape[0])}
        assert tuple(self.quantizer(config).pack(LAYER, with_bias).shape) == shape

    # -- the model ---------------------------------------------------------------------------

    def test_targets_of_a_float_model_get_hosts(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> None:
        """Empty ones on the meta device; what is to be left alone is."""
        if not self.can_quantize:
            pytest.skip("declared: it cannot quantize")
        model = small_net(shape)
        quantizer = self.quantizer(config, pre_quantized=False, modules_to_not_convert=["keep"])
        targets = quantizer.targets(model)
        assert set(targets) == {"first", "second"}
        assert all(spec.shape == shape for spec in targets.values())
        assert quantizer.param_needs_quantization(model, "first.weight")
        for name in ("first.bias", "norm.weight", "keep.weight"):
            assert not quantizer.param_needs_quantization(model, name)
        quantizer.preprocess_model(model)
        hosts = dict(hosts_of(model))
        assert set(hosts) == {"first", "second"}
        for host in hosts.values():
            assert isinstance(host, QuantizedLinear)
            assert host.weight.is_meta
            assert tuple(host.weight.shape) == shape
        assert not isinstance(model.get_submodule("keep"), QuantizedLinear)

    def test_quantizing_is_refused_where_it_was_declared_impossible(
        self, config: Mapping[str, Any]
    ) -> None:
        """With the error that says so."""
        if self.can_quantize:
            pytest.skip("declared: it can quantize")
        shape = self.shapes[0]
        spec = ModuleSpec(LAYER, shape=shape, dtype=torch.float32)
        with pytest.raises((UnsupportedOperationError, ConfigError)):
            self.quantizer(config).quantize(spec, self.float_weight(shape))

    def test_a_weight_that_is_not_finite_is_refused(self, config: Mapping[str, Any]) -> None:
        """A NaN would become a number, and nobody would know."""
        if not self.can_quantize:
            pytest.skip("declared: it cannot quantize")
        shape = self.shapes[0]
        for value in (float("nan"), float("inf")):
            weight = self.float_weight(shape)
            weight[-1, -1] = value
            spec = ModuleSpec(LAYER, shape=shape, dtype=torch.float32)
            with pytest.raises(QuantloadError):
                self.quantizer(config, pre_quantized=False).quantize(spec, weight)

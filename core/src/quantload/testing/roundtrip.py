"""Checks that go through files: load, save, load again, and quantizing on the way in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantload.checkpoint import open_checkpoint
from quantload.config.auto import AutoQuantizationConfig
from quantload.errors import UnsupportedOperationError
from quantload.loading import dequantize, load_into, save_model
from quantload.modules import hosts_of
from quantload.quantizers.spec import ModuleSpec
from quantload.testing.comparing import differences, snapshot
from quantload.testing.declared import Config, MethodSuite, Shape, example


def small_net(shape: Shape) -> nn.ModuleDict:
    """Three linear layers, one without bias, and a norm, on the meta device."""
    out_features, in_features = shape
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "first": nn.Linear(in_features, out_features),
                "second": nn.Linear(in_features, out_features, bias=False),
                "norm": nn.LayerNorm(out_features),
                "keep": nn.Linear(in_features, out_features),
            }
        )


class RoundTripChecks(MethodSuite):
    """A model of this method survives its way through files."""

    def test_a_model_that_was_loaded_is_saved_byte_for_byte(
        self, config: Config, shape: Shape, tmp_path: Path
    ) -> None:
        """Every tensor, after forward passes, and again after the second loading."""
        settings = self.quantizer(config).quantization_config.to_dict()
        packed = self.checkpoint_tensors(config, shape)
        tensors = {
            **{f"{name}.{k}": t for name in ("first", "second") for k, t in packed.items()},
            **_floats(shape),
        }
        _write(tmp_path / "one", tensors, settings)
        net = small_net(shape)
        load_into(net, tmp_path / "one", progress=False)
        assert {name for name, _ in hosts_of(net)} == {"first", "second"}
        for module in ("first", "second", "keep"):
            net[module](example(3, shape[1]))
        if not self.serializable:
            with pytest.raises(UnsupportedOperationError):
                save_model(net, tmp_path / "two", sync=False)
            return
        save_model(net, tmp_path / "two", sync=False)
        assert not differences(_read(tmp_path / "two"), tensors)
        saved = AutoQuantizationConfig.from_pretrained(tmp_path / "two", provider=self.distribution)
        assert saved == AutoQuantizationConfig.from_dict(settings, provider=self.distribution)
        again = small_net(shape)
        load_into(again, tmp_path / "two", progress=False)
        for name, host in hosts_of(net):
            twin: Any = again[name]
            assert not differences(twin.weight.storage(), host.weight.storage()), name

    def test_a_model_becomes_float_layers_of_the_same_numbers(
        self, config: Config, shape: Shape, tmp_path: Path
    ) -> None:
        """`quantload.dequantize` leaves plain linear layers, biases and all."""
        settings = self.quantizer(config).quantization_config.to_dict()
        packed = self.checkpoint_tensors(config, shape)
        layers = {f"{name}.{k}": t for name in ("first", "second") for k, t in packed.items()}
        tensors = {**layers, **_floats(shape)}
        _write(tmp_path / "one", tensors, settings)
        net = small_net(shape)
        load_into(net, tmp_path / "one", progress=False)
        exact = {name: host.weight.dequantize(torch.float32) for name, host in hosts_of(net)}
        plain = dequantize(net, torch.float32)
        assert not list(hosts_of(plain)), "a packed layer is left"
        for name, matrix in exact.items():
            layer = plain.get_submodule(name)
            assert type(layer) is nn.Linear, name
            assert torch.equal(layer.weight, matrix), name
        assert torch.equal(plain.get_parameter("first.bias"), tensors["first.bias"])

    def test_quantizing_on_load_is_quantizing(
        self, config: Config, shape: Shape, tmp_path: Path
    ) -> None:
        """A float checkpoint loaded with this config holds what `quantize` makes of it."""
        if not self.can_quantize:
            pytest.skip("declared: it cannot quantize")
        weights = {name: self.float_weight(shape) for name in ("first", "second")}
        tensors = {**{f"{n}.weight": w for n, w in weights.items()}, **_floats(shape)}
        _write(tmp_path / "float", tensors)
        net = small_net(shape)
        asked = {"quant_method": self.method, **config}
        load_into(net, tmp_path / "float", quantization_config=asked, progress=False)
        quantizer = self.quantizer(config, pre_quantized=False)
        for name, weight in weights.items():
            spec = ModuleSpec(name, shape=shape, dtype=torch.float32)
            made = quantizer.unpack(spec, quantizer.quantize(spec, weight))
            host: Any = net[name]
            assert not differences(quantizer.unpack(spec, host.weight), made), name
        assert torch.equal(net.get_parameter("first.bias"), tensors["first.bias"])


def _floats(shape: Shape) -> dict[str, Tensor]:
    out_features = shape[0]
    return {
        "first.bias": example(out_features, seed=1),
        "norm.weight": example(out_features, seed=2),
        "norm.bias": example(out_features, seed=3),
        "keep.weight": example(*shape, seed=4),
        "keep.bias": example(out_features, seed=5),
    }


def _write(
    folder: Path, tensors: Mapping[str, Tensor], quantization: Mapping[str, Any] | None = None
) -> None:
    folder.mkdir()
    # clones, for safetensors refuses tensors that share memory
    save_file({k: t.contiguous().clone() for k, t in tensors.items()}, folder / "model.safetensors")
    config = {} if quantization is None else {"quantization_config": dict(quantization)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _read(folder: Path) -> dict[str, Tensor]:
    with open_checkpoint(folder, mmap=False) as opened:
        return snapshot({name: opened.read(name) for name in opened.tensors})

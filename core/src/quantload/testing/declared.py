"""What the author of a plugin declares, and what the suites make of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from quantload.quantizers.auto import AutoHfQuantizer
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer
from quantload.registry import Resolved, registry
from quantload.weights.packed import PackedWeight

Config = Mapping[str, Any]
Shape = tuple[int, int]

LAYER = "model.layers.0.mlp.up_proj"
"""The module that the suites pack."""

NO_GPU = "needs a CUDA device, and there is none"


class MethodSuite:
    """Base of the suites: a subclass names its method and declares what it can.

    Attributes:
        method: the `quant_method`.
        distribution: who must provide it; None where it is registered in code.
        configs: label -> settings of the config; every test runs with each of them.
        shapes: `(out_features, in_features)` that the method must take. Give edges of
            your blocks and groups, too.
        dtypes: compute dtypes.
        devices: torch device types; tests of one that is absent skip visibly. Name
            every one that the descriptor promises.
        can_quantize: it makes packed weights from float ones, without data.
        requires_calibration: making them takes data.
        serializable: packed weights can be written as a checkpoint.
        trainable: adapters can be trained on top.
        compileable: `torch.compile(fullgraph=True)` takes its layers.
        shard_dims: dimensions along which weights can be split.
        max_relative_error: of quantizing a Gaussian weight, over all elements.
        product_error: what a product may deviate from that of the dequantized weight
            beyond rounding, in units of `|x| @ |W|.T`; for methods that quantize inputs.
        optional_tensors: tensors of a layer that a checkpoint may lack.
    """

    method: ClassVar[str] = ""
    distribution: ClassVar[str | None] = None
    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    shapes: ClassVar[tuple[tuple[int, int], ...]] = ((64, 128), (24, 64))
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    can_quantize: ClassVar[bool] = True
    requires_calibration: ClassVar[bool] = False
    serializable: ClassVar[bool] = True
    trainable: ClassVar[bool] = True
    compileable: ClassVar[bool] = True
    shard_dims: ClassVar[tuple[int, ...]] = ()
    max_relative_error: ClassVar[float] = 0.01
    product_error: ClassVar[float] = 0.0
    optional_tensors: ClassVar[frozenset[str]] = frozenset()

    # -- what an author may override -----------------------------------------------

    def float_weight(self, shape: tuple[int, int]) -> Tensor:
        """A float32 weight `[out_features, in_features]`; always the same for a shape."""
        generator = torch.Generator().manual_seed(shape[0] * 10_007 + shape[1])
        return torch.randn(shape, generator=generator) * 0.05

    def checkpoint_tensors(
        self, config: Mapping[str, Any], shape: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The tensors of one layer as a checkpoint holds them, names without the module.

        The default quantizes `float_weight`; a method that cannot must override this.
        """
        quantizer = self.quantizer(config, pre_quantized=False)
        spec = ModuleSpec(LAYER, shape=shape, dtype=torch.float32)
        return quantizer.unpack(spec, quantizer.quantize(spec, self.float_weight(shape)))

    # -- what the tests use ----------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test with each of what was declared."""
        for name, (values, ids) in self.grid().items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values, ids=ids)

    def grid(self) -> dict[str, tuple[list[Any], list[str]]]:
        """Argument of a test -> its values and their labels."""
        return {
            "config": (list(self.configs.values()), list(self.configs)),
            "shape": (list(self.shapes), ["x".join(map(str, s)) for s in self.shapes]),
            "dtype": (list(self.dtypes), [_name(d) for d in self.dtypes]),
            "device": (list(self.devices), list(self.devices)),
            "shard_dim": (list(self.shard_dims), [f"dim{d}" for d in self.shard_dims]),
        }

    def resolved(self) -> Resolved:
        """The plugin of the method."""
        return registry.resolve(self.method, self.distribution)

    def quantizer(self, config: Mapping[str, Any], **kwargs: Any) -> WeightQuantizer:
        """A quantizer with some settings, made as everybody makes it."""
        made = AutoHfQuantizer.from_config(
            {"quant_method": self.method, **config}, provider=self.distribution, **kwargs
        )
        assert isinstance(made, WeightQuantizer), "these suites are for WeightQuantizer classes"
        return made

    def spec(
        self, config: Mapping[str, Any], shape: tuple[int, int], dtype: torch.dtype
    ) -> ModuleSpec:
        """The spec of a layer, completed as a loader does."""
        tensors = self.checkpoint_tensors(config, shape)
        spec = self.quantizer(config).spec_for(LAYER, tensors)
        return spec.replace(shape=shape, dtype=dtype)

    def weight(
        self,
        config: Mapping[str, Any],
        shape: tuple[int, int],
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> PackedWeight:
        """A packed weight as it is after loading, with this compute dtype."""
        require(device)
        tensors = self.checkpoint_tensors(config, shape)
        quantizer = self.quantizer(config)
        spec = quantizer.spec_for(LAYER, tensors).replace(shape=shape, dtype=dtype)
        placed = {name: tensor.to(device) for name, tensor in tensors.items()}
        return quantizer.pack(spec, placed).to(dtype)


def there_is(device: str) -> bool:
    """Whether this machine has a device of a type; of types nobody here knows, yes."""
    place = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}.get(device)
    return place is None or bool(place.is_available())


def require(device: str) -> None:
    """Skip a test, visibly, where there is no such device."""
    if not there_is(device):
        pytest.skip(NO_GPU if device == "cuda" else f"needs a device of type {device!r}")


def example(
    *shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> Tensor:
    """Random numbers near 1, always the same."""
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    return torch.randn(shape, generator=generator).to(device, dtype)


def inputs(
    columns: int, dtype: torch.dtype, device: str = "cpu", rows: Iterable[int] = (1, 3, 33)
) -> list[Tensor]:
    """Inputs of every form a layer may meet: rows, batches, no batch, none at all, views."""
    found = [example(count, columns, dtype=dtype, device=device) for count in rows]
    found.append(example(columns, dtype=dtype, device=device))
    found.append(example(2, 3, columns, dtype=dtype, device=device))
    found.append(example(0, columns, dtype=dtype, device=device))
    found.append(example(columns, 5, dtype=dtype, device=device).T)
    found.append(example(3, 2, columns, dtype=dtype, device=device).transpose(0, 1))
    found.append(example(4, 2 * columns, dtype=dtype, device=device)[::2, ::2])
    found.append(example(1, 2 * columns, dtype=dtype, device=device)[:, ::2])
    found.append(example(2 * columns, dtype=dtype, device=device)[::2])
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

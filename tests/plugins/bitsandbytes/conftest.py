"""The real library as oracle, and weights that are hard on a quantizer."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def bnb() -> ModuleType:
    """The bitsandbytes library; its remarks on kernels it would like to download are not ours."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return importlib.import_module("bitsandbytes")


@pytest.fixture(scope="session")
def oracle(bnb: ModuleType) -> ModuleType:
    """`bitsandbytes.functional`."""
    return importlib.import_module("bitsandbytes.functional")


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture(scope="session")
def same_bytes() -> Callable[[Tensor, Tensor], bool]:
    """Whether two tensors agree in dtype, shape and every bit."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))

    return same


@pytest.fixture(scope="session")
def same_tensors(same_bytes: Callable[[Tensor, Tensor], bool]) -> Callable[..., None]:
    """Assert that two dicts hold the same tensors, bit for bit."""

    def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        assert sorted(found) == sorted(expected)
        for name, tensor in expected.items():
            assert same_bytes(found[name], tensor), name

    return compare


@pytest.fixture
def library_4bit(bnb: ModuleType) -> Callable[..., dict[str, Tensor]]:
    """What the library writes for one 4-bit layer, names without the module prefix."""

    def write(weight: Tensor, **settings: object) -> dict[str, Tensor]:
        out_features, in_features = weight.shape
        defaults = {"bias": False, "quant_type": "nf4", "compress_statistics": False}
        block_size = settings.pop("blocksize", 64)
        layer = bnb.nn.Linear4bit(in_features, out_features, **{**defaults, **settings})
        layer.weight = bnb.nn.Params4bit(
            weight.clone(),
            requires_grad=False,
            blocksize=block_size,
            compress_statistics=layer.weight.compress_statistics,
            quant_type=layer.weight.quant_type,
            quant_storage=layer.weight.quant_storage,
        ).to("cpu")
        return dict(layer.state_dict())

    return write


@pytest.fixture
def library_8bit(bnb: ModuleType) -> Callable[[Tensor], dict[str, Tensor]]:
    """What the library writes for one LLM.int8 layer."""

    def write(weight: Tensor) -> dict[str, Tensor]:
        out_features, in_features = weight.shape
        layer = bnb.nn.Linear8bitLt(in_features, out_features, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(weight.clone(), requires_grad=False).to("cpu")
        return dict(layer.state_dict())

    return write

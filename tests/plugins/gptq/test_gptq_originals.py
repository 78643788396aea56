"""Layers packed by auto-gptq and GPTQModel: numbers in, bytes out."""

from __future__ import annotations

import pytest
import torch
from cases import Case, cases, same_bytes

from quantload import AutoHfQuantizer
from quantload.weights.affine import AffineWeight

ALL = cases("gptq")
PLAIN = [name for name in ALL if "destroyed" not in name]


def packed(case: Case) -> AffineWeight:
    weight = AutoHfQuantizer.from_config(case.config).pack("layer", case.tensors)
    assert isinstance(weight, AffineWeight)
    return weight


@pytest.mark.parametrize("name", PLAIN)
def test_the_weight_is_the_one_that_was_packed(name: str) -> None:
    case = ALL[name]
    weight = packed(case)
    assert torch.equal(weight.plain_codes(), case.numbers["codes"])
    assert torch.equal(weight.zero_points().to(torch.int16), case.numbers["zeros"])
    assert torch.equal(weight.dequantize(torch.float32), case.weight())


@pytest.mark.parametrize("name", ALL)
def test_unpacking_gives_the_same_bytes(name: str) -> None:
    case = ALL[name]
    quantizer = AutoHfQuantizer.from_config(case.config)
    same_bytes(quantizer.unpack("layer", quantizer.pack("layer", case.tensors)), case.tensors)


@pytest.mark.parametrize("name", PLAIN)
def test_rows_are_those_of_the_weight(name: str) -> None:
    weight = packed(ALL[name])
    weight.set_compute_dtype(torch.float32)
    ids = torch.tensor([[3, 0], [weight.shape[0] - 1, 3]])
    assert torch.equal(weight.rows(ids), weight.dequantize()[ids])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PLAIN)
def test_the_product_is_right_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    case = ALL[name]
    weight = packed(case)
    x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    y = weight.linear(x)
    expected = x.double() @ case.weight().double().T
    assert y.dtype == dtype
    error = (y.double() - expected).norm() / expected.norm()
    assert error < 8 * torch.finfo(dtype).eps


def test_a_layer_without_g_idx_is_written_without_one() -> None:
    case = ALL["gptq_v1_4bit_no_g_idx"]
    quantizer = AutoHfQuantizer.from_config(case.config)
    assert "g_idx" not in quantizer.unpack("layer", quantizer.pack("layer", case.tensors))


def test_act_order_is_known_by_its_g_idx_and_not_by_the_config() -> None:
    case = ALL["gptq_v1_4bit_act_order"]
    told = {**case.config, "desc_act": False}
    assert AutoHfQuantizer.from_config(told).pack("layer", case.tensors).act_order
    plain = ALL["gptq_v1_4bit_asym"]
    told = {**plain.config, "desc_act": True}
    assert not AutoHfQuantizer.from_config(told).pack("layer", plain.tensors).act_order


@pytest.mark.parametrize("name", ALL)
def test_a_weight_on_meta_has_the_shapes_and_bytes_of_the_real_one(name: str) -> None:
    case = ALL[name]
    quantizer = AutoHfQuantizer.from_config(case.config)
    spec = quantizer.spec_for("layer", case.tensors)
    real = quantizer.pack("layer", case.tensors)
    empty = quantizer.empty(spec.replace(shape=tuple(real.shape)))
    assert type(empty) is type(real)
    assert {k: (t.shape, t.dtype) for k, t in empty.storage().items()} == {
        k: (t.shape, t.dtype) for k, t in real.storage().items()
    }
    assert empty.is_meta


INPUTS = [(0,), (1,), (7,), (64,), (513,), (2, 3), (0, 4), (2, 1, 3), ()]


@pytest.mark.parametrize("name", ["gptq_v1_4bit_act_order", "gptq_p_7bit", "gptq_v1_4bit_padded"])
@pytest.mark.parametrize("shape", INPUTS)
def test_the_product_takes_inputs_of_every_shape(name: str, shape: tuple[int, ...]) -> None:
    case = ALL[name]
    weight = packed(case)
    before = {key: tensor.clone() for key, tensor in weight.storage().items()}
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn((*shape, weight.shape[1]), generator=generator).to(dtype)
        apart = torch.empty((*shape, 2 * weight.shape[1]), dtype=dtype)[..., ::2].copy_(x)
        expected = x.double() @ case.weight().double().T
        for given in (x, apart, x.expand(2, *x.shape)):
            y = weight.linear(given)
            assert y.dtype == dtype
            assert y.shape == (*given.shape[:-1], weight.shape[0])
            error = (y.double() - expected).norm()
            assert error <= 12 * torch.finfo(dtype).eps * expected.norm()
    assert all(torch.equal(tensor, before[key]) for key, tensor in weight.storage().items())


@pytest.mark.parametrize("name", ALL)
def test_what_unpacking_gives_lies_in_memory_as_in_a_file(name: str) -> None:
    case = ALL[name]
    quantizer = AutoHfQuantizer.from_config(case.config)
    for leaf, tensor in quantizer.unpack("layer", quantizer.pack("layer", case.tensors)).items():
        assert tensor.stride() == torch.empty(tensor.shape).stride(), leaf
        assert tensor.view(torch.uint8).numel() == tensor.nbytes

from __future__ import annotations

import pytest
import torch
from torch import nn

from quantload import AutoHfQuantizer
from quantload.errors import UnsupportedOperationError
from quantload.quantizers import ModuleSpec


def relative_error(weight, packed):
    return float((packed.dequantize(torch.float32) - weight).norm() / weight.norm())


@pytest.mark.parametrize(("count", "bound"), [(1, 0.60), (2, 0.36), (4, 0.16)])
def test_more_codebooks_come_nearer_to_the_weight(count, bound):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    config = {"quant_method": "aqlm", "num_codebooks": count, "nbits_per_codebook": 8}
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    packed = quantizer.quantize(ModuleSpec("layer"), weight)
    assert relative_error(weight, packed) < bound
    again = quantizer.pack("layer", quantizer.unpack("layer", packed))
    assert torch.equal(again.dequantize(), packed.dequantize())


def test_codes_wider_than_the_vectors_are_many_give_the_weight_back():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    config = {"quant_method": "aqlm", "num_codebooks": 1, "nbits_per_codebook": 12}
    packed = AutoHfQuantizer.from_config(config).quantize(ModuleSpec("layer"), weight)
    assert relative_error(weight, packed) < 1e-5


def test_the_empty_weight_has_the_storage_of_the_fitted_one():
    config = {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8}
    quantizer = AutoHfQuantizer.from_config(config)
    spec = ModuleSpec("layer", shape=(16, 64), dtype=torch.bfloat16)
    packed = quantizer.quantize(spec, torch.randn(16, 64).bfloat16())
    empty = quantizer.empty(spec)
    for name, tensor in packed.storage().items():
        assert empty.storage()[name].shape == tensor.shape
        assert empty.storage()[name].dtype == tensor.dtype
    assert empty.nbytes == packed.nbytes


def test_layers_that_the_groups_do_not_divide_stay_float():
    model = nn.Sequential(nn.Linear(16, 4), nn.Linear(12, 4))
    quantizer = AutoHfQuantizer.from_config({"quant_method": "aqlm"}, pre_quantized=False)
    assert list(quantizer.targets(model)) == ["0"]
    with pytest.raises(UnsupportedOperationError, match="divide"):
        quantizer.quantize(ModuleSpec("1"), torch.randn(4, 12))


def test_the_list_of_float_layers_holds_parameter_names():
    model = nn.Sequential(nn.Linear(16, 4), nn.Linear(16, 4))
    config = {"quant_method": "aqlm", "linear_weights_not_to_quantize": ["0.weight"]}
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    assert list(quantizer.targets(model)) == ["1"]

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from toy import ToyWeight, toy_weight

from quantload.errors import UnsupportedOperationError
from quantload.modules import (
    QuantizedEmbedding,
    QuantizedLinear,
    dequantize_hosts,
    host_for,
    set_module,
)
from quantload.quantizers import ModuleSpec


class Conv1D(nn.Module):
    """What GPT-2's layer looks like from outside."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


def quantized(weight: torch.Tensor) -> ToyWeight:
    scales = weight.abs().amax(1) / 127
    return ToyWeight((weight / scales[:, None]).round().to(torch.int8), scales)


def test_a_host_is_a_linear_layer_to_everyone_who_asks():
    layer = nn.Linear(8, 6)
    host = host_for(ModuleSpec("layer"), toy_weight(6, 8), layer)
    assert isinstance(host, nn.Linear)
    assert (host.in_features, host.out_features) == (8, 6)
    assert host.bias is not None
    assert "weight.codes" in host.state_dict()


def test_the_result_has_the_dtype_of_the_input_and_is_computed_in_the_weights_own():
    host = QuantizedLinear(toy_weight(6, 8).half())
    x = torch.randn(2, 8)
    assert host(x).dtype == torch.float32
    assert torch.equal(host(x), host.weight(x.half()).float())


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_dequantizing_gives_the_module_back_that_was_there(kind):
    module = nn.Linear(8, 6) if kind == "linear" else Conv1D(6, 8)
    logical = module.weight if kind == "linear" else module.weight.T
    original = type(module)
    model = nn.Sequential(copy.deepcopy(module))
    x = torch.randn(3, 8)
    host = host_for(ModuleSpec("0", kind), quantized(logical.detach()), model[0])
    set_module(model, "0", host)
    y = model(x)
    dequantize_hosts(model)
    assert type(model[0]) is original
    assert model[0].weight.shape == module.weight.shape
    assert torch.allclose(model(x), y, atol=1e-6)
    assert torch.allclose(model[0].weight, module.weight, atol=0.02)


def test_a_weight_that_two_hosts_share_stays_shared_when_dequantized():
    weight = toy_weight(6, 8)
    model = nn.ModuleDict({"embed": QuantizedEmbedding(weight), "head": QuantizedLinear(weight)})
    assert len(list(model.parameters())) == 2
    dequantize_hosts(model)
    assert model["embed"].weight is model["head"].weight


def test_an_embedding_host_gives_rows():
    weight = toy_weight(6, 8)
    host = host_for(ModuleSpec("e", "embedding"), weight, nn.Embedding(6, 8, padding_idx=2))
    ids = torch.tensor([[1, 2], [5, 0]])
    assert isinstance(host, nn.Embedding)
    assert host.padding_idx == 2
    assert torch.equal(host(ids), weight.dequantize()[ids])


def test_kinds_without_a_host_are_refused_by_name():
    with pytest.raises(UnsupportedOperationError, match=r"mlp\.experts"):
        host_for(ModuleSpec("mlp.experts", "experts"), toy_weight(), nn.Module())


def test_a_cast_of_the_model_reaches_bias_and_compute_dtype():
    host = host_for(ModuleSpec("l"), toy_weight(6, 8), nn.Linear(8, 6))
    host.bfloat16()
    assert host.bias.dtype == host.weight.dtype == torch.bfloat16
    assert host.weight.scales.dtype == torch.float32


def test_a_deep_copy_of_a_host_shares_nothing():
    host = host_for(ModuleSpec("l"), toy_weight(6, 8), nn.Linear(8, 6))
    twin = copy.deepcopy(host)
    twin.weight.codes.zero_()
    assert host.weight.codes.abs().sum() > 0

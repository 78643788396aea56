"""Every installed method, and HQQ, on a CUDA device, by the configs it publishes for the demo."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from quantload_hqq.plugin import PLUGIN as HQQ

import quantload
from quantload.modules import hosts_of
from quantload.plugin import QuantizerPlugin
from quantload.registry import registry

pytest.importorskip("transformers")

MODEL = Path(__file__).parents[1] / "data" / "stdlib-llama-4m"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def published() -> dict[str, dict[str, object]]:
    """Label -> config of every method that says it runs on CUDA."""
    found: dict[str, dict[str, object]] = {}
    for record in registry.records("quantload.quantizers"):
        plugin = registry.descriptor(record, QuantizerPlugin)
        if "cuda" in plugin.devices:
            method = {"quant_method": registry.resolve(record.name).config_class.quant_method}
            found.update({label: {**method, **config} for label, config in plugin.demo.items()})
    return found


CONFIGS = {**published(), **HQQ.demo}


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 4096, (2, 64), generator=torch.Generator().manual_seed(0)).cuda()


@pytest.fixture(params=sorted(CONFIGS), scope="module")
def loaded(request, _strangers):
    config = CONFIGS[request.param]
    return config, quantload.load_model(MODEL, quantization_config=config, device_map="cuda")


def storage_of(model):
    return {
        f"{name}.{key}": tensor.clone().cpu()
        for name, host in hosts_of(model)
        for key, tensor in host.weight.canonical().storage().items()
    }


def closeness(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten().float(), b.flatten().float(), 0)


def test_the_model_is_where_it_was_asked_to_be(loaded):
    _, model = loaded
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}
    assert any(True for _ in hosts_of(model))


@torch.no_grad()
def test_logits_are_those_of_the_dequantized_model(loaded, ids):
    _, model = loaded
    reference = quantload.dequantize(copy.deepcopy(model))
    assert closeness(model(ids).logits, reference(ids).logits) > 0.999


@torch.no_grad()
def test_forwards_change_no_byte(loaded, ids):
    _, model = loaded
    before = storage_of(model)
    for rows in (1, 2):
        model(ids[:rows])
        model(ids[:rows, :1])
    after = storage_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def test_it_generates_with_dynamic_and_static_caches(loaded, ids):
    _, model = loaded
    plain = model.generate(ids[:1, :8], max_new_tokens=12, do_sample=False)
    static = model.generate(
        ids[:1, :8],
        max_new_tokens=12,
        do_sample=False,
        cache_implementation="static",
        disable_compile=True,
    )
    assert plain.shape == static.shape == (1, 20)


@torch.no_grad()
def test_saved_from_the_device_it_is_the_same_on_the_cpu(loaded, tmp_path):
    _, model = loaded
    quantload.save_model(model, tmp_path / "saved")
    again = quantload.load_model(tmp_path / "saved", device_map="cpu")
    for name, host in hosts_of(model):
        mine, other = host.weight, again.get_submodule(name).weight
        assert torch.equal(mine.dequantize(torch.float32).cpu(), other.dequantize(torch.float32))


@torch.no_grad()
def test_a_copy_goes_to_the_cpu_and_back_unchanged(loaded, ids):
    _, model = loaded
    before, logits = storage_of(model), model(ids).logits
    twin = copy.deepcopy(model).to("cpu")
    assert {t.device.type for t in twin.parameters()} == {"cpu"}
    twin(ids.cpu())
    twin.to("cuda")
    after = storage_of(twin)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert closeness(twin(ids).logits, logits) > 0.9999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 3, 16, 40, 200])
@torch.no_grad()
def test_products_are_those_of_the_decoded_weight(loaded, rows, dtype):
    _, model = loaded
    for _, host in list(hosts_of(model))[:8]:
        weight = host.weight
        x = torch.randn(rows, weight.shape[-1], device="cuda", dtype=dtype)
        exact = x.double() @ weight.dequantize(torch.float64).T
        found = weight.linear(x)
        assert found.dtype == dtype
        bound = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}[dtype]
        if weight.layout == "bitsandbytes_8bit":  # rows of x are rounded to 8 bits by the method
            bound = 2e-2
        assert (found.double() - exact).norm() / exact.norm() < bound, (weight, weight.kernel)


def test_a_gradient_reaches_the_input(loaded):
    _, model = loaded
    for _, host in list(hosts_of(model))[:8]:
        x = torch.randn(4, host.weight.shape[-1], device="cuda", requires_grad=True)
        host(x).sum().backward()
        expected = host.weight.dequantize(torch.float32).sum(0).expand_as(x)
        assert closeness(x.grad, expected) > 0.999


@torch.no_grad()
def test_a_layer_compiles_without_a_break(loaded):
    _, model = loaded
    if not model.hf_quantizer.is_compileable:
        pytest.skip("the method says that it cannot be compiled")
    _, host = next(hosts_of(model))
    x = torch.randn(2, host.weight.shape[-1], device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(host, fullgraph=True)
    assert closeness(compiled(x), host(x)) > 0.9999


@torch.no_grad()
def test_a_layer_is_captured_in_a_graph(loaded):
    _, model = loaded
    _, host = next(hosts_of(model))
    x = torch.randn(2, host.weight.shape[-1], device="cuda", dtype=torch.bfloat16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        host(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = host(x)
    x.normal_()
    graph.replay()
    torch.cuda.synchronize()
    assert closeness(captured, host(x)) > 0.9999


@torch.no_grad()
def test_parts_may_be_offloaded_to_the_cpu(loaded, ids, tmp_path):
    _, model = loaded
    quantload.save_model(model, tmp_path / "saved")
    layers = {f"model.layers.{i}": 0 if i < 2 else "cpu" for i in range(4)}
    whole = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), 0)
    split = quantload.load_model(tmp_path / "saved", device_map={**whole, **layers})
    assert {str(place) for place in split.hf_device_map.values()} == {"0", "cpu"}
    assert closeness(split(ids).logits, model(ids).logits) > 0.999


def test_quantizing_on_the_device_is_as_good_as_on_the_cpu(loaded):
    config, model = loaded
    again = quantload.load_model(MODEL, quantization_config=config, device_map="cpu")
    exact = quantload.load_model(MODEL, dtype=torch.float32)
    for name, host in hosts_of(model):
        matrix = exact.get_submodule(name).weight
        errors = [
            (weight.dequantize(torch.float32).cpu() - matrix).norm() / matrix.norm()
            for weight in (host.weight, again.get_submodule(name).weight)
        ]
        assert errors[0] < errors[1] * 1.03 + 1e-6, name

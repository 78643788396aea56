"""Every method through `from_pretrained` on a CUDA device, as the bridge's own tests on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import only_read
from methods import METHODS, logits_of, same
from safetensors.torch import load_file
from torch import Tensor, nn

import quantload
from quantload.modules import QuantizedLinear, hosts_of

transformers = pytest.importorskip("transformers")
AutoModelForCausalLM = transformers.AutoModelForCausalLM

THEIRS: dict[str, Callable[[], Any]] = {
    "nf4": lambda: transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "int8": lambda: transformers.BitsAndBytesConfig(load_in_8bit=True),
    "gptq": lambda: transformers.GPTQConfig(bits=4, group_size=32, sym=True, desc_act=False),
    "awq": lambda: transformers.AwqConfig(bits=4, group_size=32, version="gemm"),
    "aqlm": lambda: transformers.AqlmConfig(num_codebooks=1, nbits_per_codebook=8),
}
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
BF16: dict[str, Any] = {"dtype": torch.bfloat16}
each_method = pytest.mark.parametrize("method", METHODS)
Packed = Callable[[dict[str, Any]], Path]


@pytest.fixture(autouse=True)
def _enabled(_strangers: None) -> Iterator[None]:
    with quantload.enable_transformers():
        yield


@pytest.fixture(scope="module")
def ids(device: str) -> Tensor:
    return (torch.arange(24).reshape(2, 12) * 7 % 320).to(device)


def closeness(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.flatten().float(), b.flatten().float(), 0).item()


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return found


def places(model: Any) -> set[str]:
    return {t.device.type for t in (*model.parameters(), *model.buffers())}


@each_method
def test_a_packed_folder_loads_saves_and_loads_again(
    method: str, packed: Packed, device: str, ids: Tensor, tmp_path: Path
) -> None:
    folder = packed(METHODS[method])
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=device, **BF16)
    direct = quantload.load_model(folder, device_map=device, **BF16)
    assert places(model) == {device}
    assert [(n, h.weight.kernel) for n, h in hosts_of(model)] == [
        (n, h.weight.kernel) for n, h in hosts_of(direct)
    ]
    logits = logits_of(model, ids)
    assert torch.equal(logits, logits_of(direct, ids))
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    reference = quantload.load_model(folder, device_map=device, kernel="reference", **BF16)
    assert closeness(logits, logits_of(reference, ids)) > 0.999

    model.save_pretrained(tmp_path)
    assert same(stored(tmp_path), stored(folder))
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device, **BF16)
    assert torch.equal(logits_of(again, ids), logits)


@each_method
def test_quantizing_on_load_gives_the_model_of_load_model(
    method: str, tiny: Path, device: str, ids: Tensor
) -> None:
    options = {"quantization_config": METHODS[method], "device_map": device}
    model = AutoModelForCausalLM.from_pretrained(tiny, **options)
    direct = quantload.load_model(tiny, **options)
    assert places(model) == {device}
    assert torch.equal(logits_of(model, ids), logits_of(direct, ids))
    assert model.get_memory_footprint() == direct.get_memory_footprint()


@pytest.mark.parametrize("method", THEIRS)
def test_config_classes_of_transformers_quantize_on_load(
    method: str, tiny: Path, packed: Packed, device: str, ids: Tensor, tmp_path: Path
) -> None:
    config = THEIRS[method]()
    model = AutoModelForCausalLM.from_pretrained(
        tiny, quantization_config=config, device_map=device
    )
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)
    # The numbers of weights that were quantized on another device may differ in a last place.
    direct = quantload.load_model(packed(METHODS[method]), device_map=device, **BF16)
    assert closeness(logits_of(model, ids), logits_of(direct, ids)) > 0.999
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device)
    assert torch.equal(logits_of(again, ids), logits_of(model, ids))


PLACES: dict[str, dict[str, Any]] = {
    "auto": {"device_map": "auto"},
    "cpu": {"device_map": "auto", "max_memory": {0: 0.7, "cpu": 9.0}},
    "disk": {"device_map": "auto", "max_memory": {0: 0.7, "cpu": 0.3}},
}
"""Limits in parts of the model's size."""


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("source", ["packed", "float"])
@each_method
def test_device_maps_and_offload(
    method: str,
    source: str,
    where: str,
    packed: Packed,
    tiny: Path,
    device: str,
    ids: Tensor,
    tmp_path: Path,
) -> None:
    folder = packed(METHODS[method])
    whole = quantload.load_model(folder, device_map=device, kernel="reference", **BF16)
    options: dict[str, Any] = {**PLACES[where], **BF16, "offload_folder": tmp_path / "offload"}
    if "max_memory" in options:
        parts = options["max_memory"] if device == "cuda" else {"cpu": 0.7}
        size = whole.get_memory_footprint()
        options["max_memory"] = {place: int(part * size) for place, part in parts.items()}
    if source == "float":
        options["quantization_config"] = METHODS[method]
    model = AutoModelForCausalLM.from_pretrained(folder if source == "packed" else tiny, **options)
    away = [n for n, p in model.named_parameters() if p.is_meta]
    if where == "auto":
        assert not away
        assert places(model) == {device}
    else:
        assert away
        found = {str(place) for place in model.hf_device_map.values()}
        assert {
            where if device == "cuda" else "disk",
            *(["0"] if device == "cuda" else []),
        } <= found
    for _ in range(2):
        assert closeness(logits_of(model, ids), logits_of(whole, ids)) > 0.999
    assert model.generate(ids[:1], **GREEDY).shape == (1, 18)
    if source == "packed":
        model.save_pretrained(tmp_path / "saved")
        assert same(stored(tmp_path / "saved"), stored(folder))


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, "float16"])
def test_the_dtype_is_that_of_what_stays_float(
    method: str, dtype: Any, packed: Packed, device: str, ids: Tensor
) -> None:
    folder = packed(METHODS[method])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device)
    direct = quantload.load_model(folder, dtype=dtype, device_map=device)
    assert model.dtype == direct.dtype == logits_of(model, ids).dtype
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    assert torch.equal(logits_of(model, ids), logits_of(direct, ids))


@each_method
def test_dequantize_gives_the_float_model(
    method: str, packed: Packed, device: str, ids: Tensor, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(packed(METHODS[method]), device_map=device, **BF16)
    logits = logits_of(model, ids)
    floated = model.dequantize()
    assert not floated.is_quantized
    assert type(floated.model.layers[0].mlp.up_proj) is nn.Linear
    assert places(floated) == {device}
    assert closeness(logits_of(floated, ids), logits) > 0.999
    floated.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device)
    assert torch.equal(logits_of(again, ids), logits_of(floated, ids))


@each_method
def test_a_static_cache_changes_no_token(
    method: str, packed: Packed, device: str, ids: Tensor
) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        packed(METHODS[method]), device_map=device, dtype=torch.float32
    )
    plain = model.generate(ids[:1], **GREEDY)
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(ids[:1], **static, **GREEDY), plain)


@each_method
def test_a_decode_step_compiles_whole(
    method: str, packed: Packed, device: str, ids: Tensor
) -> None:
    torch._dynamo.reset()
    model = AutoModelForCausalLM.from_pretrained(
        packed(METHODS[method]), device_map=device, dtype=torch.float32
    )
    assert model.hf_quantizer.is_compileable
    model.model.layers = model.model.layers[:1]  # what holds for one layer does for two
    model.config.num_hidden_layers = 1
    found = []
    compiled = torch.compile(model, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for step in (model, compiled):
            cache = transformers.StaticCache(config=model.config, max_cache_len=20)
            logits = model(ids[:1], past_key_values=cache).logits[:, -1:]
            tokens = []
            for _ in range(4):
                torch.compiler.cudagraph_mark_step_begin()
                logits = step(logits.argmax(-1), past_key_values=cache).logits.clone()
                tokens.append(logits)
            found.append(torch.cat(tokens, dim=1))
    assert closeness(*found) > 0.9999


def test_a_gguf_file_is_loaded_packed_and_runs_in_a_pipeline(
    demo_model: Path, device: str, tmp_path: Path
) -> None:
    config = {"quant_method": "gguf", "type": "Q8_0"}
    quantload.save_model(
        quantload.load_model(demo_model, quantization_config=config), tmp_path / "m.gguf"
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", device_map=device)
    direct = quantload.load_model(tmp_path / "m.gguf", device_map=device)
    assert places(model) == {device}
    assert model.get_memory_footprint() == direct.get_memory_footprint()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    ids = tokenizer("def main():", return_tensors="pt").input_ids.to(device)
    assert torch.equal(logits_of(model, ids), logits_of(direct, ids))
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    (said,) = pipe("def main():", **GREEDY)
    expected = direct.generate(ids, **GREEDY)[0]
    assert said["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_a_file_of_blocks_that_are_only_read(
    kind: str, packed: Packed, device: str, ids: Tensor, tmp_path: Path
) -> None:
    quantload.save_model(quantload.load_model(packed(METHODS["gguf"])), tmp_path / "source.gguf")
    only_read(kind, tmp_path / "source.gguf", tmp_path / "blocks.gguf")
    options = {"gguf_file": "blocks.gguf", "device_map": device, **BF16}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
    direct = quantload.load_model(tmp_path / "blocks.gguf", device_map=device, **BF16)
    assert torch.equal(logits_of(model, ids), logits_of(direct, ids))
    assert torch.equal(model.generate(ids[:1], **GREEDY), direct.generate(ids[:1], **GREEDY))
    floated = model.dequantize()
    assert closeness(logits_of(floated, ids), logits_of(direct, ids)) > 0.999


@pytest.mark.parametrize("method", ["nf4", "int8", "gptq", "awq"])
def test_a_pipeline_loads_a_folder_itself(
    method: str, demo_model: Path, device: str, tmp_path: Path
) -> None:
    config = METHODS[method]
    model = AutoModelForCausalLM.from_pretrained(demo_model, quantization_config=config)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(demo_model).save_pretrained(tmp_path)
    pipe = transformers.pipeline("text-generation", model=str(tmp_path), device_map="auto")
    assert pipe.model.is_quantized
    assert pipe.model.device.type == device
    assert pipe("import ", **GREEDY)[0]["generated_text"].startswith("import ")


@pytest.mark.parametrize("method", ["nf4", "int8", "gptq"])
def test_other_classes_of_models(method: str, device: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    t5 = transformers.T5Config(
        d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=320,
        decoder_start_token_id=0,
    )  # fmt: skip
    bert = transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=320, num_labels=3,
    )  # fmt: skip
    ids = (torch.arange(24).reshape(2, 12) * 7 % 320).to(device)
    for name, made, auto in (
        ("t5", transformers.T5ForConditionalGeneration(t5), "AutoModelForSeq2SeqLM"),
        ("bert", transformers.BertForSequenceClassification(bert), None),
        ("bert", transformers.BertModel(bert), "AutoModel"),
    ):
        made.save_pretrained(tmp_path / name)
        cls = getattr(transformers, auto or "AutoModelForSequenceClassification")
        options = {"quantization_config": METHODS[method], "device_map": device}
        model = cls.from_pretrained(tmp_path / name, **options).eval()
        assert places(model) == {device}
        more = {"decoder_input_ids": ids} if name == "t5" else {}
        with torch.no_grad():
            first = model(ids, **more)[0]
            exact = made.to(device).eval()(ids, **more)[0]
        assert closeness(first, exact) > 0.95

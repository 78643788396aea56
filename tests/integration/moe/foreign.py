"""Whole checkpoints as other programs leave them on the Hub, made from a small float model.

Where the names, dtypes and config fields were seen:

* Mixtral by AutoGPTQ: the listing of tensors in vLLM's first loader for it (`w1.bias` among
  them), and `modules_in_block_to_quantize` as a list of lists from transformers' pull
  request 27956.
* Mixtral by AutoAWQ: vLLM's issue 2243 (`modules_to_not_convert: ["gate"]`).
* Qwen3-MoE by GPTQModel: its issue 1680, whose file has experts that stayed float for want
  of tokens, `dynamic: {"-:.*.mlp.gate.*": {}}`; older releases packed the router as well.
* Qwen2-MoE by AutoGPTQ: `auto_gptq/modeling/qwen2_moe.py`, which leaves both gates float.
* DeepSeek by AutoAWQ: `awq/models/deepseek_v3.py`; with layers left float, as sglang's
  issue 18457 quotes the config.
* bitsandbytes before transformers 5: one layer per matrix, the router with them, as
  unsloth-zoo's pull request 856 describes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import torch
import writers
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Foreign:
    """One program's checkpoint of one class.

    Attributes:
        kind: of the model.
        config: `quantization_config`.
        packed: pattern of a layer's name -> what packs it; the first that matches counts.
        dtype: of what stays float.
        shards: number of files.
        dropped: what the program writes and nobody needs: leaves.
        settings: of the model, beside those of its kind.
    """

    kind: str
    config: dict[str, Any]
    packed: dict[str, writers.Writer | None]
    dtype: torch.dtype = torch.float16
    shards: int = 1
    dropped: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


GPTQ: dict[str, Any] = {
    "bits": 4,
    "group_size": 32,
    "damp_percent": 0.1,
    "desc_act": False,
    "sym": True,
    "true_sequential": True,
    "quant_method": "gptq",
}
GPTQMODEL: dict[str, Any] = {
    "bits": 4,
    "checkpoint_format": "gptq",
    "desc_act": False,
    "group_size": 32,
    "hyb_act": False,
    "lm_head": False,
    "meta": {
        "damp_auto_increment": 0.01,
        "damp_percent": 0.01,
        "mse": 0.0,
        "quantizer": ["gptqmodel:4.0.0-dev"],
        "static_groups": False,
        "true_sequential": True,
        "uri": "https://github.com/modelcloud/gptqmodel",
    },
    "pack_dtype": "int32",
    "quant_method": "gptq",
    "sym": True,
}
AWQ: dict[str, Any] = {
    "bits": 4,
    "group_size": 32,
    "modules_to_not_convert": None,
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}
BNB: dict[str, Any] = {
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}
INT8 = {
    **BNB,
    "_load_in_4bit": False,
    "_load_in_8bit": True,
    "load_in_4bit": False,
    "load_in_8bit": True,
}
_gptq, _awq = writers.gptq, writers.awq
ATTENTION = r".*self_attn\.\w+_proj(_with_mqa)?"
EXPERT = r".*experts?\.\d+\.\w+"
MLP = r".*mlp\.(gate|up|down)_proj"


def _act_order(matrix: Tensor) -> writers.Layer:
    """Every layer in an order of its own."""
    seed = int(matrix.float().abs().sum() * 1e4)
    return writers.gptq(matrix, act_order=seed, symmetric=False, zero_bias=True)


def _eight(matrix: Tensor) -> writers.Layer:
    return writers.gptq(matrix, bits=8)


CHECKPOINTS: dict[str, Foreign] = {
    "Mixtral by AutoGPTQ": Foreign(
        "mixtral",
        {
            **GPTQ,
            "desc_act": True,
            "sym": False,
            "batch_size": 1,
            "block_name_to_quantize": "model.layers",
            "cache_block_outputs": True,
            "dataset": None,
            "exllama_config": {"version": 1},
            "max_input_length": None,
            "model_seqlen": None,
            "module_name_preceding_first_block": ["model.embed_tokens"],
            "modules_in_block_to_quantize": [
                ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"],
                ["self_attn.o_proj"],
                [f"block_sparse_moe.experts.{n}.{w}" for w in ("w1", "w3") for n in range(4)],
                [f"block_sparse_moe.experts.{n}.w2" for n in range(4)],
            ],
            "pad_token_id": None,
            "tokenizer": None,
            "use_cuda_fp16": False,
        },
        {ATTENTION: _act_order, EXPERT: _act_order},
        dropped=("bias",),
    ),
    "Mixtral by AutoAWQ": Foreign(
        "mixtral",
        {**AWQ, "modules_to_not_convert": ["gate"]},
        {ATTENTION: _awq, EXPERT: _awq},
    ),
    "Mixtral by bitsandbytes": Foreign(
        "mixtral",
        BNB,
        {r"(?!lm_head).*(gate|_proj|w\d)": writers.nf4},
        torch.bfloat16,
    ),
    "Mixtral by bitsandbytes in 8 bits": Foreign(
        "mixtral", INT8, {r"(?!lm_head).*(gate|_proj|w\d)": writers.int8}
    ),
    "Qwen3-MoE by GPTQModel": Foreign(
        "qwen3-moe",
        {**GPTQMODEL, "dynamic": {"-:.*.mlp.gate.*": {}}},
        {r".*layers\.1\.mlp\.experts\.2\.": None, ATTENTION: _gptq, EXPERT: _gptq},
        torch.bfloat16,
        shards=3,
    ),
    "Qwen3-MoE by an older GPTQModel": Foreign(
        "qwen3-moe",
        GPTQMODEL,
        {ATTENTION: _gptq, EXPERT: _gptq, r".*mlp\.gate": _gptq},
        settings={"num_experts": 8},
    ),
    "Qwen3-MoE with two widths": Foreign(
        "qwen3-moe",
        {
            **GPTQMODEL,
            "dynamic": {
                r"+:.*\.down_proj": {"bits": 8},
                r"+:.*\.experts\.3\.": {"bits": 8, "sym": True},
                "-:.*.mlp.gate.*": {},
            },
        },
        {
            r".*down_proj": _eight,
            r".*experts\.3\.": _eight,
            ATTENTION: _gptq,
            EXPERT: _gptq,
        },
    ),
    "Qwen3-MoE by AutoAWQ": Foreign("qwen3-moe", AWQ, {ATTENTION: _awq, EXPERT: _awq}),
    "Qwen2-MoE by AutoGPTQ": Foreign(
        "qwen2-moe",
        {**GPTQ, "model_file_base_name": "model", "model_name_or_path": None},
        {ATTENTION: _gptq, EXPERT: _gptq, r".*shared_expert\.\w+": _gptq},
    ),
    "OLMoE by GPTQModel": Foreign("olmoe", GPTQMODEL, {ATTENTION: _gptq, EXPERT: _gptq}),
    "DeepSeek by GPTQModel": Foreign(
        "deepseek-v3",
        GPTQMODEL,
        {
            ATTENTION: _gptq,
            EXPERT: _gptq,
            r".*shared_experts\.\w+": _gptq,
            MLP: _gptq,
        },
        torch.bfloat16,
    ),
    "DeepSeek by AutoAWQ with a float layer": Foreign(
        "deepseek-v3",
        {**AWQ, "modules_to_not_convert": ["mlp.gate.", "indexer", "model.layers.0."]},
        {
            r"model\.layers\.0\.": None,
            ATTENTION: _awq,
            EXPERT: _awq,
            r".*shared_experts\.\w+": _awq,
        },
    ),
    "Qwen3-MoE by bitsandbytes": Foreign(
        "qwen3-moe",
        {**BNB, "llm_int8_skip_modules": ["lm_head", "model.layers.1.self_attn.o_proj"]},
        {r"lm_head|.*layers\.1\.self_attn\.o_proj": None, r".*(_proj|mlp\.gate)": writers.nf4},
        torch.bfloat16,
    ),
}


def write(name: str, folder: Path) -> Any:
    """Write a checkpoint of that name into a folder.

    Returns:
        The float32 model that it stands for.
    """
    foreign = CHECKPOINTS[name]
    model = models.original(foreign.kind, **foreign.settings)
    model.to(foreign.dtype).save_pretrained(folder)
    files, exact = {}, {}
    for key, stored in models.tensors(folder).items():
        tensor = stored.float() if key.endswith("e_score_correction_bias") else stored
        layer = key.removesuffix(".weight")
        writer = next((w for p, w in foreign.packed.items() if re.match(p, layer)), None)
        if writer is None or layer == key or tensor.ndim != 2:
            files[key], exact[key] = tensor, tensor.float()
            continue
        packed, exact[key] = writer(tensor)
        files |= {f"{layer}.{leaf}": own.contiguous() for leaf, own in packed.items()}
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    _save(files, folder, foreign.shards)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = foreign.config
    (folder / "config.json").write_text(json.dumps(config))
    return _standing_for(model, exact)


def _save(files: dict[str, Tensor], folder: Path, shards: int) -> None:
    if shards == 1:
        save_file(files, folder / "model.safetensors", {"format": "pt"})
        return
    placed = {}
    for number in range(shards):
        own = dict(list(files.items())[number::shards])
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(own, folder / name, {"format": "pt"})
        placed.update(dict.fromkeys(own, name))
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _standing_for(model: Any, exact: dict[str, Tensor]) -> Any:
    """The class's own float model of what the packed layers stand for."""
    cls, options = type(model), {"dtype": torch.float32}
    return cls.from_pretrained(None, config=model.config, state_dict=exact, **options).eval()

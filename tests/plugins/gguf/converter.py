"""A small converter from `transformers` models to GGUF, as llama.cpp's does it.

It is independent of the plugin: names are those of `gguf.get_tensor_name_map`, and what
is done to tensors and settings follows `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter

FIVE = (".weight", ".bias")


def rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head interleaved, as Llama files have them."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def common(w: GGUFWriter, c: Any) -> None:
    """The settings of most decoders."""
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    if getattr(c, "rms_norm_eps", None) is not None:
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
    for name in ("layer_norm_eps", "norm_epsilon", "layer_norm_epsilon"):
        if getattr(c, name, None) is not None:
            w.add_layer_norm_eps(getattr(c, name))
    if c.__dict__.get("head_dim") is not None:
        w.add_key_length(c.head_dim)
        w.add_value_length(c.head_dim)
    rope = getattr(c, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        w.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if rope.get("attention_factor") is not None:
            w.add_float32(f"{w.arch}.rope.scaling.yarn_attn_factor", rope["attention_factor"])
    experts = getattr(c, "num_local_experts", None) or getattr(c, "num_experts", None)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(c.num_experts_per_tok)
    if getattr(c, "moe_intermediate_size", None):
        w.add_expert_feed_forward_length(c.moe_intermediate_size)


def llama3_factors(rope: dict[str, Any], width: int) -> torch.Tensor:
    """The factors of Llama 3, as the converter writes them."""
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    found = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / width)
        if wavelength < high:
            found.append(1.0)
        elif wavelength > low:
            found.append(rope["factor"])
        else:
            smooth = rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]
            smooth /= rope["high_freq_factor"] - rope["low_freq_factor"]
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(found)


def settings(w: GGUFWriter, arch: str, c: Any) -> None:
    """What the converter writes for an architecture."""
    if arch == "falcon":
        w.add_context_length(2048)
        w.add_embedding_length(c.hidden_size)
        w.add_feed_forward_length(4 * c.hidden_size)
        w.add_block_count(c.num_hidden_layers)
        w.add_head_count(c.num_attention_heads)
        w.add_head_count_kv(c.num_kv_heads if c.new_decoder_architecture else 1)
        w.add_layer_norm_eps(c.layer_norm_epsilon)
        return
    if arch == "gpt2":
        w.add_block_count(c.n_layer)
        w.add_context_length(c.n_positions)
        w.add_embedding_length(c.n_embd)
        w.add_feed_forward_length(4 * c.n_embd)
        w.add_head_count(c.n_head)
        w.add_layer_norm_eps(c.layer_norm_epsilon)
        return
    if arch == "bert":
        c.num_key_value_heads = c.num_attention_heads
        if c.model_type == "distilbert":
            c.intermediate_size = c.hidden_dim
            w.add_layer_norm_eps(1e-12)
        common(w, c)
        w.add_causal_attention(False)
        w.add_token_type_count(getattr(c, "type_vocab_size", 1))
        return
    common(w, c)
    width = c.hidden_size // c.num_attention_heads
    if arch == "llama":
        w.add_vocab_size(c.vocab_size)
        w.add_rope_dimension_count(getattr(c, "head_dim", None) or width)
    if arch in ("phi3", "stablelm"):
        share = c.rope_parameters.get("partial_rotary_factor", 1.0)
        w.add_rope_dimension_count(int(share * width))
    if arch == "phi3":
        w.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
        w.add_sliding_window(c.sliding_window or 0)
        scale = c.max_position_embeddings / c.original_max_position_embeddings
        if c.rope_parameters.get("long_factor"):
            attention = math.sqrt(
                1 + math.log(scale) / math.log(c.original_max_position_embeddings)
            )
            w.add_rope_scaling_attn_factors(attention)
    if arch == "qwen2moe":
        w.add_expert_shared_feed_forward_length(c.shared_expert_intermediate_size)
    if arch in ("gemma2", "gemma3"):
        w.add_sliding_window(c.sliding_window)
        if c.attn_logit_softcapping:
            w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        if c.final_logit_softcapping:
            w.add_final_logit_softcapping(c.final_logit_softcapping)
    if arch == "command-r":
        w.add_logit_scale(c.logit_scale)
        w.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def tensors(arch: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name in the file -> tensor, changed as the converter changes them."""
    c = model.config
    known = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch]
    names = gguf.get_tensor_name_map(known, c.num_hidden_layers)
    found: dict[str, torch.Tensor] = {}

    def put(name: str, tensor: torch.Tensor) -> None:
        mapped = names.get_name(name, try_suffixes=FIVE)
        assert mapped is not None, name
        found[mapped] = tensor

    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    for name, value in model.state_dict().items():
        if name in tied or "pooler" in name or name.endswith(("position_ids", "token_type_ids")):
            continue
        tensor = value.detach().float()
        if arch == "llama" and name.endswith(("q_proj.weight", "q_proj.bias")):
            tensor = rotary(tensor, c.num_attention_heads)
        if arch == "llama" and name.endswith(("k_proj.weight", "k_proj.bias")):
            tensor = rotary(tensor, c.num_key_value_heads)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            tensor = tensor + 1
        if arch == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            tensor = tensor.T.contiguous()
        if arch == "falcon" and "query_key_value" in name:
            groups = c.num_kv_heads if c.new_decoder_architecture else 1
            each = c.num_attention_heads // groups
            split = tensor.view(groups, each + 2, -1, *tensor.shape[1:])
            parts = (split[:, :-2], split[:, -2:-1], split[:, -1:])
            tensor = torch.cat([p.reshape(-1, *tensor.shape[1:]) for p in parts])
        if name.endswith("shared_expert_gate.weight"):
            tensor = tensor[0]
        if ".norms." in name:  # StableLM's norms per head
            base, _, rest = name.partition(".norms.")
            stack = found.setdefault(names.get_name(f"{base}.weight", try_suffixes=FIVE), [])
            assert len(stack) == int(rest.partition(".")[0])
            stack.append(tensor)
        elif name.endswith("experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            half = tensor.shape[1] // 2
            put(f"{base}gate_proj.weight", tensor[:, :half].contiguous())
            put(f"{base}up_proj.weight", tensor[:, half:].contiguous())
        elif name.endswith("experts.down_proj"):
            put(f"{name}.weight", tensor)
        else:
            put(name, tensor)
    rope = getattr(c, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        found["rope_freqs.weight"] = llama3_factors(rope, width)
    if rope.get("rope_type") == "longrope":
        found["rope_factors_long.weight"] = torch.tensor(rope["long_factor"])
        found["rope_factors_short.weight"] = torch.tensor(rope["short_factor"])
    return {k: torch.stack(v) if isinstance(v, list) else v for k, v in found.items()}


def convert(
    model: torch.nn.Module,
    arch: str,
    path: Path,
    kind: str = "F32",
    fill: Any = None,
    **options: Any,
) -> Path:
    """Write a model as a GGUF file.

    Args:
        model: a model of `transformers`.
        arch: `general.architecture`.
        path: of the file.
        kind: type of the matrices; the rest is float32.
        fill: called with the writer, for more metadata.
        **options: of the writer.
    """
    writer = GGUFWriter(path, arch, **options)
    settings(writer, arch, model.config)
    if fill is not None:
        fill(writer)
    wanted = GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    for name, tensor in tensors(arch, model).items():
        array = tensor.numpy()
        if (
            array.ndim < 2
            or array.shape[-1] % block
            or "norm" in name
            or name.endswith("_inp.weight")
        ):
            writer.add_tensor(name, np.ascontiguousarray(array))
        elif kind == "F16":
            writer.add_tensor(name, array.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

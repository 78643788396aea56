"""Small models of every architecture whose files are read, with random weights."""

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType

VOCABULARY = 96
BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FALCON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "long_factor": [1.5, 2.0, 2.0, 3.0, 4.0, 5.0],
    "short_factor": [1.0, 1.0, 1.0, 1.1, 1.2, 1.3],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "llama": ("LlamaForCausalLM", BASE),
    "llama, biases, tied": (
        "LlamaForCausalLM",
        {**BASE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama, wide heads, rope of Llama 3": (
        "LlamaForCausalLM",
        {**BASE, "head_dim": 32, "rope_parameters": LLAMA3},
    ),
    "llama, linear rope": (
        "LlamaForCausalLM",
        {**BASE, "rope_parameters": {"rope_type": "linear", "rope_theta": 2e4, "factor": 4.0}},
    ),
    "llama, yarn": ("LlamaForCausalLM", {**BASE, "rope_parameters": {**YARN, "rope_theta": 2e4}}),
    "llama, yarn with a factor of its own": (
        "LlamaForCausalLM",
        {**BASE, "rope_parameters": {**YARN, "rope_theta": 2e4, "attention_factor": 0.7}},
    ),
    "llama from Mistral": ("MistralForCausalLM", {**BASE, "sliding_window": None}),
    "llama from Mixtral": (
        "MixtralForCausalLM",
        {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2": ("Qwen2ForCausalLM", BASE),
    "qwen3": ("Qwen3ForCausalLM", {**BASE, "head_dim": 32}),
    "qwen2moe": (
        "Qwen2MoeForCausalLM",
        {**BASE, **EXPERTS, "shared_expert_intermediate_size": 64, "norm_topk_prob": False},
    ),
    "qwen3moe": (
        "Qwen3MoeForCausalLM",
        {**BASE, **EXPERTS, "head_dim": 32, "norm_topk_prob": True},
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**BASE, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **BASE,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "num_hidden_layers": 7,
        },
    ),
    "phi3": ("Phi3ForCausalLM", {**BASE, "original_max_position_embeddings": 256}),
    "phi3, longrope": (
        "Phi3ForCausalLM",
        {**BASE, "original_max_position_embeddings": 128, "rope_parameters": LONG},
    ),
    "falcon, one key head": ("FalconForCausalLM", {**FALCON, "multi_query": True}),
    "falcon, two norms": (
        "FalconForCausalLM",
        {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "falcon, one norm": (
        "FalconForCausalLM",
        {
            **FALCON,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 128},
    ),
    "gpt2, narrow": (
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_inner": 96},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", BASE),
    "stablelm": ("StableLmForCausalLM", {**BASE, "use_qkv_bias": True}),
    "stablelm, norms of heads": (
        "StableLmForCausalLM",
        {**BASE, "qk_layernorm": True, "use_parallel_residual": True},
    ),
    "command-r": ("CohereForCausalLM", BASE),
    "command-r, norms of heads": ("CohereForCausalLM", {**BASE, "use_qk_norm": True}),
    "bert": ("BertModel", {k: v for k, v in BASE.items() if k != "num_key_value_heads"}),
    "bert, distilled": (
        "DistilBertModel",
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "vocab_size": VOCABULARY},
    ),
}


def arch_of(case: str) -> str:
    return case.partition(",")[0].partition(" from ")[0]


def original(case: str) -> torch.nn.Module:
    """A small model with random weights, norms and biases among them."""
    name, settings = CASES[case]
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**settings)).eval()
    zero_centred = "gemma" in model.config.model_type
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            norm = "norm" in key.lower() or ".ln_" in key
            mean = 1.0 if norm and key.endswith("weight") and not zero_centred else 0.0
            parameter.normal_(mean, 0.2 if norm else 0.08)
    return model


def outputs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(ids)
    return (found.logits if hasattr(found, "logits") else found.last_hidden_state).float()


def rounded(model: torch.nn.Module, arch: str, kind: str) -> torch.nn.Module:
    """The model with the numbers that a file of this type holds."""
    block = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            value = parameter.detach().float().numpy()
            turned = arch == "gpt2" and key.endswith(
                ("c_attn.weight", "c_proj.weight", "c_fc.weight")
            )
            value = np.ascontiguousarray(value.T) if turned else value
            router = key.endswith(("mlp.gate.weight", "shared_expert_gate.weight"))
            if value.ndim < 2 or value.shape[-1] % block or "norm" in key or router:
                continue
            quant = GGMLQuantizationType[kind]
            value = gguf.quants.dequantize(gguf.quants.quantize(value, quant), quant)
            parameter.copy_(torch.from_numpy(value.T.copy() if turned else value))
    return model


def ids(length: int = 40) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(7))

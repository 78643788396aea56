"""`config.json` and `generation_config.json` of a model, from its metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from quantload_gguf.architectures import architecture_of
from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.table import OMIT, Setting
from quantload_gguf.reader import GgufFile

_TOKENS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
COMPUTE_DTYPE = "quantload.dtype"
"""The dtype that a model computed in that was written here."""
SAMPLING = {
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "temperature": "general.sampling.temp",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""Key of the generation config -> key of the metadata."""
TURNS = frozenset({"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"})
"""Tokens that end a turn of a chat, as llama.cpp knows them."""
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def config_of(file: GgufFile) -> dict[str, Any]:
    """The config of the model in a file.

    Raises:
        UnsupportedOperationError: the architecture is not covered.
        CheckpointError: a setting is absent.
    """
    architecture, facts = architecture_of(file), Facts(file)
    _ = facts.blocks, facts.heads, facts.kv_heads  # wrong ones would make endless lists
    found: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [architecture.model_class],
        "dtype": compute_dtype(file),
    }
    for key, setting in architecture.config.items():
        value = setting.read(facts) if isinstance(setting, Setting) else setting
        if value is not OMIT:
            found[key] = value
    # A default of the class would name tokens of another vocabulary.
    found.update({key: facts.token(name) for key, name in _TOKENS.items()})
    return found


def compute_dtype(file: GgufFile) -> str:
    """The dtype to compute in: that of most numbers, bfloat16 where those are packed.

    Files written here say it. Nearly every model was bfloat16 before it was quantized,
    and it is finer than what quantizing left.
    """
    said = file.metadata.get(COMPUTE_DTYPE)
    if said in _DTYPES.values():
        return str(said)
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.dtype if not tensor.ggml_type.packed else "packed"] += tensor.numel
    return _DTYPES.get(sizes.most_common(1)[0][0] if sizes else "F32", "bfloat16")


def types_config(packed: Mapping[str, str]) -> dict[str, Any]:
    """The quantization config that says the ggml type of every module.

    Args:
        packed: module -> type.
    """
    most = Counter(packed.values()).most_common(1)[0][0]
    others = {name: kind for name, kind in packed.items() if kind != most}
    return {"quant_method": "gguf", "type": most, "types": others}


def _ends_of_turns(file: GgufFile) -> list[int]:
    """The tokens that end a turn by what they say; files seldom number more than one."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(kinds, list) or len(tokens) != len(kinds):
        return []
    size = Facts(file).vocabulary
    pairs = zip(tokens[:size], kinds, strict=False)
    return [i for i, (token, kind) in enumerate(pairs) if kind in (3, 4) and token in TURNS]


def generation_config(file: GgufFile) -> dict[str, Any]:
    """What generation needs to know: where a text begins and ends."""
    facts = Facts(file)
    found: dict[str, Any] = {}
    for key, name in _TOKENS.items():
        token = facts.token(name)
        if token is not None:
            found[key] = token
    turns = [facts.token(name) for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(token for token in turns if token is not None))
    if ends and "tokenizer.chat_template" in file.metadata:
        ends += [token for token in _ends_of_turns(file) if token not in ends]
    if len(ends) > 1:
        found["eos_token_id"] = ends
    sampling = {name: facts.other(key) for name, key in SAMPLING.items()}
    found.update({name: value for name, value in sampling.items() if value is not None})
    if found.get("temperature"):
        found["do_sample"] = True
    return found

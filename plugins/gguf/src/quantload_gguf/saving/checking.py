"""What was written is read again before it counts: it has to describe the same model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantload.errors import UnsupportedOperationError
from quantload_gguf.architectures import ARCHITECTURES
from quantload_gguf.architectures.common import FREQUENCIES
from quantload_gguf.model import GgufModel
from quantload_gguf.saving.tensors import Part

# Settings without effect on what a model computes, or that the tokenizer's part says.
_OF_NO_EFFECT = frozenset(
    {
        *("_name_or_path", "transformers_version", "architectures", "model_type", "auto_map"),
        *("dtype", "torch_dtype", "quantization_config", "use_cache", "initializer_range"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class", "id2label"),
        *("label2id", "problem_type", "return_dict", "output_hidden_states", "prefix"),
        *("output_attentions", "output_router_logits", "router_aux_loss_coef"),
        *("router_jitter_noise", "pretraining_tp", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "max_window_layers"),
        *("task_specific_params", "finetuning_task", "gradient_checkpointing"),
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_logits"),
    }
)


def check_config(path: Path, model: Any, name: str) -> None:
    """The config that a written file gives is that of the model.

    Args:
        path: the written file.
        model: of `transformers`.
        name: its architecture.

    Raises:
        UnsupportedOperationError: a setting is lost; it is named.
    """
    with GgufModel.open(path) as opened:
        again = type(model.config)(**opened.config()).to_dict()
    known = ARCHITECTURES[name].config
    lost = []
    for key, value in model.config.to_dict().items():
        if key in _OF_NO_EFFECT or "dropout" in key or key.endswith("pdrop"):
            continue
        found = again.get(key)
        if key == "rope_parameters" and isinstance(value, dict) and isinstance(found, dict):
            found = _spoken_of(value, found)
        if _alike(value, found) or (value is None and key in known) or _unused(key, model.config):
            continue
        lost.append(f"{key} is {value!r}, read from the file it would be {found!r}")
    if lost:
        raise UnsupportedOperationError(
            f"a .gguf file cannot say of a {type(model).__name__} that {'; '.join(lost)}"
        )


def check_tensors(path: Path, parts: Mapping[str, Part]) -> None:
    """The tensors that a written file gives are those of the model.

    Raises:
        UnsupportedOperationError: one is lost, or there is one more.
    """
    with GgufModel.open(path) as opened:
        assert isinstance(opened, GgufModel)
        found = {tensor.name: tensor.shape for tensor in opened.tensors.values()}
        read = {name for tensor in opened.tensors.values() for name in tensor.sources}
        unread = set(opened.file.tensors) - read - set(FREQUENCIES)
    wrong = [n for n, shape in found.items() if n not in parts or not _fits(shape, parts[n])]
    wrong += sorted(unread)
    if wrong:
        raise UnsupportedOperationError(
            f"the model cannot be written as a .gguf file: {', '.join(wrong[:5])} would not be "
            f"read again as it is"
        )


def _fits(shape: tuple[int, ...], part: Part) -> bool:
    return shape == part.shape or tuple(reversed(shape)) == part.shape


def _unused(key: str, config: Any) -> bool:
    """Settings that only count together with another one."""
    if key == "num_kv_heads":  # Falcon
        return bool(config.multi_query and not config.new_decoder_architecture)
    if key == "sliding_window":
        return getattr(config, "use_sliding_window", True) is False
    if key == "num_ln_in_parallel_attn":
        return not config.new_decoder_architecture
    if key == "multi_query":
        return bool(config.new_decoder_architecture)
    return key == "norm_topk_prob" and config.num_experts_per_tok == 1


def _spoken_of(value: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What a config leaves to be worked out, a file says; the rest has to be the same."""
    return {
        key: _spoken_of(value[key], item) if isinstance(item, dict) else item
        for key, item in found.items()
        if key in value
    }


def _alike(a: Any, b: Any) -> bool:
    """Equal but for what float32 leaves of a number."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(_alike(a.get(key), b.get(key)) for key in {*a, *b})
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=2e-6)
    return bool(a == b)

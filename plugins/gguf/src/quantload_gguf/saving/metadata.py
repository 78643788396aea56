"""The metadata of a model: what its config says, in the words of the format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from quantload.errors import UnsupportedOperationError
from quantload_gguf.architectures import ARCHITECTURES, WRITTEN_AS
from quantload_gguf.architectures.keys import Keys
from quantload_gguf.architectures.settings import COMPUTE_DTYPE, SAMPLING
from quantload_gguf.architectures.table import Setting
from quantload_gguf.container import Field, ValueType
from quantload_gguf.container.writing import Planned

# What llama.cpp, and so all programs that build on it, reads these as.
_STORED_AS = {"mistral": "llama", "mixtral": "llama", "distilbert": "bert"}
_NO_FILE_TYPE = ("general.file_type", "split.no", "split.count", "split.tensors.count")


def architecture_for(model: Any) -> str:
    """The name under which the architecture of a model is described.

    Raises:
        UnsupportedOperationError: it is not covered, or the class is not the one that
            files of it hold.
    """
    config, name = model.config, type(model).__name__
    for key, architecture in ARCHITECTURES.items():
        if architecture.model_type == config.model_type and architecture.model_class == name:
            return key
    covered = sorted({a.model_class for a in ARCHITECTURES.values()})
    raise UnsupportedOperationError(
        f"a {name} cannot be written as a .gguf file; those that can are {', '.join(covered)}"
    )


def fields_of(model: Any, name: str) -> tuple[dict[str, Field], dict[str, list[float]]]:
    """The fields that a model's config gives, and the rotary factors that become tensors.

    Args:
        model: of `transformers`.
        name: from `architecture_for`.
    """
    config, architecture = model.config, ARCHITECTURES[name]
    keys = Keys(_STORED_AS.get(name, name))
    keys.text("general.type", "model")
    title = str(getattr(config, "_name_or_path", "") or "").rstrip("/").rpartition("/")[2]
    keys.text("general.name", title.removesuffix(".gguf") or architecture.model_class)
    if name == "mistral":
        keys.text(WRITTEN_AS, name)
    for key, setting in architecture.config.items():
        if isinstance(setting, Setting) and setting.write is not None:
            setting.write(getattr(config, key, None), config, keys)
    generation = getattr(model, "generation_config", None)
    if getattr(generation, "do_sample", False):
        for key, full in SAMPLING.items():
            value = getattr(generation, key, None)
            if value is not None:
                whole = Field(int(value), ValueType.INT32)  # as the gguf package writes it
                keys.fields[full] = (
                    whole if key == "top_k" else Field(float(value), ValueType.FLOAT32)
                )
    for key, value in architecture.constants.items():
        keys.put(key if key.startswith("tokenizer.") else f"{keys.architecture}.{key}", value)
    return keys.fields, keys.factors


def merged(made: Mapping[str, Field], origin: Mapping[str, Field]) -> dict[str, Field]:
    """The fields of the file a model came from, brought up to what the model is now.

    Args:
        made: what the config gives.
        origin: the fields of the file.
    """
    found = {k: f for k, f in origin.items() if k not in _NO_FILE_TYPE}
    for key, field in made.items():
        old = found.get(key)
        kept = old is not None and (key.startswith("general.") or _same(old, field))
        if not kept:
            found[key] = field
    return found


def _same(old: Field, new: Field) -> bool:
    """Whether a field says the same in other words: a list of equal numbers, another width."""
    value = old.value
    if isinstance(value, list) and not isinstance(new.value, list) and value:
        return all(item == new.value for item in value)
    return bool(value == new.value)


def types_of(tensors: Iterable[Planned], dtype: str) -> dict[str, Field]:
    """What is said of the types: that of most numbers, and the dtype to compute in.

    Args:
        tensors: of the file.
        dtype: that the model computes in.
    """
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    sizes: Counter[str] = Counter()
    lot = list(tensors)
    packed = [tensor for tensor in lot if tensor.kind.packed]
    for tensor in packed or lot:
        sizes[tensor.kind.name] += tensor.nbytes
    most = sizes.most_common(1)[0][0] if sizes else "F32"
    found = {
        "general.quantization_version": Field(GGML_QUANT_VERSION, ValueType.UINT32),
        COMPUTE_DTYPE: Field(dtype, ValueType.STRING),
    }
    names = {"F32": "ALL_F32", "Q4_K": "MOSTLY_Q4_K_M", "Q5_K": "MOSTLY_Q5_K_M"}
    number = getattr(LlamaFileType, names.get(most, f"MOSTLY_{most}"), None)
    if number is not None:
        found["general.file_type"] = Field(int(number), ValueType.UINT32)
    return found


def padded_vocabulary(fields: dict[str, Field], rows: int) -> None:
    """Names for rows of the embedding that no token has, as converters give them."""
    tokens = fields.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    for name in ("tokens", "token_type", "scores"):
        lot = fields.get(f"tokenizer.ggml.{name}")
        if lot is not None:
            del lot.value[rows:]
    spare = range(len(tokens.value), rows)
    tokens.value.extend(f"[PAD{i}]" for i in spare)
    for name, value in (("token_type", 5), ("scores", -10000.0)):
        lot = fields.get(f"tokenizer.ggml.{name}")
        if lot is not None:
            lot.value.extend([value] * len(spare))

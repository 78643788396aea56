"""The architectures whose files become models of `transformers`, as data."""

from __future__ import annotations

from collections.abc import Mapping

from quantload.errors import UnsupportedOperationError
from quantload_gguf.architectures import encoders, gemma, llama, others, qwen
from quantload_gguf.architectures.facts import Facts
from quantload_gguf.architectures.table import Architecture
from quantload_gguf.reader import GgufFile

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": llama.LLAMA,
    "mistral": llama.MISTRAL,
    "mixtral": llama.MIXTRAL,
    "qwen2": qwen.QWEN2,
    "qwen2moe": qwen.QWEN2MOE,
    "qwen3": qwen.QWEN3,
    "qwen3moe": qwen.QWEN3MOE,
    "gemma2": gemma.GEMMA2,
    "gemma3": gemma.GEMMA3,
    "phi3": others.PHI3,
    "falcon": others.FALCON,
    "gpt2": others.GPT2,
    "starcoder2": others.STARCODER2,
    "stablelm": others.STABLELM,
    "command-r": others.COMMAND_R,
    "bert": encoders.BERT,
    "distilbert": encoders.DISTILBERT,
}
"""`general.architecture` -> its description."""

WRITTEN_AS = "quantload.architecture"
"""What a model is whose file says Llama, for that is how all programs read it."""

_NO_MODELS = {
    "clip": "the vision or audio part of a model (an mmproj file)",
    "mmproj": "the vision or audio part of a model (an mmproj file)",
    "adapter": "a LoRA adapter",
    "imatrix": "an importance matrix",
}


def architecture_of(file: GgufFile) -> Architecture:
    """The description of the model in a file.

    Raises:
        UnsupportedOperationError: the architecture is not covered, or the file holds
            no model; its tensors can still be read one by one.
        CheckpointError: the file names no architecture.
    """
    # An importance matrix names no architecture.
    words = [str(file.metadata.get(k)) for k in ("general.type", "general.architecture")]
    what = next((_NO_MODELS[word] for word in words if word in _NO_MODELS), None)
    if what is not None:
        raise UnsupportedOperationError(f"{file.path}: it holds {what}, not a model")
    name = file.architecture
    found = ARCHITECTURES.get(name)
    if found is None:
        raise UnsupportedOperationError(
            f"{file.path}: the architecture {name!r} is not covered; those that are: "
            f"{', '.join(sorted(ARCHITECTURES))}. Its tensors can be read one by one with "
            f"quantload_gguf.open_gguf()"
        )
    if name == "bert":
        return encoders.stored_as_bert(Facts(file))
    if name == "llama":
        facts = Facts(file)
        if facts.whole("expert_count", 0):
            return ARCHITECTURES["mixtral"]
        said = file.metadata.get(WRITTEN_AS) == "mistral"
        if said or facts.whole("attention.sliding_window", 0):
            return ARCHITECTURES["mistral"]
    return found


__all__ = ["ARCHITECTURES", "WRITTEN_AS", "Architecture", "Facts", "architecture_of"]

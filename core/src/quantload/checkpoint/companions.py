"""The files that belong to a model beside its tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from quantload.checkpoint.paths import inside

COMPANIONS = (
    # what the model is
    "config.json",
    "generation_config.json",
    # how it was quantized, in files of their own
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    # tokenizers
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "normalizer.json",
    "spiece.model",
    "sentencepiece*.model",
    "spm.model",
    "source.spm",
    "target.spm",
    "*.tiktoken",
    "tekken.json",
    # chat templates
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "chat_templates/*.jinja",
    # processors
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    # sentence-transformers
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/config.json",
)
"""Names and patterns, relative to the checkpoint's folder."""

CODE = ("*.py",)
"""What `trust_remote_code` asks for in addition."""


def companion_names(names: Iterable[str], *, code: bool = False) -> list[str]:
    """Those of `names` (relative, with forward slashes) that are companions, sorted.

    Args:
        names: files of a folder or repository.
        code: Python files too.
    """
    patterns = [pattern.split("/") for pattern in (*COMPANIONS, *(CODE if code else ()))]
    return sorted(
        name
        for name in names
        if any(
            len(parts) == name.count("/") + 1 and all(map(fnmatchcase, name.split("/"), parts))
            for parts in patterns
        )
    )


def companion_files(folder: str | os.PathLike[str], *, code: bool = False) -> dict[str, Path]:
    """The companion files of a checkpoint folder: relative name -> where it is.

    It is what `save_checkpoint` takes as `companions`.

    Args:
        folder: the checkpoint's folder.
        code: Python files too; only where the caller trusts them.

    Raises:
        CheckpointError: one is a link that leaves the folder.
    """
    root = Path(folder)
    names: list[str] = []
    subfolders = [pattern.split("/")[0] for pattern in COMPANIONS if "/" in pattern]
    for entry in root.iterdir() if root.is_dir() else ():
        if entry.is_dir():
            if not any(fnmatchcase(entry.name, pattern) for pattern in subfolders):
                continue
            names.extend(f"{entry.name}/{file.name}" for file in entry.iterdir())
        else:
            names.append(entry.name)
    return {name: inside(root, name) for name in companion_names(names, code=code)}

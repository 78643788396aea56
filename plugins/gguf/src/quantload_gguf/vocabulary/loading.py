"""`load_tokenizer`: a tokenizer of `transformers` from a GGUF file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from quantload.checkpoint import open_checkpoint, resolve_source
from quantload.errors import CheckpointError, MissingRequirementError, QuantloadError
from quantload.registry.requirements import check_requirement
from quantload_gguf.reader import GgufFile
from quantload_gguf.vocabulary.building import build
from quantload_gguf.vocabulary.splitting import splitting_of
from quantload_gguf.vocabulary.tokens import TokenType, Vocabulary

_ROLES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # the format's own spelling
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
_KINDS = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False, TokenType.UNKNOWN: True}
"""Kinds of tokens that are found in the text before anything else -> special or not."""


class Described(Protocol):
    """What a tokenizer is made from: an open file, or the metadata of one.

    Attributes:
        path: the file, for messages.
    """

    path: Path

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key -> value."""


def load_tokenizer(source: str | os.PathLike[str] | Described) -> Any:
    """The tokenizer of a model, with its special tokens and chat template.

    Args:
        source: a file; a folder or repository on the hub with one, or with a tag
            ("owner/model:Q4_K_M") for one of several; or an open one (which stays open).

    Returns:
        A `transformers.PreTrainedTokenizerFast`.

    Raises:
        MissingRequirementError: `transformers` is absent.
        CheckpointError: the file holds no tokenizer, or not a whole one.
        UnsupportedOperationError: a kind of tokenizer that is not known.
    """
    verdict = check_requirement("transformers>=5")
    if not verdict:
        raise MissingRequirementError(
            f"load_tokenizer makes tokenizers of transformers: {verdict.reason}; try: {verdict.fix}"
        )
    if not isinstance(source, (str, os.PathLike)):
        return _load(source)
    if Path(source).expanduser().is_file():
        with GgufFile.open(Path(source).expanduser()) as file:
            return _load(file)
    with open_checkpoint(resolve_source(source)) as opened:
        model = getattr(opened, "file", opened)
        if not isinstance(model, GgufFile):
            raise CheckpointError(
                f"{opened.path}: expected a .gguf file, found other weights; their tokenizer is "
                f"loaded by transformers.AutoTokenizer.from_pretrained"
            )
        return _load(model)


def tokenizer_files(file: Described, folder: Path | None = None) -> Path:
    """Write the tokenizer as the files a checkpoint folder has.

    Args:
        file: the open file.
        folder: where; a new temporary folder where None, which is the caller's.

    Returns:
        The folder.

    Raises:
        CheckpointError, UnsupportedOperationError: see `load_tokenizer`.
    """
    tokenizer = load_tokenizer(file)
    target = folder or Path(tempfile.mkdtemp(prefix="quantload-tokenizer-"))
    tokenizer.save_pretrained(target)
    return target


def _load(file: Described) -> Any:
    try:
        return _made(file, Vocabulary.of(file.metadata, file.path))
    except QuantloadError as error:
        if str(file.path) in str(error):
            raise
        raise type(error)(f"{file.path}: {error}") from error
    except Exception as error:  # the libraries raise plain ones for parts that do not fit together
        raise CheckpointError(
            f"{file.path}: no tokenizer can be made of its metadata: {error}"
        ) from error


def _made(file: Described, vocabulary: Vocabulary) -> Any:
    from transformers import PreTrainedTokenizerFast

    roles = {role: vocabulary.special(name) for role, name in _ROLES.items()}
    options: dict[str, Any] = {}
    if vocabulary.model == "bert":
        roles["cls_token"] = roles["cls_token"] or vocabulary.special("bos")
        roles = {k: v for k, v in roles.items() if k not in ("bos_token", "eos_token")}
        names = ["input_ids", "token_type_ids", "attention_mask"]
        if vocabulary.option("token_type_count", 2) == 1:
            names.remove("token_type_ids")
        options = {"model_input_names": names}
    elif _separated(vocabulary):
        roles["cls_token"] = roles["cls_token"] or roles["bos_token"]
        roles["sep_token"] = roles["sep_token"] or roles["eos_token"]
    loaded = PreTrainedTokenizerFast(
        tokenizer_object=_backend(file, vocabulary),
        clean_up_tokenization_spaces=False,
        model_max_length=file.metadata.get(f"{vocabulary.architecture}.context_length", int(1e30)),
        **{role: token for role, token in roles.items() if token is not None},
        **options,
    )
    template = _chat_template(file)
    if template is not None:
        loaded.chat_template = template
    return loaded


def _backend(file: Described, vocabulary: Vocabulary) -> Any:
    from tokenizers import AddedToken, Tokenizer

    original = file.metadata.get("tokenizer.huggingface.json")
    if isinstance(original, str):
        return Tokenizer.from_str(original)
    tokenizer = build(vocabulary)
    known: dict[bool, list[AddedToken]] = {True: [], False: []}
    for _, token, kind in vocabulary.numbered():
        special = _KINDS.get(TokenType(kind)) if kind in _TYPES else None
        if special is not None and token:
            known[special].append(AddedToken(token, special=special, normalized=False))
    tokenizer.add_special_tokens(known[True])
    tokenizer.add_tokens(known[False])
    template = _template(vocabulary)
    if template is not None:
        tokenizer.post_processor = template
    return tokenizer


_TYPES = frozenset(int(kind) for kind in TokenType)


def _template(vocabulary: Vocabulary) -> Any:
    """What is put before and after a text, and between two."""
    from tokenizers import processors

    before = after = between = None
    if vocabulary.model == "bert":
        before = vocabulary.special("cls") or vocabulary.special("bos") or "[CLS]"
        after = vocabulary.special("seperator") or "[SEP]"
    else:
        if vocabulary.option("add_bos_token", _adds(vocabulary, "bos")):
            before = between = vocabulary.special("bos")
        if vocabulary.option("add_eos_token", _adds(vocabulary, "eos")):
            after = vocabulary.special("eos")
        if _separated(vocabulary):
            between = vocabulary.special("seperator") or vocabulary.special("eos")
    if before is None and after is None and between is None:
        return None
    # Where texts are separated, or there is one type of text, it is the same for both.
    one = _separated(vocabulary) or vocabulary.option("token_type_count", 2) == 1
    second = 0 if one else 1
    first = [f"{before}:0"] if before else []
    last = [f"{after}:0"] if after else []
    again = [f"{between}:{second}"] if between else []
    final = [f"{after}:{second}"] if after else []
    used = {token for token in (before, after, between) if token}
    return processors.TemplateProcessing(
        single=[*first, "$A:0", *last],
        pair=[*first, "$A:0", *last, *again, f"$B:{second}", *final],
        special_tokens=[(token, vocabulary.tokens.index(token)) for token in sorted(used)],
    )


def _adds(vocabulary: Vocabulary, name: str) -> bool:
    """Whether a token is put around texts where the file does not say."""
    if vocabulary.model == "gpt2":
        splitting = splitting_of(vocabulary.pre, vocabulary.architecture)
        return splitting.framed or (name == "bos" and splitting.add_bos)
    return vocabulary.model == {"bos": "llama", "eos": "t5"}[name]


def _separated(vocabulary: Vocabulary) -> bool:
    """Whether there is a token of its own between two texts, as RoBERTa has it."""
    framed = vocabulary.model == "gpt2" and (
        splitting_of(vocabulary.pre, vocabulary.architecture).framed
    )
    return bool(vocabulary.model != "bert" and vocabulary.option("add_sep_token", framed))


def _chat_template(file: Described) -> Any:
    """The chat template; several where the file has some with names."""
    main = file.metadata.get("tokenizer.chat_template")
    names = file.metadata.get("tokenizer.chat_templates") or []
    others = {
        name: file.metadata[f"tokenizer.chat_template.{name}"]
        for name in names
        if f"tokenizer.chat_template.{name}" in file.metadata
    }
    if not others:
        return main
    return {"default": main, **others} if main is not None else others

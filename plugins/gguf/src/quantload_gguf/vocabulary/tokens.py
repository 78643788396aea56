"""`Vocabulary`: what the metadata says of the tokenizer, checked."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantload.errors import CheckpointError

_USUAL = {"llama": {"bos": 1, "eos": 2}, "t5": {"eos": 1, "padding": 0}}
"""Kind of vocabulary -> role -> number."""

_PADDING = re.compile(r"\[PAD\d+\]")


class TokenType(enum.IntEnum):
    """Kinds of tokens; source: `llama_token_type` in llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's part of the metadata.

    Attributes:
        model: the kind: "llama" (SentencePiece BPE), "gpt2" (byte-level BPE), "bert"
            (WordPiece), "t5" (Unigram).
        pre: how text is split before BPE ("llama-bpe", "qwen2"...); "" where unsaid.
        tokens: by number.
        scores: by number; empty where there are none.
        types: by number.
        merges: of BPE, "left right" each.
        options: what else is under `tokenizer.ggml.`.
        architecture: `general.architecture`.
    """

    model: str
    pre: str
    tokens: list[str]
    scores: list[float]
    types: list[int]
    merges: list[str]
    options: Mapping[str, Any]
    architecture: str

    @classmethod
    def of(cls, metadata: Mapping[str, Any], path: object) -> Vocabulary:
        """Read the metadata of a file.

        Raises:
            CheckpointError: there is no tokenizer, or its parts do not fit together.
        """
        prefix = "tokenizer.ggml."
        options = {k[len(prefix) :]: v for k, v in metadata.items() if k.startswith(prefix)}
        model, tokens = options.pop("model", None), options.pop("tokens", None)
        if model in (None, "none", "no_vocab") or not tokens:
            raise CheckpointError(
                f"{path}: the file holds no tokenizer (tokenizer.ggml.model and .tokens); take it "
                f"from the repository of the original model"
            )
        found = cls(
            model=str(model),
            pre=str(options.pop("pre", "")),
            tokens=list(tokens),
            scores=list(options.pop("scores", None) or ()),
            types=list(options.pop("token_type", None) or [TokenType.NORMAL] * len(tokens)),
            merges=list(options.pop("merges", None) or ()),
            options=options,
            architecture=str(metadata.get("general.architecture", "")),
        )
        for name, lot in (("scores", found.scores), ("token_type", found.types)):
            if lot and len(lot) != len(tokens):
                raise CheckpointError(
                    f"{path}: expected {len(tokens)} entries in {prefix}{name}, one per token, "
                    f"found {len(lot)}"
                )
        if not all(isinstance(token, str) for token in found.tokens):
            raise CheckpointError(f"{path}: expected {prefix}tokens to be strings")
        return found

    def option(self, name: str, default: Any) -> Any:
        """One of the options."""
        return self.options.get(name, default)

    def special(self, name: str) -> str | None:
        """The token that has a role ("bos", "eos", "unknown", "padding", "seperator"...)."""
        number = self.options.get(f"{name}_token_id", self._usual(name))
        if isinstance(number, int) and 0 <= number < len(self.tokens):
            return self.tokens[number]
        return None

    def _usual(self, name: str) -> int | None:
        """Which token has a role where the file does not say, as llama.cpp has it."""
        if name == "unknown" and TokenType.UNKNOWN in self.types:
            return self.types.index(TokenType.UNKNOWN)
        number = _USUAL.get(self.model, {}).get(name)
        if number is None or number >= len(self.types):
            return None
        return number if self.types[number] == TokenType.CONTROL else None

    def numbered(self) -> list[tuple[int, str, int]]:
        """Number, text and type of every token that is one.

        Converters fill the rows of the embedding that no token has with `[PAD123]`.
        """
        return [
            (i, token, kind)
            for i, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if not (kind == TokenType.UNUSED and _PADDING.fullmatch(token))
        ]

    def mapping(self) -> dict[str, int]:
        """Token -> number; of equal ones the first."""
        found: dict[str, int] = {}
        for number, token, _ in self.numbered():
            found.setdefault(token, number)
        return found

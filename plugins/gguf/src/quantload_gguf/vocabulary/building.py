"""A `tokenizers.Tokenizer` for each kind of vocabulary.

Source: `llama_vocab` in llama-vocab.cpp for what the metadata means;
`transformers.convert_slow_tokenizer` for the steps by which the `tokenizers` library
does the same as SentencePiece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload_gguf.vocabulary.splitting import pre_tokenizer, splitting_of
from quantload_gguf.vocabulary.tokens import TokenType, Vocabulary

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def byte_level(vocabulary: Vocabulary) -> Any:
    """Byte-level BPE, as GPT-2 and most models since have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    splitting = splitting_of(vocabulary.pre, vocabulary.architecture)
    merges = [tuple(merge.split(" ", 1)) for merge in vocabulary.merges]
    if not merges or any(len(pair) != 2 for pair in merges):
        raise CheckpointError(
            f"expected tokenizer.ggml.merges to hold pairs, found {len(merges)} entries"
        )
    mapping = vocabulary.mapping()
    tokenizer = Tokenizer(
        models.BPE(
            vocab=mapping,
            merges=[(a, b) for a, b in merges if a in mapping and b in mapping],
            ignore_merges=splitting.ignore_merges,
            fuse_unk=False,
        )
    )
    if splitting.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(splitting)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece_bpe(vocabulary: Vocabulary) -> Any:
    """SentencePiece's BPE: pieces are merged in the order of their scores."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    if not vocabulary.scores:
        raise CheckpointError("expected tokenizer.ggml.scores, found none")
    mapping = vocabulary.mapping()
    tokenizer = Tokenizer(
        models.BPE(
            vocab=mapping,
            merges=merges_by_score(vocabulary, mapping),
            unk_token=vocabulary.special("unknown"),
            fuse_unk=True,
            byte_fallback=any(kind == TokenType.BYTE for kind in vocabulary.types),
        )
    )
    prefix = bool(vocabulary.option("add_space_prefix", True))
    spaces = normalizers.Replace(" ", SPACE)
    begin = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*begin, spaces])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def merges_by_score(vocabulary: Vocabulary, mapping: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that make up a piece, the best score first.

    Pieces of equal score come in the order of their numbers, and their pairs by the
    numbers of the left and the right part.
    """
    found: list[tuple[float, int, int, int]] = []
    normal = {t: i for t, i in mapping.items() if vocabulary.types[i] == TokenType.NORMAL}
    for piece, number in normal.items():
        for cut in range(1, len(piece)):
            left, right = normal.get(piece[:cut]), normal.get(piece[cut:])
            if left is not None and right is not None:
                found.append((-vocabulary.scores[number], number, left, right))
    found.sort()
    return [(vocabulary.tokens[left], vocabulary.tokens[right]) for _, _, left, right in found]


def unigram(vocabulary: Vocabulary) -> Any:
    """SentencePiece's Unigram."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if not vocabulary.scores:
        raise CheckpointError("expected tokenizer.ggml.scores, found none")
    unknown = vocabulary.option("unknown_token_id", None)
    if unknown is None:
        kinds = vocabulary.types
        unknown = kinds.index(TokenType.UNKNOWN) if TokenType.UNKNOWN in kinds else None
    bytes_known = any(kind == TokenType.BYTE for kind in vocabulary.types)
    whole = bytes_known and {f"<0x{i:02X}>" for i in range(256)} <= set(vocabulary.tokens)
    if not whole and not (isinstance(unknown, int) and 0 <= unknown < len(vocabulary.tokens)):
        raise CheckpointError("expected one of the tokens to be the unknown one, found none")
    tokenizer = Tokenizer(
        models.Unigram(
            list(zip(vocabulary.tokens, vocabulary.scores, strict=True)),
            unk_id=unknown,
            byte_fallback=bytes_known,
        )
    )
    steps: list[Any] = []
    charsmap = vocabulary.option("precompiled_charsmap", None)
    if charsmap:
        steps.append(normalizers.Precompiled(bytes(value & 255 for value in charsmap)))
    if vocabulary.option("remove_extra_whitespaces", True):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    prefix = "always" if vocabulary.option("add_space_prefix", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=prefix)
    spaces = decoders.Metaspace(SPACE, prepend_scheme=prefix)
    tokenizer.decoder = (
        decoders.Sequence([decoders.ByteFallback(), spaces]) if bytes_known else spaces
    )
    return tokenizer


def wordpiece(vocabulary: Vocabulary) -> Any:
    """BERT's WordPiece. Files mark the beginning of words, BERT what continues them."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    mapping: dict[str, int] = {}
    for number, token, kind in vocabulary.numbered():
        if kind == TokenType.NORMAL:
            token = token[len(SPACE) :] if token.startswith(SPACE) else f"##{token}"
        mapping.setdefault(token, number)
    unknown = vocabulary.special("unknown") or "[UNK]"
    if unknown not in mapping:
        raise CheckpointError(f"expected one of the tokens to be {unknown}, found none")
    tokenizer = Tokenizer(models.WordPiece(mapping, unk_token=unknown))
    lowercase = vocabulary.option("normalizer.lowercase", not _has_capitals(vocabulary))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=vocabulary.option("normalizer.strip_accents", None),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _has_capitals(vocabulary: Vocabulary) -> bool:
    return any(
        kind == TokenType.NORMAL and any("A" <= letter <= "Z" for letter in token)
        for _, token, kind in vocabulary.numbered()
    )


BUILDERS: Mapping[str, Callable[[Vocabulary], Any]] = {
    "gpt2": byte_level,
    "llama": sentencepiece_bpe,
    "t5": unigram,
    "bert": wordpiece,
}
"""`tokenizer.ggml.model` -> what builds it."""


def build(vocabulary: Vocabulary) -> Any:
    """The tokenizer of a vocabulary, without special tokens and templates.

    Raises:
        UnsupportedOperationError: a kind that is not known.
        CheckpointError: the metadata is not complete.
    """
    builder = BUILDERS.get(vocabulary.model)
    if builder is None:
        raise UnsupportedOperationError(
            f"tokenizers of the kind {vocabulary.model!r} (tokenizer.ggml.model) are not known; "
            f"known are {', '.join(BUILDERS)}. Take the tokenizer from the original model"
        )
    return builder(vocabulary)

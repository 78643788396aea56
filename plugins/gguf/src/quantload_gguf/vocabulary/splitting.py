"""How text is split before byte-level BPE: `tokenizer.ggml.pre` as data.

Source: the table of pre-tokenizers in llama-vocab.cpp, whose comments give the
original expressions of the `tokenizer.json` files they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantload.errors import UnsupportedOperationError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SLASHED}"
GPT4O = rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHED}"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """One way to split.

    Attributes:
        patterns: regular expressions whose matches are split off, in order.
        digits: digits are split off: "single", "runs", or "" for not at all.
        punctuation: runs of punctuation are split off first.
        byte_regex: GPT-2's own expression is applied last, by the byte-level step.
        after: expressions for what that leaves.
        nfc: text is composed first.
        ignore_merges: a word that is a token is that token, whatever the merges say.
        add_bos: a text begins with the bos token unless the file says otherwise.
    """

    patterns: tuple[str, ...] = ()
    digits: str = ""
    punctuation: bool = False
    byte_regex: bool = False
    after: tuple[str, ...] = ()
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_FALCON = Splitting(punctuation=True, byte_regex=True, digits="runs", after=("[0-9][0-9][0-9]",))

_PLAIN_GPT2 = (
    "gpt-2 phi-2 mpt olmo jais exaone4 roberta-bpe modern-bert jina-es jina-de jina-v1-en "
    "jina-v2-es jina-v2-de jina-v2-code trillion mellum"
)
_LIKE_LLAMA3 = "llama3 llama-v3 llama-bpe falcon3 pixtral lfm2 midm-2.0"
_LIKE_STARCODER = "starcoder refact smollm codeshell exaone minerva-7b"
# Han, with what the models' own files count as such.
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_HAN_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"

SPLITTINGS: Mapping[str, Splitting] = {
    **dict.fromkeys(_PLAIN_GPT2.split(), Splitting(byte_regex=True)),
    **dict.fromkeys(_LIKE_LLAMA3.split(), Splitting((LLAMA3,), ignore_merges=True, add_bos=True)),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Splitting((LLAMA3,))),
    "glm4": Splitting((LLAMA3,), ignore_merges=True),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), Splitting((QWEN2,), nfc=True)),
    **dict.fromkeys(("stablelm2", "hunyuan", "grok-2", "solar-open"), Splitting((QWEN2,))),
    "command-r": Splitting(digits="single", byte_regex=True, nfc=True),
    **dict.fromkeys(_LIKE_STARCODER.split(), Splitting(digits="single", byte_regex=True)),
    "falcon": _FALCON,
    "default": _FALCON,
    "tekken": Splitting((TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), Splitting((GPT4O,))),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")),
    "deepseek-v3": Splitting((r"\p{N}{1,3}", _HAN_AND_KANA, _DEEPSEEK3)),
}
"""`tokenizer.ggml.pre` -> how to split."""

_OF_ARCHITECTURE = {
    "llama": "llama-bpe",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2",
    "qwen3": "qwen2",
    "qwen3moe": "qwen2",
    "gpt2": "gpt-2",
    "falcon": "falcon",
    "starcoder2": "starcoder",
    "stablelm": "stablelm2",
    "command-r": "command-r",
    "phi3": "gpt-2",
}
"""What files say nothing, written before there was a `pre`, were made with."""


def splitting_of(pre: str, architecture: str) -> Splitting:
    """How a file's tokenizer splits text.

    Args:
        pre: `tokenizer.ggml.pre`, "" where the file has none.
        architecture: `general.architecture`.

    Raises:
        UnsupportedOperationError: a way to split that is not known.
    """
    name = pre if pre not in ("", "default") else _OF_ARCHITECTURE.get(architecture, "default")
    found = SPLITTINGS.get(name)
    if found is None:
        raise UnsupportedOperationError(
            f"the tokenizer splits text as {name!r} (tokenizer.ggml.pre), which is not known; "
            f"known are {', '.join(sorted(SPLITTINGS))}. Take the tokenizer from the original model"
        )
    return found


def pre_tokenizer(splitting: Splitting) -> Any:
    """The steps as the `tokenizers` library has them."""
    from tokenizers import Regex, pre_tokenizers

    steps: list[Any] = []
    if splitting.punctuation:
        steps.append(pre_tokenizers.Punctuation("contiguous"))
    steps.extend(pre_tokenizers.Split(Regex(p), "isolated") for p in splitting.patterns)
    if splitting.digits == "single":
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitting.byte_regex))
    if splitting.digits == "runs":
        steps.append(pre_tokenizers.Digits(individual_digits=False))
    steps.extend(pre_tokenizers.Split(Regex(p), "isolated") for p in splitting.after)
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)

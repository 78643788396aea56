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
_SPACES = r"\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASHED = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"
_CASED_SHORT = rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?"
_MARKED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
# From the right, in threes: of numbers that end a word, and of all.
_THOUSANDS, _ALL_THOUSANDS = r"\d{1,3}(?=(?:\d{3})*\b)", r"\d{1,3}(?=(?:\d{3})*(?!\d))"

LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SLASHED}"
GPT4O = rf"{_CASED_SHORT}|\p{{N}}{{1,3}}|{_SLASHED}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
)
_SEED = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|{_SPACES}"
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    rf"|{_SPACES}"
)
_EXAONE = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_SPACES}"
)
_JAIS2 = LLAMA3.removesuffix(_SPACES) + "|".join(
    [*(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)), r"\s{1,2}(?!\S)", r"\s{1}"]
)
_DEEPSEEK3 = rf"{_MARKED}| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
_SPARK = rf"{_MARKED}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}"
# Letters that have case, but for these, which the model's own list leaves out.
_NOT_LISTED = (
    "\u0560-\u0588\u10c7\u10cd\u10d0-\u10ff\u1c80-\u1c8a\u2d00-\u2d2d\ua790-\ua7ff\uab30-\uab68"
    "\U00010570-\U000105bc\U00010d50-\U00010d85\U00016e40-\U00016e7f\U0001d400-\U0001d7cb"
    "\U0001df00-\U0001df2a"
)
_DEEPSEEK_LETTERS = rf"\s?[\p{{Lu}}\p{{Ll}}\p{{Lt}}&&[^{_NOT_LISTED}]]+"
_DEEPSEEK_MARKS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_MINICPM = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}+|{_REST}"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"


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
        framed: it begins with bos and ends with eos, and so does each of a pair of texts.
    """

    patterns: tuple[str, ...] = ()
    digits: str = ""
    punctuation: bool = False
    byte_regex: bool = False
    after: tuple[str, ...] = ()
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False
    framed: bool = False


_FALCON = Splitting(punctuation=True, byte_regex=True, digits="runs", after=("[0-9][0-9][0-9]",))

_PLAIN_GPT2 = (
    "gpt-2 phi-2 mpt olmo jais exaone4 modern-bert jina-es jina-de jina-v2-es jina-v2-de "
    "trillion mellum gigachat a.x-4.0 granite-docling"
)
_LIKE_ROBERTA = "roberta-bpe jina-v1-en jina-v2-code"
_LIKE_LLAMA3 = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral lfm2 midm-2.0 jina-v5-nano"
_LIKE_STARCODER = "starcoder refact smollm codeshell exaone minerva-7b mellum2"
_LIKE_DEEPSEEK3 = "deepseek-v3 hunyuan-dense joyai-llm hy_v4"
# Han, with what the models' own files count as such.
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_HAN_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
    "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f"
    "\u2f00-\u2fdf\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f"
    "\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CHAMELEON = (
    *(r"<sentinel:[0-9]+>", r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )"),
    *(r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", _GPT2_WORDS),
)

SPLITTINGS: Mapping[str, Splitting] = {
    **dict.fromkeys(_PLAIN_GPT2.split(), Splitting(byte_regex=True)),
    **dict.fromkeys(_LIKE_ROBERTA.split(), Splitting(byte_regex=True, framed=True)),
    **dict.fromkeys(_LIKE_LLAMA3.split(), Splitting((LLAMA3,), ignore_merges=True, add_bos=True)),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Splitting((LLAMA3,))),
    **dict.fromkeys(("glm4", "glm5"), Splitting((LLAMA3,), ignore_merges=True)),
    "jais-2": Splitting((_JAIS2,)),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"), Splitting((QWEN2,), nfc=True)
    ),
    "qwen35": Splitting((_QWEN35,)),
    **dict.fromkeys(("stablelm2", "hunyuan", "grok-2", "solar-open"), Splitting((QWEN2,))),
    "laguna": Splitting((r"[^\n]+|[\n]+", QWEN2)),
    "ufakzeka": Splitting((rf"{_WORDS}|\p{{N}}|{_REST}",)),
    "minicpm5": Splitting((r"\p{N}{1,3}", _MINICPM), ignore_merges=True),
    "seed-coder": Splitting((_SEED,)),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), Splitting((_BAILING,))),
    "exaone-moe": Splitting((_EXAONE,)),
    "command-r": Splitting(digits="single", byte_regex=True, nfc=True),
    **dict.fromkeys(_LIKE_STARCODER.split(), Splitting(digits="single", byte_regex=True)),
    "falcon": _FALCON,
    "default": _FALCON,
    "tekken": Splitting((TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), Splitting((GPT4O,))),
    "granite-embed-multi-97m": Splitting((GPT4O,), ignore_merges=True),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), Splitting((_THOUSANDS, GPT4O))),
    "youtu": Splitting((_YOUTU, rf"{_CASED_SHORT}|\p{{N}}|{_SLASHED}"), ignore_merges=True),
    "superbpe": Splitting((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "deepseek-llm": Splitting(
        (r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_MARKS, r"\s+$", _HAN, r"\p{N}+")
    ),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")),
    **dict.fromkeys(_LIKE_DEEPSEEK3.split(), Splitting((r"\p{N}{1,3}", _HAN_AND_KANA, _DEEPSEEK3))),
    "spark2_5": Splitting((r"\p{N}{1,3}", _HAN_AND_KANA, _SPARK, r"\p{N}")),
    "afmoe": Splitting((_ALL_THOUSANDS, _ASIAN, _DEEPSEEK3)),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), Splitting((_BLOOM,))),
    "viking": Splitting((_BLOOM, r"\p{N}")),
    "chameleon": Splitting(_CHAMELEON, add_bos=True),
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

"""The tokenizer of a checkpoint's folder, as the metadata of a file.

Source: what llama.cpp's convert_hf_to_gguf.py writes for each kind of tokenizer.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantload.errors import QuantloadError
from quantload_gguf.container import Field, ValueType
from quantload_gguf.saving.draft import Draft
from quantload_gguf.saving.splitting import same_splitting
from quantload_gguf.vocabulary import load_tokenizer
from quantload_gguf.vocabulary.building import SPACE
from quantload_gguf.vocabulary.tokens import TokenType

if TYPE_CHECKING:
    from quantload.plugin import ModelParts

logger = logging.getLogger("quantload.gguf")

SAMPLES = (
    "Hello world, it's  3 o'clock and we'll pay 1234567.89 €!",
    '  def f(x: int) -> str:\n\treturn f"{x!r:>10}"  # comment\n\n\n',
    "Élève naïve façade Ångström e\u0301",
    "🙂👩‍👩‍👧‍👦🇨🇭 ok",
    "中文字符测试，你好世界。日本語のテキスト 한국어 русский العربية",  # noqa: RUF001  Chinese punctuation is meant
    "x=[1,22,333,4444];y={'a':None}//*CAPS CamelCase snake_case",
    "a\r\nb   \n c",
    "",
)
"""Texts on which the tokenizer that is read from a file has to agree with the original."""

_ROLES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}


def tokenizer_fields(parts: ModelParts, model: Any) -> dict[str, Field]:
    """The tokenizer in the folder that a model came from; nothing, and a warning, without one."""
    named = str(getattr(model.config, "_name_or_path", "") or "")
    original = _load(parts.folder or (Path(named) if named and Path(named).is_dir() else None))
    if original is None:
        logger.warning(
            "%s: no tokenizer is written, for there is none in the folder it was loaded from",
            type(model).__name__,
        )
        return {"tokenizer.ggml.model": Field("none", ValueType.STRING)}
    spec = json.loads(original.backend_tokenizer.to_str())
    fields = _of_kind(original, spec)
    fields |= _special(original, model)
    fields |= _templates(original)
    if not _agrees(original, fields, model):
        logger.warning(
            "the tokenizer is one that .gguf files have no words for; it is kept whole under "
            "tokenizer.huggingface.json, which llama.cpp does not read"
        )
        text = original.backend_tokenizer.to_str()
        fields["tokenizer.huggingface.json"] = Field(text, ValueType.STRING)
    return fields


def _load(folder: Path | None) -> Any:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    if folder is None or not any((folder / name).is_file() for name in names):
        return None
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        found = AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, KeyError, ImportError):
        if not (folder / "tokenizer.json").is_file():
            raise
        found = PreTrainedTokenizerFast.from_pretrained(folder)
    return found if hasattr(found, "backend_tokenizer") else None


def _of_kind(original: Any, spec: Mapping[str, Any]) -> dict[str, Field]:
    model = spec["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if kind == "WordPiece":
        return _wordpiece(original, spec)
    if kind == "Unigram":
        return _unigram(original, spec)
    return _sentencepiece(original, spec) if model.get("byte_fallback") else _bytes(original, spec)


def _bytes(original: Any, spec: Mapping[str, Any]) -> dict[str, Field]:
    tokens, types = _tokens(original, spec)
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    pre = same_splitting(original.backend_tokenizer, spec, SAMPLES)
    return {
        "tokenizer.ggml.model": Field("gpt2", ValueType.STRING),
        "tokenizer.ggml.pre": Field(pre, ValueType.STRING),
        "tokenizer.ggml.tokens": Field(tokens, ValueType.ARRAY, ValueType.STRING),
        "tokenizer.ggml.token_type": Field(types, ValueType.ARRAY, ValueType.INT32),
        "tokenizer.ggml.merges": Field(merges, ValueType.ARRAY, ValueType.STRING),
    }


def _sentencepiece(original: Any, spec: Mapping[str, Any]) -> dict[str, Field]:
    tokens, types = _tokens(original, spec)
    rank: dict[str, int] = {}
    for place, merge in enumerate(spec["model"]["merges"]):
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), place)
    # What is merged first has the best score; what nothing is merged into needs none.
    scores = [-float(rank.get(token, 0)) for token in tokens]
    return {
        "tokenizer.ggml.model": Field("llama", ValueType.STRING),
        "tokenizer.ggml.pre": Field("default", ValueType.STRING),
        "tokenizer.ggml.tokens": Field(tokens, ValueType.ARRAY, ValueType.STRING),
        "tokenizer.ggml.scores": Field(scores, ValueType.ARRAY, ValueType.FLOAT32),
        "tokenizer.ggml.token_type": Field(types, ValueType.ARRAY, ValueType.INT32),
        "tokenizer.ggml.add_space_prefix": Field(_prefixed(spec), ValueType.BOOL),
    }


def _unigram(original: Any, spec: Mapping[str, Any]) -> dict[str, Field]:
    tokens, types = _tokens(original, spec)
    known = dict(spec["model"]["vocab"])
    scores = [float(known.get(token, 0.0)) for token in tokens]
    fields = {
        "tokenizer.ggml.model": Field("t5", ValueType.STRING),
        "tokenizer.ggml.pre": Field("default", ValueType.STRING),
        "tokenizer.ggml.tokens": Field(tokens, ValueType.ARRAY, ValueType.STRING),
        "tokenizer.ggml.scores": Field(scores, ValueType.ARRAY, ValueType.FLOAT32),
        "tokenizer.ggml.token_type": Field(types, ValueType.ARRAY, ValueType.INT32),
        "tokenizer.ggml.add_space_prefix": Field(_prefixed(spec), ValueType.BOOL),
    }
    steps = _steps(spec.get("normalizer"))
    kinds = {s["type"] for s in [*steps, *_steps(spec.get("pre_tokenizer"))]}
    runs = any(s["type"] == "Replace" and " {2,}" in str(s["pattern"]) for s in steps)
    squeezed = "WhitespaceSplit" in kinds or (runs and "Strip" in kinds)
    fields["tokenizer.ggml.remove_extra_whitespaces"] = Field(squeezed, ValueType.BOOL)
    maps = [s["precompiled_charsmap"] for s in steps if s["type"] == "Precompiled"]
    if maps and maps[0]:
        data = list(base64.b64decode(maps[0]))
        key = "tokenizer.ggml.precompiled_charsmap"
        fields[key] = Field(data, ValueType.ARRAY, ValueType.UINT8)
    return fields


def _wordpiece(original: Any, spec: Mapping[str, Any]) -> dict[str, Field]:
    tokens, types = _tokens(original, spec)
    prefix = spec["model"].get("continuing_subword_prefix", "##")
    marked = [
        token
        if kind not in (TokenType.NORMAL, TokenType.UNUSED)
        else token[len(prefix) :]
        if token.startswith(prefix)
        else SPACE + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    fields = {
        "tokenizer.ggml.model": Field("bert", ValueType.STRING),
        "tokenizer.ggml.pre": Field("default", ValueType.STRING),
        "tokenizer.ggml.tokens": Field(marked, ValueType.ARRAY, ValueType.STRING),
        "tokenizer.ggml.token_type": Field(types, ValueType.ARRAY, ValueType.INT32),
    }
    for step in _steps(spec.get("normalizer")):
        for name in ("lowercase", "strip_accents"):
            if step["type"] == "BertNormalizer" and step.get(name) is not None:
                fields[f"tokenizer.ggml.normalizer.{name}"] = Field(step[name], ValueType.BOOL)
    return fields


def _tokens(original: Any, spec: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Every token by number, and its type; numbers that no token has get a name."""
    vocabulary = original.get_vocab()
    count = max(vocabulary.values(), default=-1) + 1
    tokens = [f"[PAD{i}]" for i in range(count)]
    types = [int(TokenType.UNUSED)] * count
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, int(TokenType.NORMAL)
        if len(token) == 6 and token.startswith("<0x") and spec["model"].get("byte_fallback"):
            types[number] = int(TokenType.BYTE)
    for added in spec.get("added_tokens") or ():
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        types[added["id"]] = int(kind)
    unknown = vocabulary.get(original.unk_token) if original.unk_token else None
    if unknown is not None and spec["model"].get("byte_fallback"):
        types[unknown] = int(TokenType.UNKNOWN)
    return tokens, types


def _special(original: Any, model: Any) -> dict[str, Field]:
    """The tokens with a role, and which are put around a text."""
    found: dict[str, Field] = {}
    for role, name in _ROLES.items():
        token = getattr(original, role, None)
        number = original.convert_tokens_to_ids(token) if token is not None else None
        if number is not None:
            found[f"tokenizer.ggml.{name}_token_id"] = Field(int(number), ValueType.UINT32)
    settings = getattr(model, "generation_config", None) or model.config
    for name in ("bos", "eos"):
        key = f"tokenizer.ggml.{name}_token_id"
        given = getattr(settings, f"{name}_token_id", None)
        if given is None:
            given = getattr(model.config, f"{name}_token_id", None)
        lot = given if isinstance(given, list) else [] if given is None else [given]
        if lot and (key not in found or found[key].value not in lot):
            found[key] = Field(int(lot[0]), ValueType.UINT32)
        if name == "eos":
            rest = [int(n) for n in lot if n != found[key].value]
            for other, number in zip(("eot", "eom"), rest, strict=False):
                found[f"tokenizer.ggml.{other}_token_id"] = Field(number, ValueType.UINT32)
    bare = original("a", add_special_tokens=False).input_ids
    framed = original("a").input_ids
    begins = framed[0] == original.bos_token_id and bare[0] != framed[0]
    ends = framed[-1] == original.eos_token_id and bare[-1] != framed[-1]
    found["tokenizer.ggml.add_bos_token"] = Field(bool(begins), ValueType.BOOL)
    found["tokenizer.ggml.add_eos_token"] = Field(bool(ends), ValueType.BOOL)
    return found


def _templates(original: Any) -> dict[str, Field]:
    template = original.chat_template
    if template is None:
        return {}
    if isinstance(template, str):
        return {"tokenizer.chat_template": Field(template, ValueType.STRING)}
    found = {
        f"tokenizer.chat_template.{name}": Field(text, ValueType.STRING)
        for name, text in template.items()
        if name != "default"
    }
    names = sorted(name for name in template if name != "default")
    if names:
        found["tokenizer.chat_templates"] = Field(names, ValueType.ARRAY, ValueType.STRING)
    if "default" in template:
        found["tokenizer.chat_template"] = Field(template["default"], ValueType.STRING)
    return found


def _agrees(original: Any, fields: Mapping[str, Field], model: Any) -> bool:
    """Whether the tokenizer that the fields describe gives the original's numbers."""
    architecture = Field(str(model.config.model_type), ValueType.STRING)
    draft = Draft(Path("the new file"), {"general.architecture": architecture, **fields})
    try:
        made = load_tokenizer(draft)
    except QuantloadError as error:
        logger.info("%s", error)
        return False
    return all(
        original(text, add_special_tokens=framed).input_ids
        == made(text, add_special_tokens=framed).input_ids
        for text in SAMPLES
        for framed in (True, False)
    )


def _prefixed(spec: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    steps = [*_steps(spec.get("normalizer")), *_steps(spec.get("pre_tokenizer"))]
    return any(
        step["type"] == "Prepend"
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def _steps(step: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    return list(step.get("normalizers") or step.get("pretokenizers") or [step])

"""Which of the known ways to split text a tokenizer has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantload_gguf.vocabulary.splitting import SPLITTINGS, Splitting, pre_tokenizer

UNKNOWN = "default"


def same_splitting(tokenizer: Any, spec: Mapping[str, Any], samples: Iterable[str]) -> str:
    """The `tokenizer.ggml.pre` of a byte-level tokenizer; "default" where none is like it.

    Args:
        tokenizer: of the `tokenizers` library.
        spec: the same as its file has it.
        samples: texts on which both have to agree.
    """
    own = tokenizer.pre_tokenizer
    if own is None:
        return UNKNOWN
    texts = list(samples)
    expected = [own.pre_tokenize_str(text) for text in texts]
    composed = "NFC" in str(spec.get("normalizer"))
    whole = bool(spec["model"].get("ignore_merges"))
    tried: dict[Splitting, bool] = {}
    for name, splitting in SPLITTINGS.items():
        if (splitting.nfc, splitting.ignore_merges) != (composed, whole):
            continue
        if splitting not in tried:
            steps = pre_tokenizer(splitting)
            tried[splitting] = [steps.pre_tokenize_str(text) for text in texts] == expected
        if tried[splitting]:
            return name
    return UNKNOWN

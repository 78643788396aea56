"""Files that are labelled as what they are not, known by the words of their zero-points."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantload_gptq.words import constant_words

if TYPE_CHECKING:
    from quantload_gptq.overrides import Parameters

logger = logging.getLogger("quantload.gptq")

_told: set[tuple[str, str, int]] = set()


def evident_layout(where: str, qzeros: Tensor, said: Parameters, rows: int) -> str:
    """The layout of a layer: as labelled, unless its zero-points show another one.

    A symmetric layer has one zero-point, `2**(bits - 1)`, and every layout writes it in
    words of its own (4 bits: 0x77777777 in version 1, 0x88888888 in version 2). Where the
    config says symmetric and all words are those of another layout, they count.

    Args:
        where: the module, for messages.
        qzeros: words `[groups, n]`.
        said: the module's parameters.
        rows: `out_features`.
    """
    label = "gptq" if said.format == "marlin" else said.format
    whole = rows * said.bits // (qzeros.dtype.itemsize * 8)
    if said.bits in (5, 6, 7) or whole == 0:
        return label
    seen = qzeros[:, :whole]
    if _holds(seen, label, said.bits):
        return label
    others = [
        layout
        for layout in ("gptq", "gptq_v2", "gptq_p")
        if layout != label and _holds(seen, layout, said.bits)
    ]
    if not others:
        return label
    if said.sym:
        _note(where, said, others[0], f"they are read as {others[0]}")
        return others[0]
    _note(
        where,
        said,
        others[0],
        f"they are read as {said.format}, as the config says sym=false; if the model answers "
        f"nonsense, set checkpoint_format to {others[0]!r}",
    )
    return label


def _holds(words: Tensor, layout: str, bits: int) -> bool:
    """Whether all words are those of a symmetric layer in a layout."""
    expected = constant_words(1 << (bits - 1), layout, bits, words.dtype, words.shape[1])
    return torch.equal(words, expected.to(words.device).expand_as(words))


def _note(where: str, said: Parameters, other: str, outcome: str) -> None:
    key = (said.format, other, said.bits)
    if key in _told:
        logger.info("%s: zero-points as in %s, labelled %s: %s", where, other, said.format, outcome)
        return
    _told.add(key)
    logger.warning(
        "%s.qzeros: every word is that of a symmetric %s layer, and the config says %s: %s (said "
        "once for all layers)",
        where,
        other,
        said.format,
        outcome,
    )

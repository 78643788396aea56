"""From GGUF's rotary settings to those of `transformers`.

Sources: `rope.scaling.*` in docs/gguf.md; the rotary factors that llama.cpp's
converter writes as tensors; `transformers.modeling_rope_utils` (5.23).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from quantload.errors import CheckpointError
from quantload_gguf.architectures.facts import Facts

FACTORS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"

_YARN = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def rope_parameters(facts: Facts, default_base: float = 10000.0) -> dict[str, Any]:
    """`rope_parameters` of the config: base, and how positions are stretched.

    Args:
        facts: of the file.
        default_base: of the architecture, where the file names none.

    Raises:
        CheckpointError: a kind of scaling that is not known.
    """
    base = facts.number("rope.freq_base", default_base)
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    if facts.has(FACTORS):
        return {**found, **_by_factors(facts, facts.numbers(FACTORS), float(base))}
    if facts.has(LONG) and facts.has(SHORT):
        return {**found, **_longrope(facts)}
    kind = facts.get("rope.scaling.type")
    factor = facts.number("rope.scaling.factor", facts.number("rope.scale_linear", 1.0))
    if kind in (None, "linear") and factor not in (0, 1):
        return {**found, "rope_type": "linear", "factor": float(factor)}
    if kind in (None, "none", "linear", "longrope"):
        return found
    if kind == "yarn":
        found |= {"rope_type": "yarn", "factor": float(factor)}
        found["original_max_position_embeddings"] = _original(facts)
        for name, key in _YARN.items():
            value = facts.number(f"rope.scaling.{key}", None)
            if value is not None and name != "extrapolation_factor":
                found[name] = float(value)
        return found
    raise CheckpointError(
        f"{facts.architecture}.rope.scaling.type is {kind!r}; known are none, linear, yarn and "
        f"longrope"
    )


def _original(facts: Facts) -> int:
    return int(facts.whole("rope.scaling.original_context_length", facts.whole("context_length")))


def _longrope(facts: Facts) -> dict[str, Any]:
    original, full = _original(facts), facts.whole("context_length")
    found = {
        "rope_type": "longrope",
        "long_factor": facts.numbers(LONG),
        "short_factor": facts.numbers(SHORT),
        "original_max_position_embeddings": original,
        "factor": full / original,
    }
    attention = facts.number("rope.scaling.attn_factor", None)
    if attention is not None:
        found["attention_factor"] = float(attention)
    return found


def _by_factors(facts: Facts, factors: Sequence[float], base: float) -> dict[str, Any]:
    """The settings of Llama 3 that give these factors, or the factors themselves."""
    fitted = llama3_settings(factors, base)
    if fitted is not None:
        return fitted
    return {
        "rope_type": "longrope",
        "long_factor": list(factors),
        "short_factor": list(factors),
        "original_max_position_embeddings": facts.whole("context_length"),
        "factor": 1.0,
        "attention_factor": 1.0,
    }


def llama3_settings(factors: Sequence[float], base: float) -> dict[str, Any] | None:
    """The `llama3` parameters behind a list of factors; None where there are none.

    Frequencies of short waves are kept (factor 1), those of long waves divided by
    the largest factor, and those between are blended linearly in the frequency. The
    blend depends only on ratios, so the low factor is 1 unless the published settings
    (1, 4, 8192) reproduce the list.

    Args:
        factors: one per pair of rotary dimensions.
        base: of the rotary frequencies.
    """
    largest = max(factors)
    if largest <= 1:
        return None
    candidates = [(1.0, 4.0, 8192)]
    slopes = _blend(factors, base)
    if slopes is not None:
        slope, offset = slopes  # smooth = slope / wavelength - offset
        candidates.append((1.0, 1.0 + 1.0 / offset, round(slope / offset)))
    for low, high, original in candidates:
        made = llama3_factors(len(factors), base, largest, low, high, original)
        if all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(made, factors, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": float(round(largest, 6)),
                "low_freq_factor": low,
                "high_freq_factor": float(round(high, 6)),
                "original_max_position_embeddings": original,
            }
    return None


def llama3_factors(
    count: int, base: float, factor: float, low: float, high: float, original: int
) -> list[float]:
    """What each frequency is divided by under the `llama3` rule."""
    found = []
    for i in range(count):
        wavelength = 2 * math.pi * base ** (i / count)
        smooth = (original / wavelength - low) / (high - low)
        smooth = min(max(smooth, 0.0), 1.0)
        found.append(1 / ((1 - smooth) / factor + smooth))
    return found


def _blend(factors: Sequence[float], base: float) -> tuple[float, float] | None:
    """Slope and offset of the blend from two of the frequencies in it."""
    largest = max(factors)
    points = []
    for i, factor in enumerate(factors):
        if 1 + 1e-6 < factor < largest * (1 - 1e-6):
            smooth = (1 / factor - 1 / largest) / (1 - 1 / largest)
            points.append((1 / (2 * math.pi * base ** (i / len(factors))), smooth))
    if len(points) < 2:
        return None
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = (y1 - y0) / (x1 - x0)
    offset = slope * x0 - y0
    return (slope, offset) if offset > 0 else None

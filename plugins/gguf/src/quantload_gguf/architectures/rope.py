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
from quantload_gguf.architectures.keys import Keys
from quantload_gguf.architectures.table import Setting

FACTORS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"

_ORIGINAL = "original_max_position_embeddings"
# Written beside the factors, from which they cannot always be told.
_LLAMA3 = {
    "low_freq_factor": "quantload.rope.low_freq_factor",
    "high_freq_factor": "quantload.rope.high_freq_factor",
    _ORIGINAL: "quantload.rope.original_context_length",
}
_YARN = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
# What cosines and sines are multiplied with in all, as converters copy it from the config; and
# a factor on top of what stretching asks for, which is the one that llama.cpp goes by.
_YARN_ATTENTION, _ON_TOP = "rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor"
_YARN_LOG = "rope.scaling.yarn_log_multiplier"


def rope_parameters(facts: Facts, default_base: float = 10000.0) -> dict[str, Any]:
    """`rope_parameters` of the config: base, and how positions are stretched.

    Args:
        facts: of the file.
        default_base: of the architecture, where the file names none.

    Raises:
        CheckpointError: a kind of scaling that is not known.
    """
    base = facts.number("rope.freq_base", default_base)
    if not (math.isfinite(base) and base > 0):
        raise CheckpointError(f"{facts.architecture}.rope.freq_base is {base!r}, expected above 0")
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    if facts.has(FACTORS):
        return {**found, **_by_factors(facts, _factors(facts, FACTORS), float(base))}
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
            if value is not None:
                found[name] = float(value)
        attention = _attention_of_yarn(facts, factor)
        if attention is not None:
            found["attention_factor"] = attention
        return found
    raise CheckpointError(
        f"{facts.architecture}.rope.scaling.type is {kind!r}; known are none, linear, yarn and "
        f"longrope"
    )


def _attention_of_yarn(facts: Facts, factor: float) -> float | None:
    """What the file says cosines and sines are multiplied with; None where nothing special."""
    given = facts.number(_YARN_ATTENTION, None)
    if given is not None:
        return float(given)
    usual = _yarn_attention(factor)
    more = facts.number(_ON_TOP, 1.0)
    share = facts.number(_YARN_LOG, 0.0)
    if more == 1 and not share:
        return None
    return float(more * usual / (_yarn_attention(factor, share) if share else 1))


def _yarn_attention(factor: float, share: float = 1.0) -> float:
    return 1 + 0.1 * share * math.log(factor) if factor > 1 else 1.0


def _original(facts: Facts) -> int:
    context = facts.whole("context_length")
    found = int(facts.whole("rope.scaling.original_context_length", context))
    if found < 1:
        raise CheckpointError(
            f"{facts.architecture}.rope.scaling.original_context_length is {found}, expected 1 or "
            f"more"
        )
    return found


def _longrope(facts: Facts) -> dict[str, Any]:
    original, full = _original(facts), facts.whole("context_length")
    found = {
        "rope_type": "longrope",
        "long_factor": _factors(facts, LONG),
        "short_factor": _factors(facts, SHORT),
        "original_max_position_embeddings": original,
        "factor": full / original,
    }
    attention = facts.number("rope.scaling.attn_factor", None)
    if attention is not None:
        found["attention_factor"] = float(attention)
    return found


def _factors(facts: Facts, name: str) -> list[float]:
    """What the frequencies are divided by, from a tensor of the file.

    Raises:
        CheckpointError: it is empty, or a value is not above 0.
    """
    found = facts.numbers(name)
    if not found:
        raise CheckpointError(f"{name} is empty, expected a factor for each rotary frequency")
    for value in found:
        if not (math.isfinite(value) and value > 0):
            raise CheckpointError(f"{name} holds {value!r}, expected factors above 0")
    return found


def _by_factors(facts: Facts, factors: Sequence[float], base: float) -> dict[str, Any]:
    """The settings of Llama 3 that give these factors, or the factors themselves."""
    said = [facts.other(key) for key in _LLAMA3.values()]
    usable = all(value and math.isfinite(value) for value in said)
    known = [(float(said[0]), float(said[1]), int(said[2]))] if usable else []
    fitted = llama3_settings(factors, base, known)
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


def write_rope(value: Any, config: Any, keys: Keys) -> None:
    """The other way: base and stretching of a config into keys and lists of factors.

    Kinds that files have no words for are left out; whoever writes compares what
    reading gives with the config.
    """
    kind = value.get("rope_type", "default")
    keys.number("rope.freq_base", value.get("rope_theta"))
    if kind in ("linear", "yarn", "longrope"):
        keys.own_text("rope.scaling.type", kind)
    if kind in ("linear", "yarn"):
        keys.number("rope.scaling.factor", value["factor"])
    if kind == "yarn":
        _write_original(value, config, keys)
        for name, key in _YARN.items():
            keys.number(f"rope.scaling.{key}", value.get(name))
        if value.get("attention_factor") is not None:
            keys.number(_YARN_ATTENTION, value["attention_factor"])
            keys.number(_ON_TOP, value["attention_factor"] / _yarn_attention(value["factor"]))
    if kind == "llama3":
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        keys.factors[FACTORS] = llama3_factors(
            width // 2,
            value["rope_theta"],
            value["factor"],
            value["low_freq_factor"],
            value["high_freq_factor"],
            value["original_max_position_embeddings"],
        )
        for name, key in _LLAMA3.items():
            keys.put(key, value[name] if name == _ORIGINAL else float(value[name]))
    if kind == "longrope" and _same_everywhere(value):
        keys.fields.pop(f"{keys.architecture}.rope.scaling.type")
        keys.factors[FACTORS] = list(value["long_factor"])
    elif kind == "longrope":
        _write_original(value, config, keys)
        keys.factors[LONG] = list(value["long_factor"])
        keys.factors[SHORT] = list(value["short_factor"])
        keys.number("rope.scaling.attn_factor", _longrope_attention(value, config))


def _same_everywhere(value: Any) -> bool:
    """Whether it is a list of factors that holds for every length; see `_by_factors`."""
    same = value["long_factor"] == value["short_factor"] and value.get("attention_factor") == 1
    return bool(same and value.get("factor") == 1)


def _write_original(value: Any, config: Any, keys: Keys) -> None:
    original = value.get("original_max_position_embeddings")
    original = original or getattr(config, "original_max_position_embeddings", None)
    keys.whole("rope.scaling.original_context_length", original or config.max_position_embeddings)


def _longrope_attention(value: Any, config: Any) -> float:
    """What cosines and sines are multiplied with, as `transformers` works it out."""
    if value.get("attention_factor") is not None:
        return float(value["attention_factor"])
    original = value.get("original_max_position_embeddings")
    original = original or getattr(config, "original_max_position_embeddings", None)
    factor = value.get("factor")
    if original:
        factor = config.max_position_embeddings / original
    if not factor or factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(original or config.max_position_embeddings))


ROPE = Setting(rope_parameters, write_rope)
"""The usual way of both."""


def llama3_settings(
    factors: Sequence[float], base: float, known: Sequence[tuple[float, float, int]] = ()
) -> dict[str, Any] | None:
    """The `llama3` parameters behind a list of factors; None where there are none.

    Frequencies of short waves are kept (factor 1), those of long waves divided by
    the largest factor, and those between are blended linearly in the frequency. The
    blend depends only on ratios, so the low factor is 1 unless the published settings
    (1, 4, 8192) reproduce the list.

    Args:
        factors: one per pair of rotary dimensions.
        base: of the rotary frequencies.
        known: low factor, high factor and first context, to be tried first.
    """
    largest = max(factors)
    if largest <= 1:
        return None
    candidates = [*known, (1.0, 4.0, 8192)]
    slopes = _blend(factors, base)
    if slopes is not None:
        slope, offset = slopes  # smooth = slope / wavelength - offset
        candidates.append((1.0, 1.0 + 1.0 / offset, round(slope / offset)))
    for low, high, original in candidates:
        if not high > low:
            continue
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
    if x0 == x1:  # a base of 1 has but one frequency
        return None
    slope = (y1 - y0) / (x1 - x0)
    offset = slope * x0 - y0
    return (slope, offset) if offset > 0 else None

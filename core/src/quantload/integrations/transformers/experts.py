"""Which modules of `transformers` keep experts in 3-D parameters, and what those compute.

Source: `transformers.integrations.moe` (5.0 to 5.23). A class that is decorated with
`use_experts_implementation` says in attributes how its parameters are to be read, and
every implementation that it can be switched to works from these alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from quantload.modules.experts import ExpertsLayout
from quantload.verdict import Verdict

LAST = "down_proj"


def experts_layout(module: nn.Module) -> ExpertsLayout | Verdict | None:
    """How a module keeps experts; a no with the reason where that is not known.

    Returns:
        None for a module that keeps none.
    """
    stacks = {n: p for n, p in module.named_parameters(recurse=False) if p.ndim == 3}
    kind = type(module).__name__
    described = hasattr(type(module), "_apply_gate") and hasattr(module, "is_transposed")
    if not stacks or not (described or "expert" in kind.lower()):
        return None
    if kind == "Llama4TextExperts" and stacks.keys() == {"gate_up_proj", LAST}:
        return _llama4(kind, module, stacks)
    if not described:
        return Verdict.no(f"{kind} computes its experts in a way of its own")
    said: Any = module
    gated = getattr(said, "has_gate", "gate_up_proj" in stacks)
    first = "gate_up_proj" if gated else "up_proj"
    if stacks.keys() != {first, LAST}:
        return Verdict.no(f"{kind} keeps {', '.join(stacks)}; expected {first} and {LAST}")
    layout = ExpertsLayout(
        count=stacks[LAST].shape[0],
        first=first,
        parts=_parts(said, gated),
        last=LAST,
        activation=_gated if gated else _activated,
        transposed=said.is_transposed,
        first_bias=f"{first}_bias" if said.has_bias else "",
        last_bias=f"{LAST}_bias" if said.has_bias else "",
        norm="post_expert_norm" if getattr(said, "has_post_expert_norm", False) else "",
    )
    return _checked(kind, layout, module, stacks)


def _llama4(
    kind: str, module: nn.Module, stacks: dict[str, nn.Parameter]
) -> ExpertsLayout | Verdict:
    """`modeling_llama4`: transposed, no choice is given, and nothing is said in attributes."""
    layout = ExpertsLayout(
        count=stacks[LAST].shape[0],
        first="gate_up_proj",
        parts=("gate_proj", "up_proj"),
        last=LAST,
        activation=_llama4_gate,
        transposed=True,
        blocks=True,
    )
    return _checked(kind, layout, module, stacks)


def _llama4_gate(module: Any, inner: Tensor) -> Tensor:
    gate, up = inner.chunk(2, dim=-1)
    found: Tensor = up * module.act_fn(gate)
    return found


def _parts(said: Any, gated: bool) -> tuple[str, ...]:
    if not gated:
        return ("up_proj",)
    # Interleaved rows of gate and up are those of one matrix.
    return ("gate_proj", "up_proj") if getattr(said, "is_concatenated", True) else ("gate_up_proj",)


def _checked(
    kind: str, layout: ExpertsLayout, module: nn.Module, stacks: dict[str, nn.Parameter]
) -> ExpertsLayout | Verdict:
    inner, outer = stacks[layout.first].shape, stacks[layout.last].shape
    if layout.transposed:
        inner, outer = inner[:1] + inner[:0:-1], outer[:1] + outer[:0:-1]
    width = inner[1] // 2 if layout.first == "gate_up_proj" else inner[1]
    if tuple(outer) != (inner[0], outer[1], width) or inner[0] != layout.count:
        shapes = ", ".join(f"{name} {list(p.shape)}" for name, p in stacks.items())
        return Verdict.no(
            f"{kind} keeps parameters of shapes that do not belong together: {shapes}"
        )
    known = {layout.first, layout.last, layout.first_bias, layout.last_bias}
    others = [name for name, _ in module.named_parameters(recurse=False) if name not in known]
    if others:
        return Verdict.no(f"{kind} keeps {', '.join(others)}, whose use is not known")
    return layout


def _gated(module: Any, inner: Tensor) -> Tensor:
    found: Tensor = module._apply_gate(inner)
    return found


def _activated(module: Any, inner: Tensor) -> Tensor:
    found: Tensor = module.act_fn(inner)
    return found

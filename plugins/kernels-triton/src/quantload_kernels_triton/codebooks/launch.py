"""Launching the kernels of weights made of codebook entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload_kernels_triton.codebooks.jit.few_rows import few_rows
from quantload_kernels_triton.codebooks.jit.many_rows import decoded, many_rows, reordered
from quantload_kernels_triton.codebooks.plans import MOST_FEW, Plan, fitted, plan_for
from quantload_kernels_triton.launching import (
    FIRST,
    HALVES,
    PTX,
    add_up,
    launch_options,
    on_device_of,
    overlaps,
)

_REORDERED_AT_ONCE = 1024
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Coded:
    """A weight as the kernels take it; see `operators.codebooks_linear`."""

    codes: Tensor
    books: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.codes.shape[0], self.codes.shape[1] * 8

    @property
    def per_row(self) -> int:
        """Codes of a row."""
        return self.codes.shape[1] * self.codes.shape[2]

    @property
    def pairs(self) -> bool:
        """Whether codes are read two at a time."""
        narrow = self.codes.dtype == torch.int8 and self.codes.shape[2] in (1, 2, 4)
        return narrow and self.per_row % 2 == 0

    def settings(self) -> dict[str, Any]:
        """What the kernels are compiled for."""
        count, entries = self.books.shape[:2]
        whole = count in (1, 2, 4)
        return {
            "KV": count if whole else 1,
            "KL": 1 if whole else count,
            "ENTRIES": entries,
            "PAIRS": self.pairs,
            "FIRST": FIRST,
        }

    def read(self) -> tuple[Tensor, int]:
        """Codes as they are read, and how many a row has."""
        flat = self.codes.view(self.codes.shape[0], -1)
        return (flat.view(torch.int16), self.per_row // 2) if self.pairs else (flat, self.per_row)

    def words(self) -> tuple[Tensor, int]:
        """Words of the codes of eight columns and bits of a code; codes and 0 without such."""
        dtype = _WORDS.get(self.codes.shape[2] * self.codes.itemsize)
        if dtype is None:
            return self.codes, 0
        return self.codes.view(dtype), 8 * self.codes.itemsize


def plan_of(rows: int, weight: Coded) -> Plan:
    """The plan for so many rows of activations."""
    return plan_for(weight.books.shape[0], weight.shape[0], rows)


def linear(x: Tensor, weight: Coded, plan: Plan | None = None) -> Tensor:
    """`x @ W.T` for x `[rows, in_features]`; `plan` overrides the tables."""
    rows = x.shape[0]
    if rows == 0:
        return x.new_empty((0, weight.shape[0]))
    with on_device_of(x):
        if x.dtype not in HALVES:
            return F.linear(x, decode(weight, x.dtype))
        plan = fitted(plan, weight.books.shape[0]) if plan else plan_of(rows, weight)
        if plan.kernel == "few" and rows <= MOST_FEW:
            return _few(x, weight, plan)
        if plan.kernel == "decoded":
            return F.linear(x, decode(weight, x.dtype))
        return _many(x, weight, plan)


def decode(weight: Coded, dtype: torch.dtype) -> Tensor:
    """The weight as a matrix `[out_features, in_features]`, rounded once from float32."""
    if dtype not in (*HALVES, torch.float32):
        return decode(weight, torch.float32).to(dtype)
    rows, columns = weight.shape
    out = torch.empty((rows, columns), dtype=dtype, device=weight.codes.device)
    rows_at_once, groups = 4, 128
    words, bits = weight.words()
    with on_device_of(out):
        decoded[(-(-columns // (8 * groups)), -(-rows // rows_at_once))](
            words,
            weight.books,
            weight.scales,
            out,
            columns,
            rows,
            COUNT=weight.books.shape[0],
            ENTRIES=weight.books.shape[1],
            BITS=bits,
            RB=rows_at_once,
            GB=groups,
            num_warps=4,
            num_stages=1,
        )
    return out


def _few(x: Tensor, weight: Coded, plan: Plan) -> Tensor:
    rows = x.shape[0]
    out, into = weight.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty((rows, out))
    codes, per_row = weight.read()
    width = 32 * plan.groups * plan.warps
    few_rows[(-(-out // (16 * plan.tiles)),)](
        x,
        codes,
        weight.books,
        weight.scales,
        y,
        rows,
        into,
        out,
        x.stride(0),
        per_row,
        **weight.settings(),
        G=plan.groups,
        MASKED=into % width != 0,
        R=plan.tiles,
        N8=1 if rows <= 8 else 2 if rows <= 16 else 4,
        W=plan.warps,
        AHEAD=plan.ahead,
        num_warps=plan.warps,
        num_stages=1,
    )
    return y


def _many(x: Tensor, weight: Coded, plan: Plan) -> Tensor:
    rows = x.shape[0]
    out, into = weight.shape
    codes, per_row = weight.read()
    depth = 32 * plan.groups
    blocks = -(-into // depth)
    each = -(-blocks // plan.parts)
    parts = -(-blocks // each)
    overlap = overlaps(x.device)
    x = _reordered(x, plan.groups, blocks * depth, overlap)
    y = x.new_empty((rows, out))
    result = y if parts == 1 else y.new_empty((parts, *y.shape), dtype=torch.float32)
    many_rows[(-(-rows // plan.rows), -(-out // (16 * plan.warps)), parts)](
        x,
        codes,
        weight.books,
        weight.scales,
        result,
        rows,
        into,
        out,
        x.stride(0),
        per_row,
        each,
        **weight.settings(),
        G=plan.groups,
        ROWS=plan.rows,
        W=plan.warps,
        AHEAD=plan.ahead,
        OVERLAP=overlap,
        FINISHED=PTX,
        num_warps=plan.warps,
        num_stages=1,
        **launch_options(overlap),
    )
    return add_up(result, y, False)


def _reordered(x: Tensor, groups: int, padded: int, overlap: bool) -> Tensor:
    """See `jit.many_rows.reordered`."""
    x = x if x.stride(1) == 1 else x.contiguous()
    out = x.new_empty((x.shape[0], padded))
    reordered[(-(-padded // _REORDERED_AT_ONCE), x.shape[0])](
        x,
        out,
        x.shape[1],
        x.stride(0),
        padded,
        G=groups,
        OVERLAP=overlap,
        BLOCK=_REORDERED_AT_ONCE,
        num_warps=4,
    )
    return out

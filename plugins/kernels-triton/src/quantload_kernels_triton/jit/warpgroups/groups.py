"""Which group columns belong to, in Gluon."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def group_at(
    column,
    segments,
    columns,
    groups,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    LISTED: gl.constexpr,
):
    """See `groups.group_of`."""
    if LISTED:
        group = gl.load(segments + gl.minimum(column, columns - 1) // RUN)
    elif GROUP == 0:
        group = column * 0
    else:
        group = gl.minimum(column // GROUP, groups - 1)
    return group

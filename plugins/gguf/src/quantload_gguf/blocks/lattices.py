"""The lattices of the IQ types, from the `gguf` package, and what goes with them."""

from __future__ import annotations

import torch
from torch import Tensor

from quantload_gguf.blocks.fields import table


def _grid(name: str) -> Tensor:
    from gguf import quants

    holder = getattr(quants, name)
    holder.init_grid()
    points: Tensor = torch.from_numpy(holder.grid.reshape(holder.grid_shape).copy())
    return points


def iq2_xxs_grid() -> Tensor:
    """256 points of 8 coordinates, float32."""
    return _grid("IQ2_XXS")


def iq2_xs_grid() -> Tensor:
    """512 points of 8 coordinates."""
    return _grid("IQ2_XS")


def iq2_s_grid() -> Tensor:
    """1024 points of 8 coordinates."""
    return _grid("IQ2_S")


def iq3_xxs_grid() -> Tensor:
    """256 points of 4 coordinates."""
    return _grid("IQ3_XXS")


def iq3_s_grid() -> Tensor:
    """512 points of 4 coordinates."""
    return _grid("IQ3_S")


def iq1_grid() -> Tensor:
    """2048 points of 8 coordinates, each -1, 0 or 1."""
    return _grid("IQ1_S")


def byte_signs() -> Tensor:
    """The signs a byte of bits stands for, float32 `[256, 8]`: -1 for a set bit."""
    return table([[-1.0 if byte >> i & 1 else 1.0 for i in range(8)] for byte in range(256)])


def even_signs() -> Tensor:
    """Eight signs from seven bits, float32 `[128, 8]`: the number of minuses is even."""
    parity = [index.bit_count() & 1 for index in range(128)]
    return byte_signs()[[index | odd << 7 for index, odd in enumerate(parity)]]


def iq4_values() -> Tensor:
    """The sixteen levels of IQ4_NL and IQ4_XS, float32."""
    levels = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
    return table([float(level) for level in levels])

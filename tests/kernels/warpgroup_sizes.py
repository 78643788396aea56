"""Sizes of the kernels of warpgroups that are tested, as a plan has them."""

from __future__ import annotations

SIZES = (
    {"stack": 2, "rows": 128, "stages": 6},
    {"stack": 2, "rows": 256, "stages": 4},
    {"stack": 4, "rows": 64, "stages": 8},
    {"stack": 3, "rows": 128, "stages": 6},
    {"stack": 1, "ways": 4, "rows": 64, "stages": 8},
    {"stack": 2, "ways": 2, "rows": 64, "stages": 8},
    {"stack": 1, "ways": 3, "rows": 128, "stages": 6},
    {"stack": 1, "ways": 2, "rows": 128, "stages": 8},
    {"stack": 1, "ways": 2, "rows": 256, "stages": 4},
)

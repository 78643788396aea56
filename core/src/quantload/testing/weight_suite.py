"""`WeightSuite`: bytes in and out, copies, casts, moves, and products against float64."""

from __future__ import annotations

from quantload.testing.weight_bytes import WeightBytes
from quantload.testing.weight_changes import WeightChanges
from quantload.testing.weight_numbers import WeightNumbers


class WeightSuite(WeightBytes, WeightNumbers, WeightChanges):
    """What every packed weight owes, whatever method made it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import quantload

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def rowwise() -> Iterator[None]:
    """The method `rowwise`, registered for one test."""
    from rowwise import RowwiseConfig, RowwiseQuantizer

    with quantload.register("rowwise", config=RowwiseConfig, quantizer=RowwiseQuantizer):
        yield

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import quantload
from quantload.plugin import API, QuantizerPlugin

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def rowwise() -> Iterator[None]:
    """The method `rowwise`, registered for one test."""
    from rowwise import RowwiseConfig, RowwiseQuantizer

    plugin = QuantizerPlugin(
        api=API, config=RowwiseConfig, quantizer=RowwiseQuantizer, devices=("cpu", "cuda")
    )
    with quantload.register("rowwise", plugin):
        yield

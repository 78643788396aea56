"""Tests of mixtures of experts share the modules of this folder."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

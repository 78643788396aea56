from __future__ import annotations

import sys
from pathlib import Path

import pytest

import quantload

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def toy_pack():
    """The toy kernels, registered for one test."""
    from toy import PACK

    with quantload.register("toy-pack", PACK):
        yield

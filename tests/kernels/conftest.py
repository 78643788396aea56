"""What the tests of the kernels share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def kernel():
    pytest.importorskip("triton")
    from quantload_kernels_triton import TritonAffine

    return TritonAffine()

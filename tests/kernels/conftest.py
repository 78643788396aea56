"""Without a CUDA device the kernels run in triton's interpreter, which must be said before they
are imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def kernel():
    pytest.importorskip("triton")
    from quantload_kernels_triton import TritonAffine

    return TritonAffine()

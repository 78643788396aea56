"""What the tests of the CPU kernels share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items):
    from quantload_kernels_cpu.availability import machine_verdict

    verdict = machine_verdict()
    for item in items:
        if not verdict and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=str(verdict)))

"""What all tests share: no network, the demo model, and GPU tests that skip in plain sight."""

from __future__ import annotations

import os

# Read by huggingface_hub and tokenizers when they are imported, so before any test is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Read by triton when it is imported, which any test that compiles may bring about.
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / "tests" / "data" / "stdlib-llama-4m"

_NO_GPU = "needs a CUDA device, and there is none"


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Folder of the float demo model: a real Llama of 4.2 million parameters, bf16."""
    return DEMO_MODEL


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=_NO_GPU))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(_NO_GPU in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} GPU tests did not run: no CUDA device here")

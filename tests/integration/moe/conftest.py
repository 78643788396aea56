"""Tests of mixtures of experts share the modules of this folder."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
sys.path[:0] = [str(Path(__file__).parent)]
from making import METHODS, SOME, Packed, make  # noqa: E402  found by the line above
from models import original  # noqa: E402  likewise

KINDS = ("mixtral", "qwen2-moe", "qwen3-moe")


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of float models that `save_pretrained` wrote."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind)
        original(kind).save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="session")
def made() -> dict[Any, Packed]:
    """What was made already: kind and method -> kind, model, its folder, the float one."""
    return {}


@pytest.fixture(params=[(kind, method) for kind in KINDS for method in METHODS], ids="-".join)
def packed(request: Any, made: Any, originals: Any, tmp_path_factory: Any) -> Packed:
    """Every model by every method: quantized while loading, and saved."""
    return make(made, originals, tmp_path_factory, *request.param)


@pytest.fixture(params=SOME, ids="-".join)
def one(request: Any, made: Any, originals: Any, tmp_path_factory: Any) -> Packed:
    """Every model by one method."""
    return make(made, originals, tmp_path_factory, *request.param)

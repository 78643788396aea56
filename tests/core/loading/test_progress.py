"""Progress: bytes, only where somebody is looking."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from nets import real, skeleton, tensors_of, write

from quantload import load_into, open_checkpoint


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, tensors_of(real()))


def test_a_function_hears_every_byte(folder: Path) -> None:
    heard: list[tuple[int, int]] = []
    load_into(skeleton(), folder, progress=lambda done, total: heard.append((done, total)))
    total = open_checkpoint(folder).nbytes
    assert heard[-1] == (total, total)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert {t for _, t in heard} == {total}


def test_it_is_quiet_where_nobody_looks(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_into(skeleton(), folder)
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for how, shown in ((None, True), (False, False), (True, True)):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        load_into(skeleton(), folder, progress=how)
        assert ("loading" in screen.getvalue()) is shown
        assert ("B/s" in screen.getvalue()) is shown


@pytest.mark.parametrize(("value", "shown"), [("0", False), ("1", True)])
def test_the_environment_decides_where_the_caller_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str, shown: bool
) -> None:
    monkeypatch.setenv("QUANTLOAD_PROGRESS", value)
    screen = io.StringIO() if shown else Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    load_into(skeleton(), folder)
    assert ("loading" in screen.getvalue()) is shown


def test_an_error_in_the_function_ends_the_load(folder: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise OSError("nobody there")

    module = skeleton()
    with pytest.raises(OSError, match="nobody there"):
        load_into(module, folder, progress=fail)
    assert all(p.is_meta for p in module.parameters())
    assert torch.device("meta") == module.head.weight.device

"""Which machines are served, and where compiled code is kept."""

from __future__ import annotations

import platform
import stat
import subprocess
import sys
import textwrap

import pytest
import torch

from quantload.kernels import KernelSpec
from quantload_kernels_cpu import availability, compiler, settings
from quantload_kernels_cpu.ggml import CpuBlocks


def spec(**changes):
    facts = {
        "layout": "ggml",
        "device": torch.device("cpu"),
        "capability": (0, 0),
        "dtype": torch.float32,
        "shape": (32, 64),
        "params": {"ggml_type": "Q8_0"},
    }
    return KernelSpec(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layout": "affine"}, "ggml blocks"),
        ({"device": torch.device("cuda")}, "on cpu, not on cuda"),
        ({"dtype": torch.float64}, "not in float64"),
        ({"shape": (4, 32, 64)}, "matrices"),
        ({"params": {"ggml_type": "F64"}}, "no code for F64"),
    ],
)
def test_it_says_what_it_does_not_run(changes, reason):
    assert CpuBlocks().supports(spec())
    verdict = CpuBlocks().supports(spec(**changes))
    assert not verdict
    assert reason in verdict.reason


def test_other_machines_are_told_so(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    verdict = availability.machine_verdict.__wrapped__()
    assert not verdict
    assert "riscv64" in verdict.reason


def test_without_llvmlite_torch_runs_and_says_why():
    code = """
        import sys

        sys.modules["llvmlite"] = None
        import torch
        from quantload.kernels import prepare
        from quantload.weights.affine import AffineWeight

        codes = torch.zeros(64, 64, dtype=torch.uint8)
        weight = AffineWeight.from_codes(
            codes, torch.ones(64, 1), bits=4, group_size=64, dtype=torch.bfloat16
        )
        selection = prepare(weight)
        assert not selection.chosen.startswith("cpu-"), selection.chosen
        print(selection)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def constant(number):
    def write(module, name):
        from quantload_kernels_cpu.emit.function import Writer

        writer = Writer(module, name, ("place",))
        writer.store(writer.number(number), writer["place"])
        writer.finish()

    return write


def call(address):
    import ctypes

    answer = (ctypes.c_int64 * 1)()
    arguments = (ctypes.c_int64 * 1)(ctypes.addressof(answer))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(arguments))
    return answer[0]


def test_compiled_code_is_kept_for_the_next_process(monkeypatch, tmp_path):
    folder = tmp_path / "kept"
    monkeypatch.setenv("QUANTLOAD_CPU_CACHE", str(folder))
    assert call(compiler.address("probe", constant(7))) == 7
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Had it been compiled again, it would have given the other number.
    assert call(compiler.address("probe", constant(8))) == 7
    damaged = bytearray(file.read_bytes())
    damaged[40] ^= 255
    file.write_bytes(damaged)
    assert call(compiler.address("probe", constant(8))) == 8
    file.write_bytes(b"")
    assert call(compiler.address("probe", constant(9))) == 9


def test_nothing_is_kept_where_that_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTLOAD_CPU_CACHE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert call(compiler.address("probe", constant(7))) == 7
    assert call(compiler.address("probe", constant(8))) == 8
    assert not list(tmp_path.iterdir())


def test_a_folder_that_others_may_write_to_is_not_used(monkeypatch, tmp_path):
    tmp_path.chmod(0o777)
    monkeypatch.setenv("QUANTLOAD_CPU_CACHE", str(tmp_path))
    assert settings.cache_folder() is None
    tmp_path.chmod(0o700)
    assert settings.cache_folder() == tmp_path


def test_a_folder_that_cannot_be_made_is_no_harm(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QUANTLOAD_CPU_CACHE", str(tmp_path / "file" / "kept"))
    assert call(compiler.address("probe", constant(7))) == 7

"""GGUF and AQLM with triton, or the pack of its kernels, out of reach."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("quantload_gguf")
pytest.importorskip("quantload_aqlm")


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WEIGHTS = """
    import torch
    from quantload.kernels import KernelSpec, prepare, select
    from quantload_aqlm import AqlmWeight
    from quantload_gguf import GgufWeight

    ggml = GgufWeight.from_blocks(torch.zeros(16, 34, dtype=torch.uint8), "Q8_0")
    codes = torch.zeros(16, 4, 2, dtype=torch.int8)
    books, scales = torch.ones(2, 256, 1, 8), torch.ones(16, 1, 1, 1)
    aqlm = AqlmWeight(codes, books, scales, torch.float32)
    for weight in (ggml, aqlm):
        prepare(weight)
        assert weight(torch.ones(2, weight.shape[1])).shape == (2, 16)
        asked = KernelSpec.of(weight)
        on_cuda = KernelSpec(
            asked.layout, torch.device("cuda"), (9, 0), torch.float16, asked.shape, asked.params
        )
        kernel, selection = select(on_cuda)
        assert kernel is None, kernel
        print(selection)
"""


def test_without_triton_the_reference_runs_and_says_why():
    said = run_python("import sys; sys.modules['triton'] = None\n" + textwrap.dedent(WEIGHTS))
    assert said.count("triton cannot be imported") >= 2


def test_without_the_pack_the_reference_runs_and_says_why():
    hidden = """
    import importlib.metadata as metadata

    found = metadata.distribution

    def distribution(name):
        if name == "quantload-kernels-triton":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    metadata.distribution = distribution
    version = metadata.version
    metadata.version = lambda name: distribution(name).version
    """
    said = run_python(textwrap.dedent(hidden) + textwrap.dedent(WEIGHTS))
    assert said.count("quantload-kernels-triton") >= 2


def test_the_descriptors_import_neither_torch_nor_triton():
    said = run_python(
        "import quantload_gguf.kernels, quantload_aqlm.plugin, sys;"
        "print(sorted({'torch', 'triton', 'quantload_kernels_triton'} & set(sys.modules)))"
    )
    assert said.strip() == "[]"

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from makers import make_weight

import quantload
from quantload.kernels import KernelSpec, select
from quantload_kernels_triton.plugin import PACK

HOPPER = (9, 0)
CUDA = torch.device("cuda")


def spec_of(weight, **changes):
    spec = KernelSpec.of(weight, torch.device("cpu"))
    fields = {**vars(spec), "device": CUDA, "capability": HOPPER, **changes}
    return KernelSpec(**fields)


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_it_runs(kernel, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for bits in (2, 3, 4, 8):
        assert kernel.supports(spec_of(make_weight(bits, 16, 256, 128)))
    assert kernel.supports(spec_of(make_weight(4, 16, 288, 128)))
    assert kernel.supports(spec_of(make_weight(4, 16, 256, 64, act_order="uneven")))


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        ((4, 16, 256, 128), {"device": torch.device("cpu")}, "cuda"),
        ((4, 16, 256, 128), {"capability": (7, 5)}, "8.0"),
        ((4, 16, 256, 128), {"dtype": torch.float32}, "float32"),
        ((4, 16, 256, 128), {"layout": "toy"}, "toy"),
        ((5, 16, 256, 128), {}, "not 5"),
        ((4, 16, 256, 16), {}, "groups of 16"),
        ((4, 16, 250, 128), {}, "250 columns"),
    ],
)
def test_a_no_says_why(kernel, monkeypatch, make, changes, words):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    verdict = kernel.supports(spec_of(make_weight(*make), **changes))
    assert not verdict
    assert words in verdict.reason


def test_float_offsets_are_no_obstacle(kernel, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernel.supports(spec_of(make_weight(4, 16, 256, 128, offsets=torch.float32)))


def test_the_selector_finds_the_pack_and_reports_it(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("QUANTLOAD_KERNEL", raising=False)
    with quantload.register("triton-for-test", PACK):
        kernel, selection = select(spec_of(make_weight(4, 16, 256, 128)))
    assert kernel is not None
    assert selection.chosen == "triton"
    assert selection.report[-1][1]


def test_the_descriptor_imports_neither_torch_nor_triton():
    loaded = run_python("""
        import sys
        from quantload_kernels_triton.plugin import PACK
        print(sorted({"torch", "triton"} & set(sys.modules)))
    """)
    assert loaded == "[]"


def test_without_triton_everything_imports_and_the_verdict_says_so():
    """Every module but those that hold kernels or launch them."""
    said = run_python("""
        import importlib, pkgutil, sys
        import torch

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "triton":
                    raise ModuleNotFoundError("No module named 'triton'", name="triton")

        for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
            del sys.modules[name]
        sys.meta_path.insert(0, Block())
        import quantload_kernels_triton as pack
        for module in pkgutil.walk_packages(pack.__path__, pack.__name__ + "."):
            if not {"jit", "launch", "launching"} & set(module.name.split(".")):
                importlib.import_module(module.name)
        from quantload.kernels import KernelSpec
        from quantload.weights.affine import AffineWeight
        weight = AffineWeight.empty((16, 256), torch.float16, bits=4, group_size=128)
        spec = KernelSpec("affine", torch.device("cuda"), (9, 0), torch.float16, (16, 256),
                          weight.kernel_params())
        from quantload.registry import registry
        from quantload.kernels import select
        kernel, selection = select(spec)
        print(pack.TritonAffine().supports(spec))
        print(selection.chosen, dict(selection.report).get("triton"))
    """)
    first, second = said.splitlines()[-2:]
    assert first.startswith("no: triton cannot be imported")
    assert second.startswith("reference")


def test_an_old_triton_is_a_reason(monkeypatch):
    from quantload_kernels_triton import availability

    monkeypatch.setattr(availability, "version", lambda: (3, 4))
    verdict = availability.triton_verdict()
    assert not verdict
    assert "3.5" in verdict.reason
    assert verdict.fix

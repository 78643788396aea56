"""HQQ as a stranger would publish it: found by its entry point, right, and unknown to the core."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "core" / "support"))

from _perplexity import held_out_windows, perplexity  # noqa: E402  the support comes first
from own_tests import run_tests  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from wheels import Environment, build  # noqa: E402

import quantload  # noqa: E402
from quantload.testing import fake_distribution  # noqa: E402

PROJECT = ROOT / "examples" / "third_party_plugin"
SOURCES = PROJECT / "src"
WINDOWS = 2


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The package, as far as discovery can tell; what goes into a PYTHONPATH for it."""
    monkeypatch.syspath_prepend(str(SOURCES))
    with fake_distribution(
        "quantload-hqq",
        version="0.1.0",
        quantizers={"hqq": "quantload_hqq.plugin:PLUGIN"},
        exports={"HqqConfig": "quantload_hqq.config:HqqConfig"},
    ) as fake:
        yield os.pathsep.join([str(fake.path), str(SOURCES)])
    for name in [n for n in sys.modules if n.partition(".")[0] == "quantload_hqq"]:
        del sys.modules[name]
    vars(quantload).pop("HqqConfig", None)


def test_nothing_here_knows_its_name() -> None:
    for path in (*ROOT.glob("core/src/**/*"), *ROOT.glob("plugins/*/src/**/*")):
        if path.suffix in {".py", ".json", ".toml", ".tmpl"}:
            assert "hqq" not in path.read_text(encoding="utf-8").lower(), path


def test_it_depends_on_the_published_core_alone() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    assert 'dependencies = ["quantload>=0.1,<0.2", "torch>=2.8"]' in text
    surface = {"quantload.plugin", "quantload.testing", "quantload"}
    for path in SOURCES.rglob("*.py"):
        for name in re.findall(
            r"^\s*(?:from|import) (quantload[\w.]*)", path.read_text(), re.MULTILINE
        ):
            assert name in surface or name.startswith("quantload_hqq"), f"{path.name}: {name}"


def test_it_reads_what_hqq_wrote_and_passes_the_suites(installed: str) -> None:
    said = run_tests(
        PROJECT, "-k", "originals or TestConfig or TestQuantizer", PYTHONPATH=installed
    )
    assert re.search(r"\d{3} passed", said)


@pytest.mark.parametrize(
    ("nbits", "group_size"), [(4, 64), pytest.param(3, 64, marks=pytest.mark.slow), (2, 16)]
)
def test_fitted_zero_points_predict_better_than_rounding(
    installed: str, demo_model: Path, nbits: int, group_size: int
) -> None:
    windows = held_out_windows(demo_model, AutoTokenizer.from_pretrained(demo_model), WINDOWS)
    found = {}
    for optimize in (False, True):
        config = quantload.HqqConfig(nbits=nbits, group_size=group_size, optimize=optimize)
        model = quantload.load_model(demo_model, quantization_config=config, progress=False)
        found[optimize] = perplexity(model, windows)
    assert found[True] < 0.99 * found[False], found


def test_a_model_is_saved_in_the_form_that_others_read(
    installed: str, demo_model: Path, tmp_path: Path
) -> None:
    config = {"quant_method": "hqq", "nbits": 4, "group_size": 64}
    model = quantload.load_model(demo_model, quantization_config=config, progress=False)
    quantload.save_model(model, tmp_path)
    saved = quantload.AutoQuantizationConfig.from_pretrained(tmp_path)
    stored = saved.to_dict()
    assert stored["quant_config"]["weight_quant_params"]["nbits"] == 4
    assert stored["skip_modules"] == ["lm_head"]
    with quantload.open_checkpoint(tmp_path) as opened:
        layer = "model.layers.0.mlp.up_proj"
        names = {n.removeprefix(f"{layer}.") for n in opened.tensors if n.startswith(f"{layer}.")}
    assert {"W_q", "scale", "zero", "nbits", "shape", "encoded_state_dict"} <= names
    again = quantload.load_model(tmp_path, progress=False)
    weight = model.get_submodule(layer).weight
    before = weight.canonical().storage()
    after = again.get_submodule(layer).weight.canonical().storage()
    assert weight.layout == "affine", "it shares the layout, and so the kernels, of GPTQ and AWQ"
    assert set(before) == set(after) == {"codes", "scales", "offsets"}
    assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.wheels
def test_its_wheel_passes_all_of_its_tests_where_it_is_installed(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env")
    environment.borrow()
    environment.install(build(ROOT / "core", tmp_path), build(PROJECT, tmp_path))
    said = environment.execute("from quantload import HqqConfig; print(HqqConfig(nbits=3).nbits)")
    assert said.strip() == "3"
    assert re.search(r"\d{3} passed", run_tests(PROJECT, python=environment.python, PYTHONPATH=""))

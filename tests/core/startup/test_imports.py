"""What importing and asking costs: no torch, and little time."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "transformers", "numpy", "accelerate", "safetensors", "pytest", "rich", "typer")


def child(code: str, *arguments: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_after(code: str) -> set[str]:
    tail = f"\nimport sys\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    return set(child(code + tail).split())


@pytest.mark.parametrize(
    "code",
    [
        "import quantload",
        "import quantload; quantload.errors; quantload.Verdict; quantload.QuantloadError",
        "from quantload import AutoHfQuantizer, AutoQuantizationConfig, QuantizationConfig",
        "from quantload.quantizers import AutoHfQuantizer, WeightQuantizer, ModuleSpec",
        "from quantload import HfQuantizer, WeightQuantizer, register, refresh",
        "import quantload.plugin; quantload.plugin.QuantizerPlugin; quantload.plugin.Verdict",
        "from quantload.plugin import QuantizationConfig, option, DtypeField, ModuleSpec",
        "import quantload.testing; quantload.testing.fake_distribution",
        "import quantload; dir(quantload); dir(quantload.plugin)",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert loaded_after(code) == set()


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "nobodys"},
        {"quant_method": "../../x"},
        {},
        {"nobodys_key": True},
        None,
    ],
)
def test_an_error_of_resolution_needs_no_torch(config):
    code = f"""
import quantload
for ask in (quantload.AutoHfQuantizer.from_config, quantload.AutoQuantizationConfig.from_dict):
    try:
        ask({config!r})
    except quantload.QuantloadError as error:
        str(error)
    else:
        raise SystemExit("no error")
"""
    assert loaded_after(code) == set()


def test_a_config_and_its_merging_need_no_torch():
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "core" / "support")!r})
import quantload, stub_plugin
with quantload.register("stub", stub_plugin.PLUGIN):
    auto = quantload.AutoHfQuantizer
    auto.from_config({{"quant_method": "stub", "compute_dtype": "bfloat16"}}).is_available()
    auto.merge_quantization_configs({{"quant_method": "stub"}}, stub_plugin.StubConfig(backend="x"))
    assert auto.supports_quant_method({{"quant_method": "stub"}})
"""
    assert loaded_after(code) == set()


def test_reading_the_config_of_a_folder_needs_no_torch(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "nobodys"}}')
    code = f"""
import quantload
try:
    quantload.AutoHfQuantizer.from_pretrained({str(tmp_path)!r})
except quantload.UnknownMethodError:
    pass
"""
    assert loaded_after(code) == set()


def test_importing_costs_less_than_sixty_milliseconds_of_cpu():
    """The target of the project; medians, for the machine may be busy."""

    def cpu(code: str) -> float:
        tail = "\nimport time; print(time.process_time())"
        return statistics.median(float(child(code + tail)) for _ in range(7))

    assert cpu("import quantload") - cpu("pass") < 0.060

"""The snippets the project grew from run as they stand, but for the names of their models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import quantload
from quantload.plugin import PackedWeight

FOLDER = Path(__file__).resolve().parents[1] / "data" / "seed_snippets"
SNIPPETS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt"))}
FLOAT = ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf")
PACKED: dict[str, dict[str, Any]] = {
    "TheBloke/Llama-2-7B-GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "TheBloke/Llama-2-7B-AWQ": {"quant_method": "awq", "bits": 4, "group_size": 128},
}
METHODS = {
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "load_gptq": "gptq",
    "load_awq": "awq",
}
PRINTED = {
    "load_in_4bit": "Model memory footprint: 0.00 GB",
    "direct_quantizer": "Supports bitsandbytes quantization\nQuantizer is ready to use",
    "memory_footprints": "4-bit quantization: 0.00 GB\n8-bit quantization: 0.01 GB",
}


@pytest.fixture(autouse=True)
def bridge() -> Iterator[None]:
    with quantload.enable_transformers():
        yield


@pytest.fixture(scope="module")
def local(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name in the snippets -> a folder on this machine that holds the same kind of model."""
    found = dict.fromkeys(FLOAT, str(demo_model))
    for name, config in PACKED.items():
        folder = tmp_path_factory.mktemp(config["quant_method"])
        quantload.save_model(quantload.load_model(demo_model, quantization_config=config), folder)
        found[name] = str(folder)
    return found


def test_all_six_are_here() -> None:
    assert len(SNIPPETS) == 6


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs_verbatim(
    name: str, local: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = SNIPPETS[name]
    for hub, folder in local.items():
        source = source.replace(f'"{hub}"', repr(folder))
    assert "Llama-2" not in source
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, f"{name}.py", "exec"), namespace)
    assert PRINTED.get(name, "") in capsys.readouterr().out
    if name in METHODS:
        model = namespace["model"]
        assert model.hf_quantizer.quant_method == METHODS[name]
        assert sum(isinstance(module, PackedWeight) for module in model.modules()) == 28

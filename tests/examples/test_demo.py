"""The demo: its protocol gives the published figure, and it shows every installed method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
from _perplexity import CONTEXT, FULL, held_out_windows, perplexity
from _plot import plot
from transformers import AutoTokenizer

import quantload
from quantload.registry.records import QUANTIZERS
from quantload.registry.resolver import registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo prints over two windows, and the folder it writes to."""
    out = tmp_path_factory.mktemp("demo")
    script = str(ROOT / "examples" / "demo.py")
    done = subprocess.run(
        [sys.executable, script, "--windows", "2", "--out", str(out)],
        env={**os.environ, "COLUMNS": "140"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout, out


def test_windows_share_one_token_and_follow_each_other(demo_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    windows = held_out_windows(demo_model, tokenizer, 3)
    assert windows.shape == (3, CONTEXT + 1)
    assert windows[0, 0] == tokenizer.bos_token_id
    assert torch.equal(windows[:-1, -1], windows[1:, 0])


def test_more_windows_than_there_are_is_an_error(demo_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    with pytest.raises(ValueError, match="held-out windows"):
        held_out_windows(demo_model, tokenizer, 10**6)


def test_the_whole_protocol_gives_the_published_perplexity(demo_model: Path) -> None:
    published = json.loads((demo_model / "eval.json").read_text())
    assert published["sequences"] == FULL
    model = quantload.load_model(demo_model, dtype=torch.float32).eval()
    windows = held_out_windows(demo_model, AutoTokenizer.from_pretrained(demo_model))
    assert perplexity(model, windows) == pytest.approx(published["held_out_ppl_bf16"], rel=2e-3)


def test_every_config_that_a_plugin_publishes_is_a_row(demo: tuple[str, Path]) -> None:
    printed, out = demo
    rows = {row["label"]: row for row in json.loads((out / "demo.json").read_text())["rows"]}
    published = {
        label
        for record in registry.records(QUANTIZERS)
        for label in registry.resolve(record.name).plugin.demo
    }
    assert published, "no plugin publishes anything for the demo"
    assert published <= set(rows)
    for label, row in rows.items():
        assert label in printed
        assert not row["problem"]


def test_quantized_rows_are_smaller_and_still_speak(demo: tuple[str, Path]) -> None:
    rows = json.loads((demo[1] / "demo.json").read_text())["rows"]
    whole = rows[0]["figures"]
    for row in rows[1:]:
        if row["figures"]:
            assert row["figures"]["weights_mb"] < 0.9 * whole["weights_mb"]
            assert row["figures"]["perplexity"] < 10 * whole["perplexity"]  # uniform: 4096
            assert row["figures"]["text"].startswith("def read_json(path):")


def test_the_plot_is_a_picture(demo: tuple[str, Path]) -> None:
    from PIL import Image

    with Image.open(demo[1] / "demo.png") as picture:
        assert picture.size[0] >= 1000
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_a_method_that_fails_is_named_and_fails_the_demo(tmp_path: Path) -> None:
    folder = tmp_path / "fake-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[quantload.quantizers]\nfake = absent_module:PLUGIN\n"
    )
    script = str(ROOT / "examples" / "demo.py")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "QUANTLOAD_ALLOW": "fake", "COLUMNS": "140"}
    done = subprocess.run(
        [sys.executable, script, "--windows", "1", "--out", str(tmp_path / "out")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "absent_module" in done.stdout


def test_crowded_labels_do_not_cover_each_other(tmp_path: Path) -> None:
    rows = {
        f"method {i}": {"weights_mb": 3.7 + i / 100, "perplexity": 9 + i / 30} for i in range(6)
    }
    rows["float"] = {"weights_mb": 8.4, "perplexity": 8.2}
    plot(rows, "float", "a title", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000

"""A real language model in float and with every installed method: `nox -s demo`.

Loads the small Llama of `tests/data/stdlib-llama-4m`, measures each way of loading
it in a process of its own, prints a table and a sample of what each one writes,
and leaves a plot (`demo.png`) and the figures (`demo.json`) in `out/`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from quantload.errors import QuantloadError
from quantload.registry.records import QUANTIZERS
from quantload.registry.resolver import registry

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "tests" / "data" / "stdlib-llama-4m"
FLOAT = "float (bf16)"
FULL = 256

# A row is a process of its own, so that no row profits from what another one left behind.
# On Linux they are forked from one that has imported what the model needs already.
PROCESSES = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    PROCESSES.set_forkserver_preload(["_measure", "transformers.models.llama.modeling_llama"])


@dataclass
class Row:
    """One way to load the model, and what came of it."""

    label: str
    package: str = ""
    checkpoint: Path = MODEL
    config: dict[str, Any] | None = None
    skipped: str = ""
    problem: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def discover(device: str) -> Iterator[Row]:
    """The float model, then what every installed plugin shows of itself, then ready checkpoints."""
    yield Row(FLOAT)
    seen = set()
    for record in registry.records(QUANTIZERS):
        origin = (record.distribution, record.value)
        if origin in seen:  # another name of a plugin that was here already
            continue
        seen.add(origin)
        try:
            found = registry.resolve(record.name)
        except QuantloadError as error:
            yield Row(record.name, record.provider, problem=str(error))
            continue
        able = found.verdict()
        skipped = "" if able else f"{able.reason}; {able.fix}"
        if device not in found.plugin.devices:
            skipped = f"does not run on {device}"
        for label, config in found.plugin.demo.items():
            whole = {"quant_method": record.name, **config}
            yield Row(label, record.provider, config=whole, skipped=skipped)
    for checkpoint in sorted(MODEL.parent.glob(f"{MODEL.name}-*")):
        yield Row(checkpoint.name.removeprefix(f"{MODEL.name}-"), "ready checkpoint", checkpoint)


def measure(row: Row, device: str, windows: int) -> None:
    """Fill in the row's figures, or its problem."""
    task = {
        "checkpoint": str(row.checkpoint),
        "config": row.config,
        "data": str(MODEL),
        "device": device,
        "windows": windows,
    }
    try:
        with ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
            row.figures = pool.submit(run, task).result()
    except Exception as error:  # noqa: BLE001  whatever a method does wrong is what its row says
        row.problem = f"{type(error).__name__}: {error}"


def run(task: dict[str, Any]) -> dict[str, Any]:
    """What the process of a row does."""
    from _measure import measure

    return measure(task)


def table(rows: list[Row], windows: int) -> Table:
    """What was measured, one line a row."""
    share = "all" if windows == FULL else f"{windows} of"
    shown = Table(title="One model, every installed method", title_justify="left")
    shown.add_column("method", no_wrap=True)
    heads = ("weights\nMB", "of\nfloat", "load\ns", "load peak\nMB")
    for name in (*heads, f"perplexity\n{share} {FULL}\nwindows", "tokens\nper s"):
        shown.add_column(name, justify="right", no_wrap=True)
    whole = next((r.figures["weights_mb"] for r in rows if r.label == FLOAT and r.figures), None)
    for row in rows:
        f = row.figures
        if not f:
            outcome = "skipped" if row.skipped else "failed"
            shown.add_row(row.label, *[""] * 4, outcome, "")
            continue
        shown.add_row(
            row.label,
            f"{f['weights_mb']:.2f}",
            f"{f['weights_mb'] / whole:.0%}" if whole else "",
            f"{f['load_s']:.2f}",
            f"{f['load_peak_mb']:.1f}",
            f"{f['perplexity']:.3f}",
            f"{f['tokens_per_s']:.0f}",
        )
    return shown


def report(console: Console, rows: list[Row], device: str, windows: int, out: Path) -> None:
    """Print everything and write the plot and the figures."""
    from _plot import plot

    console.print(table(rows, windows))
    compute = " Perplexity and text are computed in float32." if device == "cpu" else ""
    console.print(
        f"On {device}. Weights: what the model holds once loaded. Load peak: memory over what the "
        f"process held before, imports not counted.{compute} --full takes all {FULL} windows.\n",
        style="dim",
    )
    for row in rows:
        if row.figures:
            title = f"{row.label} ({row.package})" if row.package else row.label
            console.print(Panel(Text(row.figures["text"]), title=title, title_align="left"))
        else:
            why = row.skipped or row.problem
            console.print(Text(f"{row.label}: {why}", "yellow" if row.skipped else "red"))
    measured = {row.label: row.figures for row in rows if row.figures}
    out.mkdir(parents=True, exist_ok=True)
    data = {"device": device, "windows": windows, "rows": [asdict(row) for row in rows]}
    text = json.dumps(data, indent=2, default=str) + "\n"
    (out / "demo.json").write_text(text, encoding="utf-8")
    console.print(f"figures: {out / 'demo.json'}")
    if FLOAT in measured:
        title = f"{MODEL.name}, {windows} held-out windows of 512 tokens"
        plot(measured, FLOAT, title, out / "demo.png")
        console.print(f"plot:    {out / 'demo.png'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=64, help="held-out windows (default 64)")
    parser.add_argument("--full", action="store_true", help=f"all {FULL} windows of the protocol")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where files are written")
    arguments = parser.parse_args()
    windows = FULL if arguments.full else arguments.windows
    if not 1 <= windows <= FULL:
        parser.error(f"--windows: expected 1 to {FULL}, found {windows}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.append(str(ROOT / "benchmarks"))  # where _measure finds its meter
    console = Console()
    rows = list(discover(arguments.device))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(rows))
        for row in rows:
            progress.update(task, description=row.label)
            start = time.perf_counter()
            if not (row.skipped or row.problem):
                measure(row, arguments.device, windows)
            progress.advance(task)
            if not console.is_terminal:  # where no bar moves
                console.print(f"{row.label}: {time.perf_counter() - start:.0f} s", style="dim")
    report(console, rows, arguments.device, windows, arguments.out)
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the benchmarks share: cases in processes of their own, medians, a table, JSON.

A benchmark is a script that names its cases and hands them to `main`:

    def nf4(meter: Meter) -> None:
        import quantload                      # imports are not what is measured
        with meter.phase("load"):
            model = quantload.load_model(...)
        meter.note("weights_mb", model.get_memory_footprint() / MB)

    if __name__ == "__main__":
        main("load", {"quantload nf4": nf4, "transformers nf4": peer})

Every repetition of a case is a fresh process, and the cases take turns, so that
neither a warm cache nor a machine that slows down favours one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MB = 1_000_000
OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks"
_RESULT = "RESULT "


def resident_bytes(peak: bool = False) -> int:
    """Resident memory of this process, now or at its peak since `reset_peak`."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # not Linux: there is only the peak of the whole life
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    key = "VmHWM:" if peak else "VmRSS:"
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(key))


def reset_peak() -> None:
    """Let `resident_bytes(peak=True)` start anew, where the system can.

    What was freed goes back to the system first: memory that the allocator keeps
    and hands out again would not be seen to be used.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Meter:
    """What a case measures: phases with their time and memory, and notes."""

    figures: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block: `NAME_s`, `NAME_cpu_s`, and `NAME_peak_mb` over what stood before it."""
        reset_peak()
        before = resident_bytes()
        cpu, start = time.process_time(), time.perf_counter()
        yield
        self.figures[f"{name}_s"] = time.perf_counter() - start
        self.figures[f"{name}_cpu_s"] = time.process_time() - cpu
        self.figures[f"{name}_peak_mb"] = max(0, resident_bytes(peak=True) - before) / MB

    def note(self, name: str, value: float) -> None:
        """A figure of the case's own."""
        self.figures[name] = value


Case = Callable[[Meter], None]


def machine() -> dict[str, object]:
    """Where the figures come from."""
    import importlib.metadata as metadata

    names = ("quantload", "torch", "transformers", "bitsandbytes", "safetensors")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "versions": found,
    }


def run_once(script: str, case: str) -> dict[str, float]:
    """One repetition of a case in a process of its own."""
    command = [sys.executable, script, "--case", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith(_RESULT):
            return dict(json.loads(line.removeprefix(_RESULT)))
    raise SystemExit(f"{case} gave no result (exit {done.returncode}):\n{done.stderr[-4000:]}")


def medians(samples: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure over the repetitions."""
    return {key: statistics.median(s[key] for s in samples) for key in samples[0]}


def show(title: str, rows: Mapping[str, Mapping[str, float]], columns: list[str] | None) -> None:
    """A table of one row a case."""
    from rich.console import Console
    from rich.table import Table

    names = columns or list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table("case", title=title)
    for name in names:
        table.add_column(name, justify="right")
    for case, row in rows.items():
        table.add_row(case, *(f"{row[n]:,.3g}" if n in row else "" for n in names))
    Console().print(table)


def main(
    name: str,
    cases: Mapping[str, Case],
    *,
    setup: Callable[[], None] | None = None,
    columns: list[str] | None = None,
    repeat: int = 5,
) -> None:
    """Run the cases in turns, print their medians, write `out/benchmarks/NAME.json`.

    Args:
        name: of the benchmark and of its JSON file.
        cases: label -> function; each runs `repeat` times, in fresh processes.
        setup: makes what the cases read; runs once, in the first process.
        columns: figures that the table shows; all where None.
        repeat: repetitions unless `--repeat` says otherwise.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--case", choices=list(cases), help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=list(cases), help="run these cases alone")
    parser.add_argument("--repeat", type=int, default=repeat, help="repetitions of each case")
    arguments = parser.parse_args()
    if arguments.case:
        meter = Meter()
        cases[arguments.case](meter)
        print(_RESULT + json.dumps(meter.figures), flush=True)
        return
    if setup:
        setup()
    script = str(Path(sys.argv[0]).resolve())
    asked = arguments.only or list(cases)
    samples: dict[str, list[dict[str, float]]] = {case: [] for case in asked}
    for _ in range(arguments.repeat):
        for case in asked:
            samples[case].append(run_once(script, case))
    rows = {case: medians(found) for case, found in samples.items()}
    show(f"{name}: medians of {arguments.repeat}", rows, columns)
    OUT.mkdir(parents=True, exist_ok=True)
    data = {"benchmark": name, "machine": machine(), "median": rows, "samples": samples}
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")

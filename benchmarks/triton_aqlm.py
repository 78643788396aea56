"""AQLM on CUDA: the Triton kernels beside cuBLAS in float16, and beside published figures.

    python benchmarks/triton_aqlm.py [--layouts 1x16 2x8] [--shapes 4096x4096] [--rows 1 8 32]

Every product is timed as `_cuda.py` says. `--tune` tries many plans and writes them all.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from _cuda import (
    OUT,
    ceilings,
    compile_all,
    copies,
    cublas,
    device,
    microseconds,
    pair,
    ready,
    relative_error,
    write,
)

from quantload_kernels_triton.codebooks import launch
from quantload_kernels_triton.codebooks.plans import Plan, fitted, plan_for

SHAPES = ((4096, 4096), (14336, 4096), (28672, 8192))
ROWS = (1, 8, 16, 32, 128, 512)
LAYOUTS = ("1x16", "2x8")
PEER = {
    ("1x16", 4096): 19.6,
    ("1x16", 14336): 59.7,
    ("1x16", 28672): 211.0,
    ("2x8", 4096): 11.5,
    ("2x8", 14336): 31.2,
    ("2x8", 28672): 93.0,
}
"""Microseconds with one row on one H200, of the CUDA kernels of the `aqlm` package."""


def random_weight(layout: str, out: int, into: int, seed: int = 0) -> launch.Coded:
    """A weight of random codes."""
    count, bits = map(int, layout.split("x"))
    generator = torch.Generator("cuda").manual_seed(seed)
    kind = torch.int8 if bits <= 8 else torch.int16
    half = 1 << (bits - 1)
    shape = (out, into // 8, count)
    codes = torch.randint(-half, half, shape, generator=generator, device="cuda", dtype=kind)
    books = torch.randn(count, 1 << bits, 1, 8, generator=generator, device="cuda").half()
    scales = torch.rand(out, 1, 1, 1, generator=generator, device="cuda") * 0.01 + 0.005
    return launch.Coded(codes, books, scales.half())


def many_weights(layout: str, out: int, into: int) -> list[launch.Coded]:
    """Weights enough that each is cold when its turn comes."""
    first = random_weight(layout, out, into)
    count = copies(first.codes.nbytes)
    return [first, *(random_weight(layout, out, into, seed) for seed in range(1, count))]


def error(weight: launch.Coded, x: torch.Tensor, right: torch.Tensor, plan: Plan | None) -> float:
    """Relative error of a product."""
    return relative_error(launch.linear(x, weight, plan), right)


def plans(layout: str, rows: int, out: int) -> Iterator[Plan]:
    """What may be fast for so many rows."""
    count, tiles = int(layout.split("x")[0]), -(-out // 16)
    found: list[Plan] = []
    if rows <= 32:
        for tall, groups, warps in itertools.product((1, 2), (2, 4, 8), (4, 8)):
            if tall * groups * count <= 16 and (rows <= 16 or tall * groups <= 4):
                found.append(Plan("few", tall, warps, groups, ahead=tall == 1))
    if rows > 8:
        most = 16 if rows <= 16 else 32 if rows <= 32 else 64 if rows <= 64 else 128
        for (many, warps), groups, parts, ahead in itertools.product(
            ((most, 4), (most, 8), *([(256, 8)] if rows > 128 else [])),
            (1, 2, 4),
            (1, 2, 4),
            (False, True),
        ):
            programs = -(-rows // many) * -(-tiles // warps) * parts
            if groups * count < 2 or groups * count > 4 or (parts > 1 and programs > 600):
                continue
            found.append(Plan("many", 1, warps, groups, many, parts, ahead))
    if rows >= 64:
        found.append(Plan("decoded"))
    yield from dict.fromkeys(fitted(plan, count) for plan in found)


def _compile(job: tuple[str, int, int, Plan]) -> str:
    layout, into, rows, plan = job
    weight = random_weight(layout, 512, into)
    x = torch.randn(rows, into, device="cuda", dtype=torch.float16)
    try:
        launch.linear(x, weight, plan)
    except Exception as failure:  # noqa: BLE001  a plan that cannot be is no plan
        return f"{layout} {plan}: {type(failure).__name__} {str(failure)[:200]}"
    return ""


def compile_wanted(arguments: argparse.Namespace) -> None:
    """Compile what will be timed."""
    jobs: dict[tuple[str, int, int, Plan], None] = {}
    for layout, (out, into), rows in itertools.product(
        arguments.layouts, arguments.shapes, arguments.rows
    ):
        wanted = plans(layout, rows, out)
        if not arguments.tune:
            wanted = iter([plan_for(int(layout.split("x")[0]), out, rows)])
        for plan in wanted:
            few = 8 if rows <= 8 else 16 if rows <= 16 else 32
            one = Plan(**{**vars(plan), "parts": min(plan.parts, 2)})
            jobs[layout, into, few if plan.kernel == "few" else 32, one] = None
    compile_all(_compile, list(jobs))


def tune(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Times of all plans."""
    compile_wanted(arguments)
    log: list[dict[str, object]] = []
    for (out, into), layout in itertools.product(arguments.shapes, arguments.layouts):
        weights = many_weights(layout, out, into)
        exact = launch.decode(weights[0], torch.float32).double()
        for rows in arguments.rows:
            x = torch.randn(rows, into, device="cuda", dtype=torch.float16)
            right = x.double() @ exact.T
            times: dict[Plan, float] = {}
            for plan in plans(layout, rows, out):
                try:
                    wrong = error(weights[0], x, right, plan)
                    if wrong > 2e-3:
                        print(f"WRONG {wrong:.1e} {layout} {out} {rows}: {plan}", flush=True)
                        continue
                    calls = [lambda w=w, p=plan: launch.linear(x, w, p) for w in weights]
                    times[plan] = microseconds(calls, samples=3, budget=500)
                except Exception as failure:  # noqa: BLE001  too much shared memory, say
                    print(f"FAILED {layout} {rows} {plan}: {str(failure)[:100]}", flush=True)
            asked = {"layout": layout, "out": out, "in": into, "rows": rows}
            best = sorted(times, key=times.__getitem__)
            log += [{**asked, "us": round(times[p], 2), "plan": vars(p)} for p in best]
            told = ", ".join(f"{times[p]:.1f} {short(p)}" for p in best[:5])
            print(f"{layout} {out}x{into} {rows:4d}: {told}", flush=True)
    return log


def short(plan: Plan) -> str:
    """A plan in few letters."""
    if plan.kernel == "many":
        ahead = " ahead" if plan.ahead else ""
        return f"many {plan.rows}x{16 * plan.warps} g{plan.groups} p{plan.parts}{ahead}"
    if plan.kernel == "few":
        return f"few t{plan.tiles} g{plan.groups} w{plan.warps}"
    return plan.kernel


def compare(arguments: argparse.Namespace, beside: dict[str, float]) -> list[dict[str, object]]:
    """A row of figures for each product."""
    compile_wanted(arguments)
    table: list[dict[str, object]] = []
    for (out, into), layout in itertools.product(arguments.shapes, arguments.layouts):
        weights = many_weights(layout, out, into)
        exact = launch.decode(weights[0], torch.float32).double()
        for rows in arguments.rows:
            x = torch.randn(rows, into, device="cuda", dtype=torch.float16)
            entry: dict[str, object] = {"layout": layout, "out": out, "in": into, "rows": rows}
            entry["error"] = error(weights[0], x, x.double() @ exact.T, None)
            entry["plan"] = short(launch.plan_of(rows, weights[0]))
            ours = microseconds([lambda w=w, x=x: launch.linear(x, w) for w in weights])
            dense = beside[f"{out}x{into} {rows}"]
            entry.update(us=ours, cublas_us=dense)
            known = PEER.get((layout, out)) if rows == 1 else None
            table.append(entry)
            print(
                f"{layout} {out:>6}x{into:<6}{rows:>5} rows {ours:8.1f} us  cuBLAS {dense:8.1f}"
                f"  ours/cuBLAS {ours / dense:5.2f}"
                + (f"  aqlm {known:6.1f}" if known else "")
                + f"  error {entry['error']:.1e}  {entry['plan']}",
                flush=True,
            )
    return table


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS))
    parser.add_argument("--shapes", type=pair, nargs="+", default=list(SHAPES))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    ready(arguments.out)
    beside = cublas(arguments.shapes, arguments.rows)
    data: dict[str, object] = {**device(), "cublas": beside}
    if arguments.tune:
        print(beside, flush=True)
        data["plans"] = tune(arguments)
        name = "triton_aqlm-plans.json"
    else:
        data.update(ceilings())
        print(data)
        data["rows"] = compare(arguments, beside)
        name = "triton_aqlm.json"
    write(arguments.out / name, data)


if __name__ == "__main__":
    main()

"""Finds the fastest plans of the Triton kernels on this device.

    python benchmarks/triton_tune.py [--layout affine|nf4|rows8] [--kernel many] [--log FILE]

Every plan that may be fast is compiled, in many processes, checked against float32, and
timed as in `triton_affine.py`; the best of each product is written as an entry of a table
in the package's `tuning/`, and what tiles of warpgroups take is printed, for the same table.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _cuda import compile_all, dense_weights, microseconds, write
from triton_affine import arguments_of, asked, error, random_weight, wanted, weights_of

from quantload_kernels_triton import launch, warpgroups
from quantload_kernels_triton.estimates import Tile, counts
from quantload_kernels_triton.geometry import Geometry
from quantload_kernels_triton.plans import Plan, fitted
from quantload_kernels_triton.splitting import PROCESSORS, STEP

KINDS = (
    ("few", False),
    ("few", True),
    ("many", False),
    ("decoded", False),
    ("warpgroups", False),
)
WARPGROUPS = (
    {"stack": 2, "rows": 128, "stages": 6},
    {"stack": 2, "rows": 256, "stages": 4},
    {"stack": 2, "rows": 256, "stages": 6},
    {"stack": 2, "rows": 64, "stages": 8},
    {"stack": 4, "rows": 64, "stages": 8},
    {"stack": 3, "rows": 128, "stages": 6},
    {"stack": 1, "rows": 256, "stages": 3},
    {"stack": 1, "ways": 4, "rows": 64, "stages": 12},
    {"stack": 2, "ways": 2, "rows": 64, "stages": 12},
    {"stack": 1, "ways": 3, "rows": 128, "stages": 8},
    {"stack": 1, "ways": 2, "rows": 128, "stages": 8},
    {"stack": 1, "ways": 2, "rows": 256, "stages": 4},
)
"""Sizes that fit the registers and the shared memory of Hopper."""
SIZES = ("stack", "ways", "rows", "stages")


def plans(rows: int, geometry: Geometry, run: int) -> Iterator[Plan]:
    """What may be fast for so many rows."""
    widest = max(1, run // geometry.unit)
    found: dict[Plan, None] = {}
    if rows <= 32:
        eights = 1 if rows <= 8 else 2 if rows <= 16 else 4
        units = [u for u in (1, 2, 4) if u <= widest]
        for packed, tiles, warps, unit, ahead in itertools.product(
            (False, True), (1, 2, 4), (4, 8, 16), units, (1, 2, 4)
        ):
            loads = tiles * unit * ahead
            if loads > 8 or tiles * eights > 8 or (loads < 2 and geometry.bits != 3):
                continue
            if packed and (ahead > 2 or warps > 8):
                continue
            if rows > 16 and not packed:
                continue
            if not packed and rows > 8 and tiles * unit < 4:
                continue
            found[Plan("few", tiles, unit, warps, ahead, packed)] = None
    if rows > 8:
        found.update(dict.fromkeys(wide_plans(rows, geometry)))
    if rows >= 512:
        for tiles, unit, warps in ((1, 2, 4), (2, 2, 4), (1, 2, 8), (1, 1, 4)):
            found[Plan("decoded", tiles, unit, warps)] = None
    if rows > 32 and run >= STEP:
        found.update(dict.fromkeys(warpgroup_plans(rows, geometry)))
    yield from dict.fromkeys(fitted(plan, geometry, run) for plan in found)


def warpgroup_plans(rows: int, geometry: Geometry) -> Iterator[Plan]:
    """Plans of the kernel whose warpgroups decode for their own products, on Hopper."""
    if not warpgroups.able(torch.device("cuda"), geometry.columns):
        return
    for sizes, parts in itertools.product(WARPGROUPS, range(1, 9)):
        plan = Plan("warpgroups", parts=parts, **sizes)
        tiles = -(-rows // plan.rows) * -(-geometry.rows // (64 * plan.stack))
        if plan.rows >= 2 * max(rows, 64) or tiles * parts < 48:
            continue
        if parts == 1 or tiles * parts <= 300:
            yield plan
        if parts > 1 and tiles > PROCESSORS >= tiles % PROCESSORS * parts > 0:
            yield replace(plan, rest=True)


def wide_plans(rows: int, geometry: Geometry) -> Iterator[Plan]:
    """Plans of the kernel whose warps share activations."""
    unit = max(1, 64 // geometry.unit)
    depth = unit * geometry.unit
    for many, (tiles, warps), ahead, stages, parts in itertools.product(
        (16, 32, 64, 128, 256), ((1, 4), (2, 4), (1, 8)), (1, 2, 4), (2, 3, 4, 6), (1, 2, 4, 8)
    ):
        tall = 16 * tiles * warps
        programs = -(-rows // many) * -(-geometry.rows // tall) * parts
        shared = stages * ahead * (many * 2 + tall * geometry.bits // 8) * depth
        if (many // 2 >= rows and many > 16) or many < min(rows, 128) // 2:
            continue
        if shared > 200_000 or many * tall > 128 * 256 or not programs >= 64:
            continue
        if not 4 <= stages * ahead * depth // 64 <= 8 or (stages == 6 and many > 64):
            continue
        if parts > 1 and (programs > 600 or rows >= 512):
            continue
        yield Plan("many", tiles, unit, warps, ahead, False, many, stages, parts)


def compile_wanted(arguments: argparse.Namespace) -> None:
    """Compile what `tune` will run."""
    run = {"nf4": 64, "rows8": 256}.get(arguments.layout, min(arguments.group, 256))
    jobs: dict[tuple[object, ...], None] = {}
    for (out, into), rows in itertools.product(arguments.shapes, arguments.rows):
        geometry = Geometry(arguments.bits, out, into)
        for plan in plans(rows, geometry, run):
            if arguments.kernel and plan.kernel not in arguments.kernel:
                continue
            width = plan.units * plan.ahead * (1 if plan.kernel == "many" else plan.warps)
            columns = 8192 if geometry.units % width == 0 else 11008
            few = 8 if rows <= 8 else 16 if rows <= 16 else 32
            parts = min(plan.parts, 2)
            key = (few if plan.kernel == "few" else 32, columns, replace(plan, parts=parts))
            jobs[key] = None
    settings = (arguments.bits, arguments.group, arguments.dtype, arguments.layout)
    compile_all(_compile, [(settings, *job) for job in jobs], each=8)


def _compile(job: tuple[tuple[int, int, str, str], int, int, Plan]) -> str:
    (bits, group, name, layout), rows, columns, plan = job
    dtype = getattr(torch, name)
    weight = random_weight(512, columns, bits, group, dtype, 0, layout)
    x = torch.randn(rows, columns, device="cuda", dtype=dtype)
    try:
        launch.linear(x, weight, None, plan)
    except Exception as failure:  # noqa: BLE001  a plan that cannot be is no plan
        return f"{short(plan)}: {type(failure).__name__} {str(failure)[:90]}"
    return ""


def tune(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The fastest plans, and in `--log` every time."""
    measured, log = [], []
    dtype = getattr(torch, arguments.dtype)
    compile_wanted(arguments)
    for out, into in arguments.shapes:
        geometry = Geometry(arguments.bits, out, into)
        weights = weights_of(arguments, out, into)
        run = weights[0].run
        for rows in arguments.rows:
            x = torch.randn(rows, into, device="cuda", dtype=dtype)
            few = x[:256]
            right = wanted(weights[0], few)
            times: dict[Plan, float] = {}
            for plan in plans(rows, geometry, run):
                if arguments.kernel and plan.kernel not in arguments.kernel:
                    continue
                try:
                    wrong = error(weights[0], few, right, plan)
                    if wrong > 4e-3:
                        print(f"WRONG {wrong:.1e} {out}x{into} {rows}: {plan}", flush=True)
                        continue
                    calls = [lambda w=w, p=plan: launch.linear(x, w, None, p) for w in weights]
                    times[plan] = microseconds(calls, samples=3, budget=600)
                except Exception as failure:  # noqa: BLE001  too much shared memory, say
                    log.append({"plan": repr(plan), "failed": str(failure)[:200]})
            best = sorted(times, key=times.__getitem__)
            product = {"out": out, "in": into, "rows": rows}
            log += [{**product, "us": times[plan], "plan": vars(plan)} for plan in best]
            for kind in KINDS:
                for plan in [p for p in best if (p.kernel, p.packed) == kind][:1]:
                    print(f"{out}x{into} {rows:5d} {times[plan]:9.2f} {short(plan)}", flush=True)
            dense = dense_weights(out, into, dtype)
            cublas = microseconds([lambda w=w: F.linear(x, w) for w in dense])
            print(f"{out}x{into} {rows:5d} {cublas:9.2f} cuBLAS", flush=True)
            entry = {"bits": arguments.bits, "rows": rows, "out": out, "in": into}
            measured.append({**entry, "us": round(times[best[0]], 2), "plan": vars(best[0])})
    print(json.dumps({"tiles": tiles_of(log)}, indent=1))
    if arguments.log:
        arguments.log.write_text(json.dumps(log) + "\n", encoding="utf-8")
    return measured


def tiles_of(log: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What tiles of "warpgroups" take, fitted to all times: see `estimates.Tile`."""
    found = []
    for sizes in WARPGROUPS:
        shape = Tile(**{"ways": 1, **sizes}, tile_us=0.0, step_us=0.0, part_us=0.0)
        rows, times = [], []
        for entry in log:
            plan = entry.get("plan")
            if not isinstance(plan, dict) or plan["kernel"] != "warpgroups":
                continue
            if all(plan[name] == getattr(shape, name) for name in SIZES):
                product = (entry["rows"], entry["out"], entry["in"])
                rows.append(counts(shape, *product, plan["parts"], plan["rest"]))
                times.append(entry["us"])
        if len(times) > 3:
            measured = torch.tensor(times, dtype=torch.float64).unsqueeze(1)
            relative = torch.tensor(rows, dtype=torch.float64) / measured
            right = torch.ones_like(measured)
            fitted_us = torch.linalg.lstsq(relative, right).solution.flatten().tolist()
            names = ("tile_us", "step_us", "part_us")
            taken = {name: round(us, 4) for name, us in zip(names, fitted_us, strict=True)}
            found.append({**{name: getattr(shape, name) for name in SIZES}, **taken})
    return found


def short(plan: Plan) -> str:
    """A plan in few letters."""
    if plan.kernel == "many":
        sizes = (
            f"{plan.rows}x{16 * plan.tiles * plan.warps} stages={plan.stages} parts={plan.parts}"
        )
    elif plan.kernel == "warpgroups":
        groups = f"stack={plan.stack} ways={plan.ways}"
        parts = f"parts={plan.parts}{' of the rest' if plan.rest else ''}"
        return f"warpgroups {plan.rows} {groups} stages={plan.stages} {parts}"
    else:
        sizes = f"tiles={plan.tiles}{' packed' if plan.packed else ''}"
    return f"{plan.kernel} warps={plan.warps} units={plan.units}x{plan.ahead} {sizes}"


def main() -> None:
    """See the module."""
    parser = arguments_of(__doc__)
    parser.add_argument("--kernel", nargs="+", help="tune these alone")
    parser.add_argument("--log", type=Path, help="where every time is written")
    arguments = asked(parser)
    name = f"plans-{arguments.layout}-{arguments.bits}bit.json"
    write(arguments.out / name, {"plans": tune(arguments)})


if __name__ == "__main__":
    main()

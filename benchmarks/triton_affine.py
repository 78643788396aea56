"""The Triton kernels for group-wise integers beside cuBLAS float16 and torch's int4 product.

    python benchmarks/triton_affine.py                 the table
    python benchmarks/triton_affine.py --tune          measure plans, write tuning tables

Each product is checked against float32 first, on random data. A time is that of one
call among many in a replayed CUDA graph, with a different copy of the weight each time,
more of them than the L2 cache holds; the median over replays, in microseconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from quantload_kernels_triton import launch
from quantload_kernels_triton.geometry import Geometry
from quantload_kernels_triton.plans import Plan, fitted

OUT = Path(__file__).resolve().parents[1] / "out" / "benchmarks"
SHAPES = ((4096, 4096), (14336, 4096), (4096, 11008), (28672, 8192), (8192, 28672))
ROWS = (1, 8, 16, 32, 64, 128, 512, 2048)
COLD = 200_000_000
"""Bytes of weights that take turns; the L2 cache of the largest devices has a third of it."""
Call = Callable[[], object]


def microseconds(calls: Sequence[Call], samples: int = 5, budget: float = 4000.0) -> float:
    """Time of a call, when `calls` take turns in a replayed graph.

    Args:
        calls: what is captured, each at least once.
        samples: replays are timed so often.
        budget: least time of a sample.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    stream.synchronize()
    turns = [*calls] * -(-20 // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in turns:
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def replays(count: int) -> float:
        begin.record()
        for _ in range(count):
            graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1000

    replays(1)
    count = max(1, int(budget / max(replays(1), 1.0)))
    found = statistics.median(replays(count) for _ in range(samples))
    return found / count / len(turns)


def copies(nbytes: int) -> int:
    """How many copies of a weight are cold when their turn comes."""
    return max(2, -(-COLD // nbytes))


def random_weight(
    out: int, into: int, bits: int, group: int, dtype: torch.dtype, seed: int = 0
) -> launch.Arranged:
    """A weight of random codes, already arranged."""
    geometry = Geometry(bits, out, into)
    generator = torch.Generator("cuda").manual_seed(seed)
    words = torch.randint(
        -(1 << 15),
        1 << 15,
        geometry.words_shape,
        dtype=torch.int16,
        device="cuda",
        generator=generator,
    )
    size = (-(-into // group), geometry.tiles, 8, 2)
    scales = torch.rand(size, device="cuda", generator=generator) * 0.01 + 0.005
    zeros = torch.randint(
        0, (1 << bits) + 1, size, dtype=torch.int16, device="cuda", generator=generator
    )
    return launch.Arranged(
        words, scales.to(dtype), zeros, None, bits, group, min(group, 256), out, into
    )


def weight_bytes(weight: launch.Arranged) -> int:
    """Bytes that a product must read."""
    return sum(t.nbytes for t in (weight.words, weight.scales, weight.zeros) if t is not None)


def wanted(weight: launch.Arranged, x: torch.Tensor) -> torch.Tensor:
    """A product by way of float32 weights, summed in float64."""
    return x.double() @ launch.decode(weight, torch.float32).double().T


def error(
    weight: launch.Arranged, x: torch.Tensor, right: torch.Tensor, plan: Plan | None = None
) -> float:
    """Relative error of a product."""
    y = launch.linear(x, weight, None, plan)
    return float((y.double() - right).norm() / right.norm())


def tinygemm_weights(out: int, into: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights for `torch._weight_int4pack_mm`, group 128."""
    found = []
    for _ in range(count):
        nibbles = torch.randint(0, 256, (out, into // 2), dtype=torch.uint8, device="cuda")
        packed = torch._convert_weight_to_int4pack(nibbles, 8)
        pairs = torch.rand((into // 128, out, 2), dtype=torch.bfloat16, device="cuda") * 0.01
        found.append((packed, pairs))
    return found


def ceilings() -> dict[str, float]:
    """Measured copy bandwidth and product rate: what no kernel can beat by much."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda").random_(0, 255)
    target = torch.empty_like(source)
    copied = microseconds([lambda: target.copy_(source)], budget=20000)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    multiplied = microseconds([lambda: F.linear(a, b)], budget=50000)
    return {"copy_tb_s": 2 * (1 << 31) / copied / 1e6, "tflop_s": 2 * 8192**3 / multiplied / 1e6}


def compare(bits: int, group: int, dtype: torch.dtype, shapes, rows) -> list[dict[str, object]]:
    """A row of figures for each product."""
    table = []
    for out, into in shapes:
        ours = [random_weight(out, into, bits, group, dtype, 0)]
        ours += [
            random_weight(out, into, bits, group, dtype, seed)
            for seed in range(1, copies(weight_bytes(ours[0])))
        ]
        dense = [
            torch.randn(out, into, device="cuda", dtype=dtype)
            for _ in range(copies(2 * out * into))
        ]
        tiny = tinygemm_weights(out, into, copies(out * into // 2)) if bits == 4 else []
        for count in rows:
            x = torch.randn(count, into, device="cuda", dtype=dtype)
            half = x.bfloat16()
            entry: dict[str, object] = {"out": out, "in": into, "rows": count}
            entry["error"] = error(ours[0], x, wanted(ours[0], x))
            entry["plan"] = repr(launch.plan_of(count, ours[0]))
            entry["us"] = microseconds([lambda w=w: launch.linear(x, w, None) for w in ours])
            entry["cublas_us"] = microseconds([lambda w=w: F.linear(x, w) for w in dense])
            if tiny and count <= 128:
                entry["tinygemm_us"] = microseconds(
                    [lambda w=w: torch._weight_int4pack_mm(half, w[0], 128, w[1]) for w in tiny]
                )
            table.append(entry)
            print(line(entry), flush=True)
        del ours, dense, tiny
    return table


def line(entry: dict[str, object]) -> str:
    """A row of the table."""
    tiny = entry.get("tinygemm_us")
    return (
        f"{entry['out']:>6}x{entry['in']:<6}{entry['rows']:>5} rows {entry['us']:9.1f} us"
        f"  cuBLAS {entry['cublas_us']:8.1f}  ours/cuBLAS {entry['us'] / entry['cublas_us']:5.2f}"
        + (f"  tinygemm {tiny:8.1f}" if tiny else "")
        + f"  error {entry['error']:.1e}"
    )


# -- tuning ------------------------------------------------------------------------------


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
    yield from dict.fromkeys(fitted(plan, geometry, run) for plan in found)


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


def compile_all(arguments: argparse.Namespace) -> None:
    """Compile what `tune` will run, in many processes."""
    jobs: dict[tuple[object, ...], None] = {}
    for (out, into), rows in itertools.product(arguments.shapes, arguments.rows):
        geometry = Geometry(arguments.bits, out, into)
        for plan in plans(rows, geometry, min(arguments.group, 256)):
            if arguments.kernel and plan.kernel not in arguments.kernel:
                continue
            width = plan.units * plan.ahead * (1 if plan.kernel == "many" else plan.warps)
            columns = 8192 if geometry.units % width == 0 else 11008
            few = 8 if rows <= 8 else 16 if rows <= 16 else 32
            parts = min(plan.parts, 2)
            key = (few if plan.kernel == "few" else 32, columns, replace(plan, parts=parts))
            jobs[key] = None
    count = min(len(os.sched_getaffinity(0)) - 1, 1 + len(jobs) // 8)
    settings = (arguments.bits, arguments.group, arguments.dtype)
    print(f"compiling {len(jobs)} variants", flush=True)
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        for failed in pool.imap_unordered(_compile, [(settings, *j) for j in jobs], chunksize=2):
            if failed:
                print(failed, flush=True)


def _compile(job: tuple[tuple[int, int, str], int, int, Plan]) -> str:
    (bits, group, name), rows, columns, plan = job
    dtype = getattr(torch, name)
    weight = random_weight(512, columns, bits, group, dtype)
    x = torch.randn(rows, columns, device="cuda", dtype=dtype)
    try:
        launch.linear(x, weight, None, plan)
    except Exception as failure:  # noqa: BLE001  a plan that cannot be is no plan
        return f"{short(plan)}: {type(failure).__name__} {str(failure)[:90]}"
    return ""


def tune(arguments: argparse.Namespace, dtype: torch.dtype) -> list[dict[str, object]]:
    """The fastest plans, and in `--log` every time."""
    measured, log = [], []
    compile_all(arguments)
    for out, into in arguments.shapes:
        geometry = Geometry(arguments.bits, out, into)
        weights = [random_weight(out, into, arguments.bits, arguments.group, dtype, 0)]
        run = weights[0].run
        weights += [
            random_weight(out, into, arguments.bits, arguments.group, dtype, seed)
            for seed in range(1, copies(weight_bytes(weights[0])))
        ]
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
            asked = {"out": out, "in": into, "rows": rows}
            log += [{**asked, "us": times[plan], "plan": vars(plan)} for plan in best]
            for kind in (
                ("few", False),
                ("few", True),
                ("many", False),
                ("decoded", False),
            ):
                for plan in [p for p in best if (p.kernel, p.packed) == kind][:1]:
                    print(f"{out}x{into} {rows:5d} {times[plan]:9.2f} {short(plan)}", flush=True)
            dense = [
                torch.randn(out, into, device="cuda", dtype=dtype)
                for _ in range(copies(2 * out * into))
            ]
            cublas = microseconds([lambda w=w: F.linear(x, w) for w in dense])
            print(f"{out}x{into} {rows:5d} {cublas:9.2f} cuBLAS", flush=True)
            entry = {"bits": arguments.bits, "rows": rows, "out": out, "in": into}
            measured.append({**entry, "us": round(times[best[0]], 2), "plan": vars(best[0])})
    if arguments.log:
        arguments.log.write_text(json.dumps(log) + "\n", encoding="utf-8")
    return measured


def short(plan: Plan) -> str:
    """A plan in few letters."""
    if plan.kernel == "many":
        sizes = (
            f"{plan.rows}x{16 * plan.tiles * plan.warps} stages={plan.stages} parts={plan.parts}"
        )
    else:
        sizes = f"tiles={plan.tiles}{' packed' if plan.packed else ''}"
    return f"{plan.kernel} warps={plan.warps} units={plan.units}x{plan.ahead} {sizes}"


def pair(text: str) -> tuple[int, int]:
    """`OUTxIN` as two numbers."""
    out, into = text.split("x")
    return int(out), int(into)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16"])
    parser.add_argument("--shapes", type=pair, nargs="+", default=list(SHAPES))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--kernel", nargs="+", help="tune these alone")
    parser.add_argument("--log", type=Path, help="where --tune writes every time")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device")
    dtype = getattr(torch, arguments.dtype)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.tune:
        data: dict[str, object] = {"plans": tune(arguments, dtype)}
        name = f"plans-{arguments.bits}bit.json"
    else:
        data = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, **ceilings()}
        print(data)
        data["rows"] = compare(
            arguments.bits, arguments.group, dtype, arguments.shapes, arguments.rows
        )
        name = f"triton_affine-{arguments.bits}bit.json"
    (arguments.out / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

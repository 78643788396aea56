"""Products with ggml blocks on CUDA: the Triton kernels beside cuBLAS in float16.

    python benchmarks/triton_gguf.py [--types Q4_K Q6_K] [--shapes 4096x4096] [--rows 1 8 32]

Every product is timed as `_cuda.py` says. `--tune` tries many plans and writes them all.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
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

from quantload_gguf.kernels.triton import FORMS
from quantload_kernels_triton.blocks import launch
from quantload_kernels_triton.blocks.form import Form
from quantload_kernels_triton.blocks.plans import SHARED, Plan, fitted, plan_for

SHAPES = ((4096, 4096), (14336, 4096), (28672, 8192))
ROWS = (1, 8, 32, 128, 512)
TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


def random_weight(form: Form, out: int, into: int, seed: int = 0) -> launch.Blocks:
    """A weight of random codes and scales, already arranged."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def whole(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        return torch.randint(least, most, shape, dtype=dtype, device="cuda", generator=generator)

    low = whole(form.low(out, into).words_shape, torch.int16).squeeze(2)
    high = None
    if form.high_bits:
        high = whole(form.high(out, into).words_shape, torch.int16).squeeze(2)
    shape = form.scales_shape(out, into)
    scales = torch.rand(shape, device="cuda", generator=generator) * 0.01 + 0.005
    steps = whole(form.steps_shape(out, into), torch.int32) & 0x3F3F3F3F if form.steps else None
    minima = None
    if form.steps and form.offsets:
        minima = whole(form.minima_shape(out, into), torch.int32) & 0x3F3F3F3F
    return launch.Blocks(low, high, scales.half(), steps, minima, form, out, into)


def weight_bytes(weight: launch.Blocks) -> int:
    """Bytes that a product must read."""
    parts = (weight.low, weight.high, weight.scales, weight.steps, weight.minima)
    return sum(t.nbytes for t in parts if t is not None)


def many_weights(form: Form, out: int, into: int) -> list[launch.Blocks]:
    """Weights enough that each is cold when its turn comes."""
    first = random_weight(form, out, into)
    count = copies(weight_bytes(first))
    return [first, *(random_weight(form, out, into, seed) for seed in range(1, count))]


def error(weight: launch.Blocks, x: torch.Tensor, right: torch.Tensor, plan: Plan | None) -> float:
    """Relative error of a product."""
    return relative_error(launch.linear(x, weight, plan), right)


def plans(rows: int, form: Form, out: int, into: int) -> Iterator[Plan]:
    """What may be fast for so many rows."""
    tiles = -(-out // 16)
    found: list[Plan] = []
    if rows <= 32:
        eights = 1 if rows <= 8 else 2 if rows <= 16 else 4
        for count, span, warps, packed in itertools.product(
            (1, 2), (128, 256), (4, 8), (False, True)
        ):
            if count * eights > 4 or (rows > 8 and not packed):
                continue
            found.append(Plan("few", count, span, warps, packed))
    if rows > 8:
        most = 16 if rows <= 16 else 32 if rows <= 32 else 64 if rows <= 64 else 128
        for (count, warps), ahead, stages, parts in itertools.product(
            ((1, 4), (2, 4)), (1, 2), (3,), (1, 2, 4)
        ):
            programs = -(-rows // most) * -(-tiles // (count * warps)) * parts
            if programs < 64 or (parts > 1 and programs > 600) or ahead * stages > 8:
                continue
            found.append(Plan("many", count, 256, warps, False, most, ahead, stages, parts))
    if rows >= 128:
        found.append(Plan("decoded"))
    yield from dict.fromkeys(fitted(plan, form, out, into, SHARED[9, 0]) for plan in found)


def _compile(job: tuple[str, int, int, Plan]) -> str:
    name, into, rows, plan = job
    weight = random_weight(FORMS[name], 512, into)
    x = torch.randn(rows, into, device="cuda", dtype=torch.float16)
    try:
        launch.linear(x, weight, plan)
    except Exception as failure:  # noqa: BLE001  a plan that cannot be is no plan
        return f"{name} {plan}: {type(failure).__name__} {str(failure)[:200]}"
    return ""


def compile_wanted(arguments: argparse.Namespace) -> None:
    """Compile what will be timed."""
    jobs: dict[tuple[str, int, int, Plan], None] = {}
    for name, (out, into), rows in itertools.product(
        arguments.types, arguments.shapes, arguments.rows
    ):
        few = 8 if rows <= 8 else 16 if rows <= 16 else 32
        wanted = plans(rows, FORMS[name], out, into)
        if not arguments.tune:
            wanted = iter([plan_for(FORMS[name], out, into, rows, SHARED[9, 0]), Plan("decoded")])
        for plan in wanted:
            key = few if plan.kernel == "few" else 32
            jobs[name, into, key, replace(plan, parts=min(plan.parts, 2))] = None
    compile_all(_compile, list(jobs))


def tune(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Times of all plans."""
    compile_wanted(arguments)
    log: list[dict[str, object]] = []
    for (out, into), name in itertools.product(arguments.shapes, arguments.types):
        form = FORMS[name]
        weights = many_weights(form, out, into)
        exact = launch.decode(weights[0], torch.float32).double()
        for rows in arguments.rows:
            x = torch.randn(rows, into, device="cuda", dtype=torch.float16)
            right = x.double() @ exact.T
            times: dict[Plan, float] = {}
            for plan in plans(rows, form, out, into):
                try:
                    wrong = error(weights[0], x, right, plan)
                    if wrong > 2e-3:
                        print(f"WRONG {wrong:.1e} {name} {out}x{into} {rows}: {plan}", flush=True)
                        continue
                    calls = [lambda w=w, p=plan: launch.linear(x, w, p) for w in weights]
                    times[plan] = microseconds(calls, samples=3, budget=500)
                except Exception as failure:  # noqa: BLE001  too much shared memory, say
                    print(f"FAILED {name} {rows} {plan}: {str(failure)[:100]}", flush=True)
            asked = {"type": name, "out": out, "in": into, "rows": rows}
            best = sorted(times, key=times.__getitem__)
            log += [{**asked, "us": round(times[p], 2), "plan": vars(p)} for p in best]
            floor = weight_bytes(weights[0]) / 4.0e6
            told = ", ".join(f"{times[p]:.1f} {short(p)}" for p in best[:4])
            print(f"{name} {out}x{into} {rows:4d} floor {floor:.1f}: {told}", flush=True)
    return log


def short(plan: Plan) -> str:
    """A plan in few letters."""
    if plan.kernel == "many":
        tall = 16 * plan.tiles * plan.warps
        return f"many {plan.rows}x{tall} w{plan.warps} a{plan.ahead} s{plan.stages} p{plan.parts}"
    if plan.kernel == "few":
        return f"few t{plan.tiles} s{plan.span} w{plan.warps}{' packed' if plan.packed else ''}"
    return plan.kernel


def compare(arguments: argparse.Namespace, beside: dict[str, float]) -> list[dict[str, object]]:
    """A row of figures for each product."""
    compile_wanted(arguments)
    table: list[dict[str, object]] = []
    for (out, into), name in itertools.product(arguments.shapes, arguments.types):
        weights = many_weights(FORMS[name], out, into)
        exact = launch.decode(weights[0], torch.float32).double()
        for rows in arguments.rows:
            x = torch.randn(rows, into, device="cuda", dtype=torch.float16)
            entry: dict[str, object] = {"type": name, "out": out, "in": into, "rows": rows}
            entry["error"] = error(weights[0], x, x.double() @ exact.T, None)
            entry["plan"] = short(launch.plan_of(rows, weights[0]))
            ours = microseconds([lambda w=w, x=x: launch.linear(x, w) for w in weights])
            decoding = microseconds(
                [lambda w=w, x=x: launch.linear(x, w, Plan("decoded")) for w in weights]
            )
            dense = beside[f"{out}x{into} {rows}"]
            entry.update(us=ours, decoded_us=decoding, cublas_us=dense)
            table.append(entry)
            print(
                f"{name} {out:>6}x{into:<6}{rows:>5} rows {ours:8.1f} us  decoded {decoding:8.1f}"
                f"  cuBLAS {dense:8.1f}  ours/cuBLAS {ours / dense:5.2f}"
                f"  error {entry['error']:.1e}  {entry['plan']}",
                flush=True,
            )
    return table


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(FORMS))
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
        name = "triton_gguf-plans.json"
    else:
        data.update(ceilings())
        print(data)
        data["rows"] = compare(arguments, beside)
        name = "triton_gguf.json"
    write(arguments.out / name, data)


if __name__ == "__main__":
    main()

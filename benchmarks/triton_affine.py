"""The Triton kernels beside cuBLAS float16 and torch's or bitsandbytes' 4-bit product.

    python benchmarks/triton_affine.py [--layout affine|nf4|rows8]

`affine` are group-wise integers with zero-points, `nf4` codes of a table with a float32
scale for every 64, `rows8` signed bytes with a float32 scale for every row.

Each product is checked against float32 first, on random data, and timed as `_cuda.py` says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from _cuda import (
    OUT,
    Call,
    ceilings,
    copies,
    dense_weights,
    device,
    microseconds,
    pair,
    ready,
    relative_error,
    write,
)

from quantload_kernels_triton import launch
from quantload_kernels_triton.geometry import Geometry
from quantload_kernels_triton.plans import Plan

SHAPES = ((4096, 4096), (14336, 4096), (4096, 11008), (28672, 8192), (8192, 28672))
ROWS = (1, 8, 16, 32, 64, 128, 512, 2048)
PEERS = ("tinygemm_us", "library_us")


def random_weight(
    out: int,
    into: int,
    bits: int,
    group: int,
    dtype: torch.dtype,
    seed: int = 0,
    layout: str = "affine",
) -> launch.Arranged:
    """A weight of random codes, already arranged."""
    bits = {"nf4": 4, "rows8": 8}.get(layout, bits)
    group = {"nf4": 64, "rows8": into}.get(layout, group)
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
    if layout != "affine":
        table = "nf4" if layout == "nf4" else ""
        return launch.Arranged(
            words, scales, None, None, bits, group, min(group, 256), out, into, table
        )
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
    return relative_error(launch.linear(x, weight, None, plan), right)


def tinygemm_weights(out: int, into: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights for `torch._weight_int4pack_mm`, group 128."""
    found = []
    for _ in range(count):
        nibbles = torch.randint(0, 256, (out, into // 2), dtype=torch.uint8, device="cuda")
        packed = torch._convert_weight_to_int4pack(nibbles, 8)
        pairs = torch.rand((into // 128, out, 2), dtype=torch.bfloat16, device="cuda") * 0.01
        found.append((packed, pairs))
    return found


def library_weights(out: int, into: int, count: int) -> list[tuple[torch.Tensor, object]]:
    """NF4 weights for `bitsandbytes.matmul_4bit`; none where the library is absent."""
    try:
        import bitsandbytes as bnb
    except ImportError:
        return []
    found = []
    for _ in range(count):
        source = torch.randn(out, into, device="cuda", dtype=torch.float16) * 0.02
        found.append(bnb.functional.quantize_4bit(source, quant_type="nf4"))
    return found


def library_product(x: torch.Tensor, weight: tuple[torch.Tensor, object]) -> object:
    """A product by bitsandbytes."""
    import bitsandbytes as bnb

    return bnb.matmul_4bit(x, weight[0].t(), quant_state=weight[1])


def weights_of(arguments: argparse.Namespace, out: int, into: int) -> list[launch.Arranged]:
    """As many random weights as are cold in turns."""
    settings = (arguments.bits, arguments.group, getattr(torch, arguments.dtype))
    first = random_weight(out, into, *settings, 0, arguments.layout)
    more = range(1, copies(weight_bytes(first)))
    return [first, *(random_weight(out, into, *settings, seed, arguments.layout) for seed in more)]


def compare(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """A row of figures for each product."""
    table = []
    dtype = getattr(torch, arguments.dtype)
    for out, into in arguments.shapes:
        ours = weights_of(arguments, out, into)
        dense = dense_weights(out, into, dtype)
        peers: dict[str, list[Call]] = {}
        x = torch.empty(0)
        if arguments.layout == "affine" and arguments.bits == 4:
            tiny = tinygemm_weights(out, into, copies(out * into // 2))
            peers["tinygemm_us"] = [
                lambda w=w: torch._weight_int4pack_mm(x.bfloat16(), w[0], 128, w[1]) for w in tiny
            ]
        if arguments.layout == "nf4":
            library = library_weights(out, into, copies(out * into // 2))
            peers["library_us"] = [lambda w=w: library_product(x, w) for w in library]
        for count in arguments.rows:
            x = torch.randn(count, into, device="cuda", dtype=dtype)
            entry: dict[str, object] = {"out": out, "in": into, "rows": count}
            entry["error"] = error(ours[0], x, wanted(ours[0], x))
            entry["plan"] = repr(launch.plan_of(count, ours[0]))
            entry["us"] = microseconds([lambda w=w: launch.linear(x, w, None) for w in ours])
            entry["cublas_us"] = microseconds([lambda w=w: F.linear(x, w) for w in dense])
            for name, calls in peers.items():
                if calls and count <= 128:
                    entry[name] = microseconds(calls)
            table.append(entry)
            print(line(entry), flush=True)
        del ours, dense, peers
    return table


def line(entry: dict[str, object]) -> str:
    """A row of the table."""
    peers = [f"{name[:-3]} {entry[name]:8.1f}" for name in PEERS if name in entry]
    return (
        f"{entry['out']:>6}x{entry['in']:<6}{entry['rows']:>5} rows {entry['us']:9.1f} us"
        f"  cuBLAS {entry['cublas_us']:8.1f}  ours/cuBLAS {entry['us'] / entry['cublas_us']:5.2f}"
        f"  error {entry['error']:.1e}  {'  '.join(peers)}"
    )


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """What this benchmark and `triton_tune.py` are asked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--layout", default="affine", choices=["affine", "nf4", "rows8"])
    parser.add_argument("--bits", type=int, default=4, help="of affine weights")
    parser.add_argument("--group", type=int, default=128, help="of affine weights")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16"])
    parser.add_argument("--shapes", type=pair, nargs="+", default=list(SHAPES))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--out", type=Path, default=OUT)
    return parser


def asked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, on a machine that can do it."""
    arguments = parser.parse_args()
    if arguments.layout != "affine":
        arguments.bits = {"nf4": 4, "rows8": 8}[arguments.layout]
    ready(arguments.out)
    return arguments


def main() -> None:
    """See the module."""
    arguments = asked(arguments_of(__doc__))
    data: dict[str, object] = {**device(), **ceilings()}
    print(data)
    data["rows"] = compare(arguments)
    name = f"triton_{arguments.layout}-{arguments.bits}bit.json"
    write(arguments.out / name, data)


if __name__ == "__main__":
    main()

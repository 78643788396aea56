"""Correctness and speed of the bitsandbytes plugin on a GPU, in one run.

    PYTHONPATH=core/src:plugins/bitsandbytes/src python benchmarks/bitsandbytes_cuda_check.py

It needs no installed quantload. Where the bitsandbytes library can be imported its kernels
are what the plugin uses, and they are timed by themselves, too; where not, the plugin's
plain-torch paths are what is checked. `--device cpu` tries the script on small sizes.

First every product is compared with the one in float64 over shapes that are hard on
kernels; then a table in microseconds: the plugin, its plain-torch reference, the library's
own layer function, and torch's product with the float weight (cuBLAS).
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantload.plugin import Kernel, ModuleSpec
from quantload_bitsandbytes import library
from quantload_bitsandbytes.codebooks import codebook
from quantload_bitsandbytes.config import BitsAndBytesConfig
from quantload_bitsandbytes.dequantize4 import dequantize_4bit
from quantload_bitsandbytes.int8 import quantize_rows
from quantload_bitsandbytes.kernel_classes import ChunkedFourBit, LibraryFourBit, LlmInt8
from quantload_bitsandbytes.quantize4 import quantize_4bit
from quantload_bitsandbytes.quantizer import BitsAndBytesQuantizer

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
CONFIGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4 double": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "fp4 128": {"load_in_4bit": True, "bnb_4bit_blocksize": 128},
    "int8": {"load_in_8bit": True},
}
SHAPES = ((64, 128), (4096, 4096), (1000, 4160), (56, 80), (33, 96), (8, 2), (200, 36))
ROWS = (1, 2, 5, 17, 64, 300)
LAYERS = ((4096, 4096), (14336, 4096), (4096, 14336))
TIMED_ROWS = (1, 4, 16, 64, 512, 4096)

failures: list[str] = []


def check(label: str, good: bool, found: object = "") -> None:
    """Note a failure; successes are counted by their silence."""
    if not good:
        failures.append(f"{label}: {found}")
        print(f"FAILED {label}: {found}", flush=True)


def make(name: str, weight: Tensor, dtype: torch.dtype) -> Any:
    """A packed weight on the device of `weight`, in canonical storage."""
    quantizer = BitsAndBytesQuantizer(BitsAndBytesConfig(**CONFIGS[name]))
    packed = quantizer.quantize(ModuleSpec("layer"), weight)
    packed.set_compute_dtype(dtype)
    return packed


def kernel_for(name: str, device: torch.device, shape: tuple[int, int]) -> Kernel | None:
    """The kernel that a loader would choose; None for the reference."""
    if name == "int8":
        return LlmInt8()
    if device.type == "cpu":
        return ChunkedFourBit()
    return LibraryFourBit() if library.cuda_library() and shape[1] % 2 == 0 else None


def check_quantizers(device: torch.device) -> None:
    """Plain torch gives on the device what it gives on the CPU; the library, nearly."""
    for shape in ((1000, 4160), (33, 95)):
        for dtype in DTYPES:
            weight = (torch.randn(shape) * 0.02).to(dtype)
            there = weight.to(device)
            for quant_type in ("nf4", "fp4"):
                label = f"quantize {quant_type} {list(shape)} {dtype}"
                here, made = (
                    quantize_4bit(weight, 64, quant_type),
                    quantize_4bit(there, 64, quant_type),
                )
                check(label, torch.equal(here.packed, made.packed.cpu()), "codes differ")
                check(label, torch.equal(here.absmax, made.absmax.cpu()), "absmax differ")
                n = weight.numel()
                for out in DTYPES:
                    values = codebook(quant_type)
                    expected = dequantize_4bit(here.packed, here.absmax, values, 64, n, out)
                    found = dequantize_4bit(made.packed, made.absmax, values.to(device), 64, n, out)
                    check(f"de{label} to {out}", torch.equal(found.cpu(), expected))
                peer = library.quantize_4bit(there, 64, quant_type)
                if peer is not None and dtype == torch.bfloat16:
                    differ = (peer.packed.cpu() != here.packed).sum().item()
                    print(f"library's CUDA quantizer, {label}: {differ} of {n // 2} bytes differ")
            codes, scales = quantize_rows(weight)
            codes_there, scales_there = quantize_rows(there)
            check(f"int8 {list(shape)} {dtype}", torch.equal(codes, codes_there.cpu()))
            check(f"int8 {list(shape)} {dtype}", torch.equal(scales, scales_there.cpu()))
            peer8 = library.quantize_rows(there)
            if peer8 is not None and dtype == torch.bfloat16:
                differ = (peer8[0].cpu() != codes).sum().item()
                print(f"library's CUDA int8, {list(shape)}: {differ} of {n} codes differ")


def check_products(device: torch.device) -> None:
    """Every kernel and the reference against float64, gradient included."""
    worst: dict[tuple[str, torch.dtype], float] = {}
    for name in CONFIGS:
        for shape in SHAPES:
            if device.type == "cpu" and shape[0] * shape[1] > 100_000:
                continue
            weight = torch.randn(shape, device=device) * 0.02
            for dtype in DTYPES:
                for how in ("kernel", "reference"):
                    packed = make(name, weight, dtype)
                    exact = packed.dequantize(torch.float32).double()
                    kernel = kernel_for(name, device, shape)
                    if how == "kernel":
                        if kernel is None or (name == "int8" and dtype == torch.float32):
                            continue
                        packed.repack(kernel)
                    allowed = 0.04 if how == "kernel" and name == "int8" else TOLERANCE[dtype]
                    for rows in ROWS:
                        x = torch.randn(rows, shape[1], device=device).to(dtype)
                        if rows > 1:
                            x[1, 0] = 20.0  # an outlier
                        x.requires_grad_()
                        y = packed.linear(x)
                        truth = x.detach().double() @ exact.T
                        error = float((y.detach().double() - truth).norm() / truth.norm())
                        label = f"{name} {list(shape)} {dtype} {how}, {rows} rows"
                        check(label, error < allowed, f"error {error:.2e}")
                        key = (f"{name}, {how}", dtype)
                        worst[key] = max(worst.get(key, 0.0), error)
                        pull = torch.randn_like(y)
                        torch.autograd.backward([y], [pull])
                        assert x.grad is not None
                        slope = pull.double() @ exact
                        off = float((x.grad.double() - slope).norm() / slope.norm())
                        check(f"gradient of {label}", off < TOLERANCE[dtype], f"{off:.2e}")
    for (label, dtype), error in worst.items():
        print(f"{label:24s} {dtype!s:16s} largest error {error:.1e}")


def timer(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """Microseconds of a call, the median of several."""

    def measure(call: Callable[[], object]) -> float:
        for _ in range(3):
            call()
        samples: list[float] = []
        for _ in range(15):
            if device.type == "cuda":
                samples.append(_on_gpu(call))
            else:
                start = time.perf_counter()
                call()
                samples.append((time.perf_counter() - start) * 1e6)
        return sorted(samples)[len(samples) // 2]

    return measure


def _on_gpu(call: Callable[[], object], repeat: int = 5) -> float:
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeat):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1000 / repeat


def contenders(
    name: str, weight: Tensor, device: torch.device
) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """What is timed for a layer."""
    shape = (weight.shape[0], weight.shape[1])
    packed = make(name, weight, weight.dtype)
    reference = make(name, weight, weight.dtype)
    packed.repack(kernel_for(name, device, shape))
    yield "quantload", packed.linear
    yield "reference", reference.linear
    bnb = library.cuda_library() if device.type == "cuda" else None
    if bnb is not None and name == "int8":
        state = bnb.MatmulLtState()
        state.CB, state.SCB, state.threshold = packed.codes.data, packed.scales.data, 6.0
        state.has_fp16_weights = False
        yield "library", lambda x: bnb.matmul(x, state.CB, state=state)
    elif bnb is not None:
        data, state4 = bnb.functional.quantize_4bit(
            weight, quant_type="nf4", compress_statistics="double" in name
        )
        yield "library", lambda x: bnb.matmul_4bit(x, data, quant_state=state4)
    yield "float", lambda x: F.linear(x, weight)


def times(device: torch.device, layers: tuple[tuple[int, int], ...], rows: tuple[int, ...]) -> None:
    """The table."""
    measure = timer(device)
    names = ("quantload", "reference", "library", "float")
    print(f"\n{'microseconds, bf16':28s}{'rows':>6s}" + "".join(f"{n:>12s}" for n in names))
    with torch.no_grad():
        for layer in layers:
            weight = (torch.randn(layer, device=device) * 0.02).bfloat16()
            for name in ("nf4", "nf4 double", "int8"):
                calls = dict(contenders(name, weight, device))
                for count in rows:
                    x = torch.randn(count, layer[1], device=device).bfloat16()
                    row = {n: measure(functools.partial(call, x)) for n, call in calls.items()}
                    cells = "".join(f"{row[n]:12.1f}" if n in row else f"{'-':>12s}" for n in names)
                    print(
                        f"{name + ' ' + 'x'.join(map(str, layer)):28s}{count:6d}{cells}", flush=True
                    )


def main() -> None:
    """Check, then time; exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    found = library.cuda_library() if device.type == "cuda" else None
    version = getattr(found, "__version__", "not used")
    where = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    print(f"torch {torch.__version__}, bitsandbytes {version}, {where}")
    check_quantizers(device)
    check_products(device)
    print(f"{len(failures)} failures")
    if device.type == "cuda":
        times(device, LAYERS, TIMED_ROWS)
    else:
        times(device, ((512, 512),), (1, 16))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

"""Quantizing and dequantizing on the CPU, beside the bitsandbytes library.

One weight of 64 Mi elements (8192 x 8192, bf16), block size 64. What both sides make is
compared first, bit for bit. Figures are seconds, the best of several calls in a process.
`double` is the quantization of the 1 Mi absmax of such a weight.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from _common import Case, Meter, main

SIDE = 8192
COMPARED = (1111, 2048)
BLOCK = 64
COLUMNS = ["nf4_s", "fp4_s", "double_s", "int8_s", "decode_fp32_s", "decode_bf16_s"]


def matrix(rows: int, columns: int) -> Any:
    """Random weights in bf16."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return (torch.randn(rows, columns, generator=generator) * 0.02).bfloat16()


def best(call: Callable[[], object], seconds: float = 1.0) -> float:
    """The shortest of as many calls as fit in `seconds`, after one that does not count."""
    call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def library() -> Any:
    """The peer, without its remark on a kernel it would like to download."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def correct() -> None:
    """Compare what is timed."""
    import torch

    from quantload_bitsandbytes.codebooks import codebook
    from quantload_bitsandbytes.dequantize4 import dequantize_4bit
    from quantload_bitsandbytes.int8 import quantize_rows
    from quantload_bitsandbytes.nested import quantize_absmax
    from quantload_bitsandbytes.quantize4 import quantize_4bit

    bnb, weight = library(), matrix(*COMPARED)
    for quant_type in ("nf4", "fp4"):
        mine = quantize_4bit(weight, BLOCK, quant_type)
        packed, state = bnb.functional.quantize_4bit(weight, quant_type=quant_type)
        assert torch.equal(mine.packed, packed.flatten()), quant_type
        assert torch.equal(mine.absmax, state.absmax), quant_type
        back = dequantize_4bit(
            mine.packed, mine.absmax, codebook(quant_type), BLOCK, weight.numel(), torch.bfloat16
        )
        assert torch.equal(back.view(COMPARED), bnb.functional.dequantize_4bit(packed, state))
    nested = quantize_absmax(mine.absmax)
    codes, _ = bnb.functional.quantize_blockwise(mine.absmax - mine.absmax.mean(), blocksize=256)
    assert torch.equal(nested.codes, codes)
    codes8, scales = quantize_rows(weight)
    peer = bnb.nn.Int8Params(weight.clone(), requires_grad=False).to("cpu")
    assert torch.equal(codes8, peer.data)
    assert torch.equal(scales, peer.SCB)
    print("what is timed is equal on both sides, bit for bit")


def ours(meter: Meter) -> None:
    """This plugin, as a loader calls it."""
    import torch

    from quantload_bitsandbytes.codebooks import codebook
    from quantload_bitsandbytes.dequantize4 import dequantize_4bit
    from quantload_bitsandbytes.int8 import quantize_rows
    from quantload_bitsandbytes.nested import quantize_absmax
    from quantload_bitsandbytes.quantize4 import quantize_4bit
    from quantload_bitsandbytes.workspace import Workspace

    weight, space = matrix(SIDE, SIDE), Workspace()
    made = quantize_4bit(weight, BLOCK, "nf4", space)
    meter.note("nf4_s", best(lambda: quantize_4bit(weight, BLOCK, "nf4", space)))
    meter.note("fp4_s", best(lambda: quantize_4bit(weight, BLOCK, "fp4", space)))
    meter.note("double_s", best(lambda: quantize_absmax(made.absmax, space)))
    meter.note("int8_s", best(lambda: quantize_rows(weight, space)))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        decode = functools.partial(
            dequantize_4bit,
            made.packed,
            made.absmax,
            codebook("nf4"),
            BLOCK,
            weight.numel(),
            dtype,
        )
        meter.note(f"decode_{name}_s", best(decode))


def theirs(meter: Meter) -> None:
    """The library's functions."""
    import torch

    bnb, weight = library(), matrix(SIDE, SIDE)
    functional = bnb.functional
    packed, state = functional.quantize_4bit(weight, quant_type="nf4")
    meter.note("nf4_s", best(lambda: functional.quantize_4bit(weight, quant_type="nf4")))
    meter.note("fp4_s", best(lambda: functional.quantize_4bit(weight, quant_type="fp4")))
    absmax = state.absmax
    nested = functools.partial(functional.quantize_blockwise, blocksize=256)
    meter.note("double_s", best(lambda: nested(absmax - absmax.mean())))
    rows = functional.int8_vectorwise_quant
    meter.note("int8_s", best(lambda: rows(weight.to(torch.float16))))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        state.dtype = dtype
        meter.note(f"decode_{name}_s", best(lambda: functional.dequantize_4bit(packed, state)))


CASES: dict[str, Case] = {"quantload": ours, "bitsandbytes": theirs}

if __name__ == "__main__":
    main("bitsandbytes_numerics", CASES, setup=correct, columns=COLUMNS, repeat=3)

"""Products on the CPU, beside the layers of the bitsandbytes library.

A layer of 5632 x 2048, the largest of a 1.1-billion-parameter Llama, with 1, 16 and 128
rows of input. Before it is timed, a product is compared with the one in double precision:
`error` is the norm of the difference over the norm of the product, for 16 rows. Times are
milliseconds, the best of several calls in a process.

In evaluation mode the library rearranges a 4-bit weight in its first call, rounds its
absmax to bf16, and computes in bf16 whatever the input is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from _common import Case, Meter, main
from bitsandbytes_numerics import best, library, matrix

LAYER = (5632, 2048)
ROWS = (1, 16, 128)
CONFIGS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True},
}


def inputs(dtype: str, rows: int) -> Any:
    """Random activations."""
    import torch

    kind = torch.float32 if dtype == "fp32" else torch.bfloat16
    return torch.randn(rows, LAYER[1], generator=torch.Generator().manual_seed(1)).to(kind)


def exact(kind: str, x: Any) -> Any:
    """The product in double precision."""
    import torch

    from quantload import AutoHfQuantizer
    from quantload.plugin import ModuleSpec

    quantizer: Any = AutoHfQuantizer.from_config(CONFIGS[kind])
    weight = quantizer.quantize(ModuleSpec("layer"), matrix(*LAYER))
    return x.double() @ weight.dequantize(torch.float32).double().T


def report(meter: Meter, kind: str, dtype: str, product: Callable[[Any], Any]) -> None:
    """Errors and times of a layer."""
    import torch

    with torch.no_grad():
        x = inputs(dtype, 16)
        true = exact(kind, x)
        meter.note("error", float((product(x).double() - true).norm() / true.norm()))
        for rows in ROWS:
            call = functools.partial(product, inputs(dtype, rows))
            meter.note(f"rows_{rows}_ms", 1e3 * best(call, 0.5))


def ours(kind: str, dtype: str, meter: Meter) -> None:
    """A weight as the loader leaves it, with the kernel that is chosen for it."""
    from quantload import AutoHfQuantizer
    from quantload.kernels.selector import prepare
    from quantload.plugin import ModuleSpec

    quantizer: Any = AutoHfQuantizer.from_config(CONFIGS[kind])
    weight = quantizer.quantize(ModuleSpec("layer"), matrix(*LAYER))
    weight.set_compute_dtype(inputs(dtype, 1).dtype)
    prepare(weight)
    report(meter, kind, dtype, weight.linear)


def theirs(kind: str, dtype: str, meter: Meter) -> None:
    """The library's layer in evaluation mode."""
    bnb = library()
    out_features, in_features = LAYER
    if kind == "nf4":
        layer = bnb.nn.Linear4bit(
            in_features,
            out_features,
            bias=False,
            quant_type="nf4",
            compute_dtype=inputs(dtype, 1).dtype,
            compress_statistics=False,
        )
        layer.weight = bnb.nn.Params4bit(
            matrix(*LAYER), requires_grad=False, quant_type="nf4", compress_statistics=False
        ).to("cpu")
    else:
        layer = bnb.nn.Linear8bitLt(
            in_features, out_features, bias=False, has_fp16_weights=False, threshold=6.0
        )
        layer.weight = bnb.nn.Int8Params(matrix(*LAYER), requires_grad=False).to("cpu")
    report(meter, kind, dtype, layer.eval())


CASES: dict[str, Case] = {
    f"{kind} {dtype}, {name}": functools.partial(side, kind, dtype)
    for kind in CONFIGS
    for dtype in ("fp32", "bf16")
    for name, side in (("quantload", ours), ("bitsandbytes", theirs))
}

if __name__ == "__main__":
    main("bitsandbytes_products", CASES, repeat=3)

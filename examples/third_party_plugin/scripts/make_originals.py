"""Makes tests/originals/layers.safetensors with `hqq` itself; needs hqq 0.2.8 installed.

`python scripts/make_originals.py`. Every layer is 16x64 with a seed of its own, named by how
it was quantized. `NAME.expected` are the numbers that `hqq` reads from it, in float32.
"""

from __future__ import annotations

from pathlib import Path

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer
from safetensors.torch import save_file

TARGET = Path(__file__).resolve().parents[1] / "tests" / "originals" / "layers.safetensors"
CASES: list[tuple[float, int, int | None, bool, torch.dtype]] = [
    (nbits, axis, 32, False, torch.float16)
    for nbits in (8, 6, 5, 4, 3, 2, 1.58, 1)
    for axis in (1, 0)
    if not (nbits == 3 and axis == 0)
]
CASES += [
    (3, 0, 16, False, torch.float16),
    (4, 1, None, False, torch.bfloat16),
    (4, 1, 8, True, torch.float16),
    (3, 1, 16, True, torch.bfloat16),
    (2, 0, 8, True, torch.float32),
    (4, 1, 64, False, torch.float32),
    (4, 1, 128, False, torch.float16),  # a group is two rows
]


def main() -> None:
    tensors = {}
    for number, (nbits, axis, group, viewed, dtype) in enumerate(CASES):
        torch.manual_seed(number)
        linear = torch.nn.Linear(64, 16, bias=False)
        config = BaseQuantizeConfig(nbits=nbits, group_size=group, axis=axis, view_as_float=viewed)
        layer = HQQLinear(linear, config, compute_dtype=dtype, device="cpu", del_orig=False)
        kind = str(dtype).removeprefix("torch.")
        name = f"{nbits}bit-axis{axis}-{group}-{kind}{'-viewed' if viewed else ''}".replace(
            ".", "_"
        )
        for key, value in layer.state_dict().items():
            tensors[f"{name}.{key}"] = value.detach().clone()
        meta = {**layer.meta, "compute_dtype": torch.float32}
        tensors[f"{name}.expected"] = (
            Quantizer.dequantize(layer.W_q.data, meta).float().contiguous()
        )
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, TARGET)
    print(f"{len(CASES)} layers, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""`TritonKernel`: ggml blocks on CUDA, by the kernels of `quantload-kernels-triton`.

A block is taken apart into codes and scales, which stand apart in the arrangement, each
in the order in which the kernels read it. It has the bytes of the block, but for the six-bit
scales of Q4_K and Q5_K, which become bytes (20 in place of 16 for 256 elements).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantload.kernels.contract import Kernel, KernelSpec
from quantload.verdict import Verdict
from quantload_gguf.blocks.kquants import scales_and_minima
from quantload_gguf.ggml import ggml_type
from quantload_gguf.kernels.codes import AFFINE
from quantload_kernels_triton.availability import device_verdict, triton_verdict
from quantload_kernels_triton.blocks import arrange, operators  # noqa: F401  registers the operators
from quantload_kernels_triton.blocks.form import Form

if TYPE_CHECKING:
    from quantload.weights.packed import PackedWeight

FORMS: Mapping[str, Form] = {
    "Q4_0": Form(4, 8, False, 0),
    "Q4_1": Form(4, 0, True, 0),
    "Q5_0": Form(5, 16, False, 0),
    "Q5_1": Form(5, 0, True, 0),
    "Q8_0": Form(8, 128, False, 0),
    "Q4_K": Form(4, 0, True, 32),
    "Q5_K": Form(5, 0, True, 32),
    "Q6_K": Form(6, 32, False, 16),
}
"""Type -> what the kernels make of it."""

CHUNK_ELEMENTS = 1 << 26
"""Elements of a weight that are arranged or restored at a time."""


class TritonKernel(Kernel):
    """Every block read once for few rows; made into operands tile by tile for many."""

    name = "ggml-triton"
    priority = 20
    groups = True

    def supports(self, spec: KernelSpec) -> Verdict:
        """The types of `FORMS` in float16 and bfloat16."""
        kind = str(spec.params.get("ggml_type"))
        if spec.layout != "ggml":
            return Verdict.no(f"runs ggml blocks, not {spec.layout}")
        if kind not in FORMS:
            return Verdict.no(f"has no form for {kind}; it has for {', '.join(FORMS)}")
        if spec.dtype not in (torch.float16, torch.bfloat16):
            return Verdict.no(
                f"computes in float16 and bfloat16, not in {str(spec.dtype).split('.')[-1]}"
            )
        if len(spec.shape) != 2:
            return Verdict.no(f"runs matrices, the shape is {tuple(spec.shape)}")
        return Verdict.all([triton_verdict(), device_verdict(spec.device, spec.capability)])

    def arrange(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """Codes and scales apart; see `quantload_kernels_triton.blocks.arrange`."""
        name = _type(weight)
        form, affine, kind = FORMS[name], AFFINE[name], ggml_type(name)
        blocks = weight.storage()["blocks"]
        rows, columns = weight.shape
        low = blocks.new_empty(form.low(rows, columns).words_shape, dtype=torch.int16).squeeze(2)
        high = None
        if form.high_bits:
            shape = form.high(rows, columns).words_shape
            high = blocks.new_empty(shape, dtype=torch.int16).squeeze(2)
        scales = blocks.new_empty(form.scales_shape(rows, columns), dtype=torch.float16)
        steps = minima = None
        if form.steps:
            steps = blocks.new_empty(form.steps_shape(rows, columns), dtype=torch.int32)
            if form.offsets:
                minima = blocks.new_empty(form.minima_shape(rows, columns), dtype=torch.int32)
        for part, tiles in _chunks(rows, columns):
            mine = blocks[part].reshape(-1, kind.nbytes)
            count = blocks[part].shape[0]
            codes = affine.split(mine).view(count, columns)
            first, second = arrange.arrange_codes(codes, form)
            low[tiles] = first.squeeze(2)
            if high is not None and second is not None:
                high[tiles] = second.squeeze(2)
            values, whole, least = _scaling(mine, name)
            scales[tiles] = arrange.arrange_scales(values.reshape(count, -1, values.shape[-1]))
            if steps is not None and whole is not None:
                steps[tiles] = arrange.arrange_steps(whole.reshape(count, -1))
            if minima is not None and least is not None:
                minima[tiles] = arrange.arrange_minima(least.reshape(count, -1))
        return {"low": low, "high": high, "scales": scales, "steps": steps, "minima": minima}

    def restore(self, weight: PackedWeight) -> dict[str, Tensor | None]:
        """The blocks, byte for byte."""
        name = _type(weight)
        rows, columns = weight.shape
        kind = ggml_type(name)
        low: Any = weight._parameters["low"]
        blocks = low.new_empty((rows, kind.row_bytes(columns)), dtype=torch.uint8)
        for part, tiles in _chunks(rows, columns):
            blocks[part] = _restored(weight, name, tiles, blocks[part].shape[0])
        return {"blocks": blocks}

    def blocks_of_rows(self, weight: PackedWeight, ids: Tensor) -> Tensor:
        """The blocks of some rows, uint8 `[len(ids), bytes per row]`."""
        name = _type(weight)
        form, stored = FORMS[name], weight.storage()
        codes = arrange.codes_of_rows(stored["low"], stored.get("high"), form, weight.shape[1], ids)
        scales = arrange.scales_of_rows(stored["scales"], ids)
        steps = minima = None
        if "steps" in stored:
            steps = arrange.steps_of_rows(stored["steps"], ids)
        if "minima" in stored:
            minima = arrange.minima_of_rows(stored["minima"], ids)
        return _joined(name, codes, scales, steps, minima)

    def linear(self, weight: PackedWeight, x: Tensor) -> Tensor:
        """See `Kernel.linear`."""
        form = FORMS[_type(weight)]
        stored = weight._parameters
        product: Tensor = torch.ops.quantload_triton.blocks_linear(
            x,
            stored["low"],
            stored["high"],
            stored["scales"],
            stored["steps"],
            stored["minima"],
            form.bits,
            form.zero,
            form.offsets,
            form.steps,
            weight.shape[0],
        )
        return product


def _type(weight: PackedWeight) -> str:
    name: Any = weight.kernel_params()["ggml_type"]
    return str(name)


def _chunks(rows: int, columns: int) -> list[tuple[slice, slice]]:
    """Runs of rows, and of the tiles of 16 rows that they fill."""
    step = max(1, CHUNK_ELEMENTS // (16 * columns))
    tiles = -(-rows // 16)
    return [
        (slice(16 * a, min(16 * (a + step), rows)), slice(a, min(a + step, tiles)))
        for a in range(0, tiles, step)
    ]


def _scaling(blocks: Tensor, name: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Scales float16 `[n, 1 or 2]`, steps and minima uint8 `[n, 16 or 8]` of blocks."""
    if name in ("Q4_K", "Q5_K"):
        return _half(blocks, 0, 2), *scales_and_minima(blocks[:, 4:16])
    if name == "Q6_K":
        return _half(blocks, 208, 1), blocks[:, 192:208], None
    return _half(blocks, 0, 2 if FORMS[name].offsets else 1), None, None


def _half(blocks: Tensor, start: int, count: int) -> Tensor:
    return blocks[:, start : start + 2 * count].contiguous().view(torch.float16)


def _restored(weight: PackedWeight, name: str, tiles: slice, rows: int) -> Tensor:
    """The blocks of the rows of some tiles, `[rows, bytes per row]`."""
    form, stored = FORMS[name], weight.storage()
    low, high = stored["low"][tiles].unsqueeze(2), stored.get("high")
    if high is not None:
        high = high[tiles].unsqueeze(2)
    codes = arrange.restore_codes(low, high, form, rows, weight.shape[1])
    scales = arrange.restore_scales(stored["scales"][tiles], rows)
    steps = minima = None
    if "steps" in stored:
        steps = arrange.restore_steps(stored["steps"][tiles], rows)
    if "minima" in stored:
        minima = arrange.restore_minima(stored["minima"][tiles], rows)
    return _joined(name, codes, scales, steps, minima)


def _joined(
    name: str, codes: Tensor, scales: Tensor, steps: Tensor | None, minima: Tensor | None
) -> Tensor:
    """The blocks of rows from what was taken out of them, `[rows, bytes per row]`.

    Args:
        name: of the type.
        codes: uint8 `[rows, columns]`.
        scales: float16 `[rows, groups, 1 or 2]`.
        steps: uint8 `[rows, groups]`, or None.
        minima: likewise.
    """
    affine, kind = AFFINE[name], ggml_type(name)
    count = codes.numel() // kind.elements
    blocks = codes.new_zeros((count, kind.nbytes))
    halves = scales.reshape(count, scales.shape[-1]).contiguous().view(torch.uint8)
    start = 208 if name == "Q6_K" else 0
    blocks[:, start : start + halves.shape[1]] = halves
    if minima is not None and steps is not None:
        blocks[:, 4:16] = _six_bits(steps.reshape(count, 8), minima.reshape(count, 8))
    elif steps is not None:
        blocks[:, 192:208] = steps.reshape(count, 16)
    affine.join(blocks, codes.reshape(count, kind.elements))
    return blocks.view(codes.shape[0], -1)


def _six_bits(scales: Tensor, minima: Tensor) -> Tensor:
    """The inverse of `scales_and_minima`, uint8 `[n, 12]`."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minima[:, :4] | ((minima[:, 4:] >> 4) << 6)
    mixed = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    return torch.cat([first, second, mixed], dim=1)

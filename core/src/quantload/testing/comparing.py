"""How the suites compare: bytes exactly, products against float64 within their rounding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, flat."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (a NaN equals itself)."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(raw(one), raw(other))


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What is different between two sets of tensors, in words; empty where nothing is."""
    said = [f"{name} is missing" for name in sorted(set(expected) - set(found))]
    said += [f"{name} was not there" for name in sorted(set(found) - set(expected))]
    for name in sorted(set(found) & set(expected)):
        one, other = found[name], expected[name]
        if one.dtype != other.dtype or one.shape != other.shape:
            said.append(
                f"{name} is {one.dtype} {list(one.shape)}, was {other.dtype} {list(other.shape)}"
            )
        elif not same_bytes(one, other):
            count = int((raw(one) != raw(other)).sum())
            said.append(f"{name}: {count} of {one.nbytes} bytes differ")
    return said


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that later changes do not reach."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def product_excess(y: Tensor, x: Tensor, matrix: Tensor, allowed: float = 0.0) -> float:
    """How far a product lies outside its rounding; at most 1 where it is right.

    Compared is `y` with `x @ matrix.T` in float64. Allowed are, in units of
    `|x| @ |matrix|.T`: the rounding of the weight and of the result to `y.dtype`, a
    float32 sum in any order, and `allowed`.

    Args:
        y: the product, `[..., out_features]`.
        x: `[..., in_features]`.
        matrix: `[out_features, in_features]`.
        allowed: what the method may add (a product with quantized inputs).
    """
    wide_x, wide = x.detach().double(), matrix.detach().double()
    truth = wide_x @ wide.T
    scale = wide_x.abs() @ wide.abs().T
    eps = 4 * torch.finfo(y.dtype).eps + matrix.shape[-1] * torch.finfo(torch.float32).eps
    room = (eps + allowed) * scale + 4 * torch.finfo(y.dtype).tiny
    if y.dtype == torch.float64:  # summed in float64, of a weight that float32 holds
        room = (1e-6 + allowed) * scale + 1e-300
    if not truth.numel():
        return 0.0
    excess = ((y.detach().double() - truth).abs() / room).max().item()
    return float("inf") if excess != excess else float(excess)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """`|found - expected| / |expected|` over all elements, in float64."""
    wide = expected.double()
    return float(((found.double() - wide).norm() / wide.norm()).item())

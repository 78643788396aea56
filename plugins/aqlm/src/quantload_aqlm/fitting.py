"""A plain fit of codebooks to a weight: residual k-means, no calibration data."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 10
VECTORS_PER_CENTRE = 64
"""A sample of this size moves the centres; more changes them little and costs much."""
DISTANCES_AT_A_TIME = 1 << 21
"""Small enough to stay in the cache between the product and the search."""


def nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre for each of `[n, d]` vectors; `centres` is `[k, d]`."""
    norms = centres.pow(2).sum(1)
    step = max(1, DISTANCES_AT_A_TIME // len(centres))
    parts = [
        torch.addmm(norms, chunk, centres.T, alpha=-2).argmin(1)
        for chunk in torch.split(vectors, step)
    ]
    return torch.cat(parts)


def k_means(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` centres `[count, d]` for `[n, d]` vectors; all vectors where there are fewer."""
    if len(vectors) <= count:
        missing = count - len(vectors)
        return torch.cat([vectors, vectors.new_zeros(missing, vectors.shape[1])])
    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    vectors = vectors[order[: count * VECTORS_PER_CENTRE]]
    centres = vectors[:count].clone()
    for _ in range(ITERATIONS):
        index = nearest(vectors, centres)
        sums = torch.zeros_like(centres).index_add_(0, index, vectors)
        sizes = torch.bincount(index, minlength=count).to(vectors.dtype)
        used = sizes > 0
        centres[used] = sums[used] / sizes[used, None]
        empty = int((~used).sum())
        if empty:  # put them where the error is largest
            error = (vectors - centres[index]).pow(2).sum(1)
            centres[~used] = vectors[error.topk(empty).indices]
    return centres


def fit(
    weight: Tensor, codebooks: int, nbits: int, out_group: int, in_group: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, codebooks and scales for a float weight.

    Each codebook is fitted to what those before it leave over.

    Args:
        weight: `[out_features, in_features]`; the groups divide it evenly.
        codebooks: how many.
        nbits: width of a code.
        out_group: rows per group.
        in_group: columns per group.
        seed: of the initial centres.

    Returns:
        codes int64 `[out / out_group, in / in_group, codebooks]`, values from 0;
        codebooks float32 `[codebooks, 2 ** nbits, out_group, in_group]`;
        scales float32 `[out / out_group, 1, 1, 1]`.
    """
    rows, columns = weight.shape[0] // out_group, weight.shape[1] // in_group
    tiles = weight.float().reshape(rows, out_group, columns, in_group).transpose(1, 2)
    scales = tiles.pow(2).mean(dim=(1, 2, 3), keepdim=True).sqrt()
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    rest = (tiles / scales).reshape(rows * columns, out_group * in_group)
    generator = torch.Generator().manual_seed(seed)
    codes, books = [], []
    for _ in range(codebooks):
        centres = k_means(rest, 1 << nbits, generator)
        own_centre = len(rest) <= len(centres)
        index = (
            torch.arange(len(rest), device=rest.device) if own_centre else nearest(rest, centres)
        )
        rest = rest - centres[index]
        codes.append(index)
        books.append(centres)
    return (
        torch.stack(codes, 1).reshape(rows, columns, codebooks),
        torch.stack(books).reshape(codebooks, 1 << nbits, out_group, in_group),
        scales,
    )

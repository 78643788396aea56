"""Sums of products of bytes, with what the processor has for them."""

from __future__ import annotations

from quantload_kernels_cpu.emit.value import I16, I32, Value, vector


def dot(sums: Value, codes: Value, limbs: Value, vnni: bool) -> Value:
    """`sums` plus the products of four neighbouring bytes, int32 `[16]`.

    Args:
        sums: int32 `[16]`.
        codes: `[64]` bytes without a sign.
        limbs: `[64]` bytes with a sign.
        vnni: whether the processor has AVX-512 VNNI, which does it in one instruction.
    """
    if vnni:
        words = vector(I32, 16)
        return sums._call(
            "llvm.x86.avx512.vpdpbusd.512", words, codes.seen_as(words), limbs.seen_as(words)
        )
    found = sums
    halves = []
    for start in (0, 16, 32, 48):
        part = range(start, start + 16)
        wide = codes.shuffled(part).widened(I16)
        other = limbs.shuffled(part).widened_signed(I16)
        halves.append(wide._call("llvm.x86.avx2.pmadd.wd", vector(I32, 8), other))
    for index in (0, 2):
        pairs = halves[index].shuffled(range(16), halves[index + 1])
        halves[index] = pairs.shuffled(range(0, 16, 2)) + pairs.shuffled(range(1, 16, 2))
    return found + halves[0].shuffled(range(16), halves[2])

"""The checkpoint's tensors of one layer, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quantload.plugin import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from quantload.plugin import ModuleSpec, TensorHeader

NAMES = ("codes", "codebooks", "scales")
CODE_BITS = {"I8": 8, "I16": 16, "I32": 32}
FLOATS = ("F16", "BF16", "F32")


def checked_shape(module: str, headers: Mapping[str, TensorHeader]) -> tuple[int, int]:
    """`(out_features, in_features)` of a layer, told by its tensors.

    Args:
        module: name of the layer, for messages.
        headers: "codes", "codebooks" and "scales".

    Raises:
        CheckpointError: one is missing, or they contradict each other.
    """
    for name in NAMES:
        if name not in headers:
            raise CheckpointError(f"{module}.{name} is missing; found {', '.join(headers)}")
    codes, books, scales = (headers[name] for name in NAMES)
    _demand(module, "codes", len(codes.shape) == 3, "three dimensions", codes.shape)
    _demand(module, "codebooks", len(books.shape) == 4, "four dimensions", books.shape)
    _demand(module, "codes", codes.dtype in CODE_BITS, "int8, int16 or int32", codes.dtype)
    _demand(module, "codebooks", books.dtype in FLOATS, "a float dtype", books.dtype)
    _demand(module, "scales", scales.dtype in FLOATS, "a float dtype", scales.dtype)
    count, entries, out_group, in_group = books.shape
    power = entries >= 2 and entries & (entries - 1) == 0
    _demand(module, "codebooks", power, "a power of two of entries", entries)
    bits = entries.bit_length() - 1
    wide = bits <= CODE_BITS.get(codes.dtype, 0)
    _demand(module, "codes", wide, f"a dtype that holds {bits} bits", codes.dtype)
    same = codes.shape[2] == count
    _demand(module, "codes", same, f"one code for each of {count} codebooks", codes.shape)
    fits = tuple(scales.shape) == (codes.shape[0], 1, 1, 1)
    _demand(module, "scales", fits, f"shape {[codes.shape[0], 1, 1, 1]}", list(scales.shape))
    return codes.shape[0] * out_group, codes.shape[1] * in_group


def check_module(spec: ModuleSpec, found: tuple[int, int]) -> None:
    """Refuse tensors of a layer of another shape than the module's.

    Raises:
        CheckpointError: `spec` has a shape and it is not `found`.
    """
    if spec.shape is not None and tuple(spec.shape) != found:
        raise CheckpointError(
            f"{spec.name}: the tensors are those of a {found[0]}x{found[1]} layer, the module is "
            f"{spec.shape[0]}x{spec.shape[1]}; they are damaged or another module's"
        )


def check_values(module: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse codebooks and scales that hold no numbers.

    Raises:
        CheckpointError: NaN or infinity in a tensor, which is named.
    """
    for name in ("codebooks", "scales"):
        good = bool(tensors[name].isfinite().all())
        _demand(module, name, good, "finite numbers", "NaN or infinity")


def _demand(module: str, name: str, good: bool, expected: str, found: object) -> None:
    if not good:
        raise CheckpointError(f"{module}.{name}: expected {expected}, found {found}")

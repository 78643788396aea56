"""The tensors of one HQQ layer, checked.

The source is `HQQLinear.state_dict` of hqq 0.2.8. Beside `W_q`, `scale` and `zero` a layer
has its settings as tensors: numbers, flags, and text as the codes of its letters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantload.plugin import CheckpointError, ModuleSpec, TensorHeader
from quantload_hqq.packing import NAME_FOR, PACKINGS, Packing, fits

CORE = ("W_q", "scale", "zero")
NEEDED = ("nbits", "group_size", "shape", "axis", "packing")
# setting -> what its tensor is
SETTINGS = {
    "nbits": "number",
    "group_size": "number",
    "axis": "number",
    "shape": "pair",
    "packing": "text",
    "unpack_view_dtype": "text",
    "compute_dtype": "text",
    "view_as_float": "flag",
    "quant_scale": "flag",
    "quant_zero": "flag",
    "offload_meta": "flag",
    "encoded_state_dict": "flag",
    "stores_quant_config": "flag",
    "channel_wise": "flag",
    "optimize": "flag",
    "round_zero": "flag",
}
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
WORDS = {"U8": torch.uint8, "I32": torch.int32}
_KINDS = {
    "number": (("I32", "F32"), 0),
    "pair": (("I64",), 1),
    "text": (("U8",), 1),
    "flag": (("U8",), 0),
}
# name in a header -> bytes of an element
_WIDTH = {"U8": 1, "I32": 4, "F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Layer:
    """What the settings of a layer say.

    Attributes:
        nbits: bits of a code.
        group_size: weights in a group.
        axis: 1 where a group is a run of weights, 0 where they lie apart.
        packing: name of the packing.
        shape: `(out_features, in_features)`.
        viewed: the float dtype under which the words are stored; None where their own.
    """

    nbits: float
    group_size: int
    axis: int
    packing: str
    shape: tuple[int, int]
    viewed: torch.dtype | None = None

    @property
    def how(self) -> Packing:
        """The packing itself."""
        return PACKINGS[self.packing]

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return self.shape[0] * self.shape[1] // self.group_size

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape of the codes: a group to a row, or to a column."""
        size = (self.groups, self.group_size)
        return size if self.axis == 1 else (size[1], size[0])

    @property
    def words(self) -> tuple[int, int]:
        """Shape of the words."""
        rows, columns = self.matrix
        return self.how.words(rows), columns

    @property
    def parameters(self) -> tuple[int, int]:
        """Shape of the scales and zero-points."""
        return (self.groups, 1) if self.axis == 1 else (1, self.groups)

    @property
    def by_rows(self) -> bool:
        """Whether every group is a part of one row, as group-wise integers have it."""
        return self.axis == 1 and self.shape[1] % self.group_size == 0 and self.how.bits > 1

    def problem(self) -> str:
        """Why no layer can be like this; "" where one can."""
        if 0 in self.shape or self.shape[0] * self.shape[1] % self.group_size:
            return f"groups of {self.group_size} do not divide {self.shape[0]}x{self.shape[1]}"
        if not fits(self.matrix[0], self.how):
            return f"{self.matrix[0]} rows of codes do not fill words of {self.how.per_word}"
        return ""


def from_headers(
    module: str, headers: Mapping[str, TensorHeader], shape: tuple[int, int], nbits: float
) -> Layer:
    """The layer that tensors of a module of this shape are, as far as headers tell.

    Args:
        module: for messages.
        headers: of the layer; see `check_headers`.
        shape: of the module.
        nbits: what the config says, where several widths make tensors of one size.

    Raises:
        CheckpointError: they are those of no layer of this shape.
    """
    words, scale = headers["W_q"], headers["scale"]
    axis = 1 if scale.shape[1] == 1 else 0
    groups, total = max(scale.shape), shape[0] * shape[1]
    viewed = FLOATS.get(words.dtype)
    for bits in dict.fromkeys((nbits, *NAME_FOR)):
        if groups == 0 or total % groups:
            break
        layer = Layer(bits, total // groups, axis, NAME_FOR[bits], shape, viewed)
        if layer.problem() or not _is_of(words, layer):
            continue
        return layer
    raise CheckpointError(
        f"{module}: W_q {words.dtype} {list(words.shape)} and scale {list(scale.shape)} are those "
        f"of no HQQ layer of {shape[0]}x{shape[1]}"
    )


def _is_of(words: TensorHeader, layer: Layer) -> bool:
    rows, columns = layer.words
    row_bytes = columns * (torch.iinfo(layer.how.dtype).bits // 8)
    named = words.dtype in FLOATS or WORDS.get(words.dtype) == layer.how.dtype
    stored = len(words.shape) == 2 and words.shape[1] * _WIDTH.get(words.dtype, 0)
    return named and words.shape[0] == rows and stored == row_bytes


def check_headers(module: str, headers: Mapping[str, TensorHeader]) -> None:
    """Refuse tensors that are not what an HQQ layer has.

    Raises:
        CheckpointError: one is missing, or of another dtype or number of dimensions.
    """
    for name in (*CORE, *NEEDED):
        if name not in headers:
            raise CheckpointError(
                f"{module}.{name} is missing; an HQQ layer has {', '.join((*CORE, *NEEDED))}"
            )
    for name in CORE:
        dtypes = (*WORDS, *FLOATS) if name == "W_q" else tuple(FLOATS)
        _expect(module, name, headers[name], dtypes, 2)
    if headers["scale"].dtype != headers["zero"].dtype or 1 not in headers["scale"].shape:
        raise CheckpointError(
            f"{module}: scale {headers['scale'].dtype} {list(headers['scale'].shape)} and zero "
            f"{headers['zero'].dtype} {list(headers['zero'].shape)} should be alike, one column "
            f"or one row"
        )
    for name, kind in SETTINGS.items():
        if name in headers:
            _expect(module, name, headers[name], *_KINDS[kind])


def _expect(
    module: str, name: str, header: TensorHeader, dtypes: tuple[str, ...], rank: int
) -> None:
    if header.dtype not in dtypes or len(header.shape) != rank:
        raise CheckpointError(
            f"{module}.{name}: expected {' or '.join(dtypes)} with {rank} dimensions, found "
            f"{header.dtype} {list(header.shape)}"
        )


def settings_of(module: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings of a layer as Python values, in the order of the tensors.

    Raises:
        CheckpointError: one holds what it cannot.
    """
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        kind = SETTINGS.get(name)
        values: Any = tensor.tolist() if kind else None
        if kind == "text":
            found[name] = "".join(map(chr, values))
        elif kind == "flag":
            found[name] = _one_of(module, name, values, (0, 1)) == 1
        elif kind == "pair":
            found[name] = tuple(values)
        elif kind == "number":
            found[name] = round(values, 4) if isinstance(values, float) else values
    return found


def encoded(settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The settings as the tensors of a checkpoint."""
    made = {}
    for name, value in settings.items():
        kind = SETTINGS[name]
        if kind == "text":
            made[name] = torch.tensor(list(value.encode("latin-1")), dtype=torch.uint8)
        elif kind == "flag":
            made[name] = torch.tensor(int(value), dtype=torch.uint8)
        elif kind == "pair":
            made[name] = torch.tensor(value, dtype=torch.int64)
        else:
            dtype = torch.float32 if isinstance(value, float) else torch.int32
            made[name] = torch.tensor(value, dtype=dtype)
    return made


def checked(spec: ModuleSpec, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Layer:
    """The layer that the settings describe, and the tensors are of.

    Raises:
        CheckpointError: they contradict each other or the module, or are not read here.
    """
    name = spec.name
    for flag in ("quant_scale", "quant_zero"):
        if settings.get(flag):
            raise CheckpointError(f"{name}: {flag} is set; quantized scales and zeros are not read")
    if not settings.get("channel_wise", True):
        raise CheckpointError(f"{name}: channel_wise is not set; such layers are not read")
    nbits = _one_of(name, "nbits", settings["nbits"], tuple(NAME_FOR))
    packing = _one_of(name, "packing", settings["packing"], (NAME_FOR[nbits],))
    axis = _one_of(name, "axis", settings["axis"], (0, 1))
    shape, size = settings["shape"], settings["group_size"]
    small = isinstance(size, int) and 0 < size < 2**31 and all(0 < n < 2**31 for n in shape)
    if not small or len(shape) != 2:
        raise CheckpointError(f"{name}: no layer has shape {list(shape)} and groups of {size}")
    if spec.shape is not None and tuple(spec.shape) != shape:
        raise CheckpointError(
            f"{name}.shape: found {list(shape)}, the module is {list(spec.shape)}; the tensors are "
            f"damaged or another module's"
        )
    words = tensors["W_q"]
    viewed = words.dtype if words.is_floating_point() else None
    layer = Layer(nbits, size, axis, packing, shape, viewed)
    _one_of(
        name,
        "view_as_float",
        settings.get("view_as_float", viewed is not None),
        (viewed is not None,),
    )
    own = str(layer.how.dtype)
    _one_of(name, "unpack_view_dtype", settings.get("unpack_view_dtype", own), (own,))
    _one_of(
        name,
        "compute_dtype",
        settings.get("compute_dtype", "torch.float16"),
        ("torch.float16", "torch.bfloat16", "torch.float32"),
    )
    if layer.problem():
        raise CheckpointError(f"{name}: {layer.problem()}")
    scale, zero = tensors["scale"], tensors["zero"]
    if tuple(scale.shape) != layer.parameters or scale.shape != zero.shape:
        raise CheckpointError(
            f"{name}: scale {list(scale.shape)} and zero {list(zero.shape)}, expected "
            f"{list(layer.parameters)} for {layer.groups} groups"
        )
    rows, columns = layer.words
    stored = columns * layer.how.dtype.itemsize / words.dtype.itemsize
    if tuple(words.shape) != (rows, stored) or (viewed is None and words.dtype != layer.how.dtype):
        raise CheckpointError(
            f"{name}.W_q: found {words.dtype} {list(words.shape)}, expected {own} "
            f"{[rows, columns]} for {nbits} bits"
        )
    for key in ("scale", "zero"):
        if not bool(torch.isfinite(tensors[key]).all()):
            raise CheckpointError(f"{name}.{key} holds NaN or infinite values; the file is damaged")
    return layer


def _one_of(module: str, name: str, found: Any, allowed: tuple[Any, ...]) -> Any:
    for value in allowed:
        close = isinstance(found, (int, float)) and isinstance(value, (int, float))
        if found == value or (close and math.isclose(found, value, rel_tol=1e-3)):
            return value
    listed = ", ".join(map(repr, allowed))
    raise CheckpointError(f"{module}.{name}: found {found!r}, expected {listed}")

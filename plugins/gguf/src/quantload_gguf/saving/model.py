"""`write_model`: a model becomes a `.gguf` file, or several (`write_parts`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantload.errors import UnsupportedOperationError
from quantload_gguf.architectures import ARCHITECTURES, Facts
from quantload_gguf.container import Field, ValueType
from quantload_gguf.container.header import ALIGNMENT_KEY
from quantload_gguf.container.split import COUNT, NUMBER, TENSORS, part_name
from quantload_gguf.container.writing import Planned, write_gguf
from quantload_gguf.ggml import ggml_type
from quantload_gguf.origin import Origin
from quantload_gguf.saving.checking import check_config, check_tensors
from quantload_gguf.saving.draft import Draft
from quantload_gguf.saving.metadata import (
    architecture_for,
    fields_of,
    merged,
    padded_vocabulary,
    types_of,
)
from quantload_gguf.saving.tensors import parts_of, plan
from quantload_gguf.saving.tokenizer import tokenizer_fields

if TYPE_CHECKING:
    from quantload.plugin import ModelParts

logger = logging.getLogger("quantload.gguf")


def write_model(parts: ModelParts, path: Path) -> None:
    """Write a model as one `.gguf` file that loads again equal.

    Packed weights are written as the blocks they are, floats in their dtype and
    vectors in float32. The metadata of a model that came from a `.gguf` file is
    kept; otherwise it is made from the config, and the tokenizer from the files of the
    checkpoint's folder.

    Args:
        parts: the model.
        path: of the file; written in place.

    Raises:
        UnsupportedOperationError: the format has no words for the model.
        OSError: the file cannot be written.
    """
    _write(parts, path, None)


def write_parts(parts: ModelParts, path: Path, size: int) -> list[Path]:
    """Write a model as `.gguf` files; the same as `write_model` otherwise.

    The metadata is in the first, as llama.cpp's `gguf-split` and converter have it.

    Args:
        parts: the model.
        path: that the names are made from: `m.gguf` gives `m-00001-of-00002.gguf`. One file
            is enough for a small model, and has this name.
        size: bytes that the tensors of one file may take; a larger tensor has one to itself.

    Returns:
        The files, in order.

    Raises:
        UnsupportedOperationError, OSError: see `write_model`.
    """
    return _write(parts, path, size)


def _write(parts: ModelParts, path: Path, size: int | None) -> list[Path]:
    model: Any = parts.model
    if getattr(model, "config", None) is None or not hasattr(model.config, "model_type"):
        raise UnsupportedOperationError(
            f"only models of transformers are written as .gguf files, found a "
            f"{type(model).__name__}; save it into a folder instead"
        )
    name = architecture_for(model)
    made, factors = fields_of(model, name)
    origin = parts.origin if isinstance(parts.origin, Origin) else None
    fields = _fields(made, origin) if origin else made | tokenizer_fields(parts, model)
    tensors = parts_of(parts)
    facts = Facts(Draft(path, fields))
    planned = [
        *plan(tensors, ARCHITECTURES[name], facts, type(model).__name__),
        *(_factors(key, numbers) for key, numbers in factors.items()),
    ]
    padded_vocabulary(fields, _rows(planned))
    # Kernels may keep scales of another dtype among the parameters that `model.dtype` asks.
    computed = next((w.dtype for w in parts.weights.values()), getattr(model, "dtype", "float32"))
    types = types_of(planned, str(computed).removeprefix("torch."))
    if origin is not None and origin.kinds == {p.kind.name for p in planned}:
        types |= origin.types()  # which of the mixtures it is, the types alone do not say
    lots = [planned] if size is None else _lots(planned, size)
    files = _files(path, fields | types, lots)
    check_config(files[0], model, name)
    check_tensors(files[0], tensors)
    return files


def _lots(planned: list[Planned], size: int) -> list[list[Planned]]:
    """The tensors of each file, in order."""
    found: list[list[Planned]] = []
    taken = 0
    for tensor in planned:
        if not found or taken + tensor.nbytes > size:
            found.append([])
            taken = 0
        found[-1].append(tensor)
        taken += tensor.nbytes
    return found


def _files(path: Path, fields: dict[str, Field], lots: list[list[Planned]]) -> list[Path]:
    """Write the files."""
    if len(lots) <= 1:
        write_gguf(path, fields, [tensor for lot in lots for tensor in lot])
        return [path]
    total = sum(map(len, lots))
    files = [path.with_name(part_name(path.name, i, len(lots))) for i in range(len(lots))]
    for number, (file, lot) in enumerate(zip(files, lots, strict=True)):
        # In the types that the gguf package writes, and llama.cpp insists on.
        own = {
            NUMBER: Field(number, ValueType.UINT16),
            COUNT: Field(len(lots), ValueType.UINT16),
            TENSORS: Field(total, ValueType.INT32),
        }
        rest = {key: fields[key] for key in (ALIGNMENT_KEY,) if key in fields}
        write_gguf(file, (fields if number == 0 else rest) | own, lot)
    return files


def _fields(made: dict[str, Field], origin: Origin) -> dict[str, Field]:
    kept = origin.fields()
    if origin.architecture == made["general.architecture"].value:
        return merged(made, kept)
    return made | {key: field for key, field in kept.items() if key.startswith("tokenizer.")}


def _rows(planned: list[Planned]) -> int:
    return next((t.shape[0] for t in planned if t.name == "token_embd.weight"), 0)


def _factors(name: str, numbers: list[float]) -> Planned:
    import torch

    made = torch.tensor(numbers, dtype=torch.float32)
    return Planned(name, (len(numbers),), ggml_type("F32"), lambda: made)

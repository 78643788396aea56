"""Which of the files in a folder or repository are the weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from quantload.errors import CheckpointError

SUFFIX = ".safetensors"
BASE_NAMES = ("model", "diffusion_pytorch_model")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PART = re.compile(r"(?P<base>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})\.(?P<suffix>\w+)")
"""One file of several, as in `model-00002-of-00003.safetensors`."""


def is_index(name: str) -> bool:
    """Whether a file name is that of an index of safetensors shards."""
    return name.endswith(".json") and f"{SUFFIX}.index." in name


def locate_weights(
    names: Collection[str],
    where: str,
    *,
    variant: str | None = None,
    base_name: str | None = None,
) -> str | None:
    """The file that leads to the weights: a safetensors file or the index of several.

    Looked for are `model` and `diffusion_pytorch_model` (or `base_name` alone),
    each as one file first and then as an index, as `transformers` does; then, if
    there is only one safetensors file at all, that one.

    Args:
        names: the file names there are, without folders.
        where: the folder or repository, for messages.
        variant: the part before the suffix: "fp16" for `model.fp16.safetensors`.
        base_name: name without suffix, such as `gptq_model-4bit-128g`.

    Returns:
        The name, or None where there are no safetensors files.

    Raises:
        CheckpointError: the one that was asked for is absent, or it is open which
            one is meant.
    """
    bases = (base_name.removesuffix(SUFFIX),) if base_name else BASE_NAMES
    for base in bases:
        for name in _candidates(base, variant):
            if name in names:
                return name
    found = sorted(name for name in names if name.endswith(SUFFIX))
    if base_name or variant:
        wanted = " or ".join(name for base in bases for name in _candidates(base, variant))
        raise CheckpointError(
            f"{where}: expected {wanted}, found {_listed([*found, *filter(is_index, names)])}; "
            f"leave out variant= and base_name= or choose ones that are there"
        )
    if len(found) <= 1:
        return found[0] if found else None
    parts = [PART.fullmatch(name) for name in found]
    if parts[0] is not None and all(parts):
        raise CheckpointError(
            f"{where}: shards without an index, {_listed(found)}; expected "
            f"{parts[0]['base']}{SUFFIX}.index.json. Download it, or name the shards: files=[...]"
        )
    indexes = sorted(filter(is_index, names))
    raise CheckpointError(
        f"{where}: several safetensors files and none is called model.safetensors: "
        f"{_listed([*found, *indexes])}. Choose with base_name={found[0].removesuffix(SUFFIX)!r}, "
        f"variant=..., or files=[...], or open the file itself"
    )


def _candidates(base: str, variant: str | None) -> tuple[str, ...]:
    if not variant:
        return f"{base}{SUFFIX}", f"{base}{SUFFIX}.index.json"
    return (
        f"{base}.{variant}{SUFFIX}",
        f"{base}{SUFFIX}.index.{variant}.json",  # what transformers writes
        f"{base}.{variant}{SUFFIX}.index.json",
    )


def no_weights(names: Iterable[str], where: str) -> CheckpointError:
    """The error for a place without safetensors files: what is there, and what to do."""
    present = sorted(names)
    pickles = [n for n in present if is_pickle(n)]
    if pickles:
        return pickle_refused(f"{where}/{pickles[0]}")
    if any(PurePosixPath(name).suffix in (".h5", ".msgpack", ".onnx") for name in present):
        hint = "weights of TensorFlow, Flax and ONNX are not read; save the model as safetensors"
    else:
        hint = "expected model.safetensors or model.safetensors.index.json"
    return CheckpointError(f"{where}: no weights here; {hint}. Found {_listed(present)}")


def is_pickle(name: str) -> bool:
    """Whether a file name is that of a torch pickle, or of an index of them."""
    path = PurePosixPath(name.removesuffix(".index.json"))
    return path.suffix.lower() in PICKLES and path.name != "training_args.bin"


def pickle_refused(path: str) -> CheckpointError:
    """The error for a pickle: opening one can run any code, so it is never done."""
    source = path.removesuffix(".index.json")
    return CheckpointError(
        f"{path}: pickled weights are not opened, for a pickle can run any code. If you trust "
        f"where it is from, convert it once:\n"
        f"    import torch; from safetensors.torch import save_file\n"
        f"    save_file({{k: v.contiguous().clone() for k, v in torch.load({source!r}, "
        f"weights_only=True).items()}}, 'model.safetensors', metadata={{'format': 'pt'}})"
    )


def _listed(names: Collection[str], limit: int = 8) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(list(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

"""`gguf_file=`: a checkpoint that is one file of a format that a plugin reads, config and all.

Source: `PreTrainedConfig._get_config_dict`, `AutoTokenizer.from_pretrained` and
`PreTrainedModel.from_pretrained` of `transformers` (5.17 to 5.23), which read such files
themselves, whatever quantizer is registered, and know of the first part only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from quantload.checkpoint import Checkpoint, open_checkpoint, resolve_source
from quantload.config.auto import FETCHING, as_dict
from quantload.config.stored import config_in, stored_config
from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.integrations.transformers.bridge.choice import Choice

METHOD = "gguf"
_OF_THE_CALL = ("force_download", "proxies", "trust_remote_code", "_from_pipeline", "_from_auto")
_OF_LOADING = ("gguf_file", "dequantize")


def config_dict(
    choice: Choice, original: Callable[..., Any], place: str | os.PathLike[str], **kwargs: Any
) -> Any:
    """`PreTrainedConfig._get_config_dict`: the config that the file holds.

    A folder whose quantization config is a file of its own (`quantize_config.json`) has
    it in its config from now on: the weights are no less packed.
    """
    name = kwargs.get("gguf_file")
    if not name:
        found, rest = original(place, **kwargs)
        if found is not None and Path(place).is_dir() and config_in(found) is None:
            stored = _beside(Path(place) / (kwargs.get("subfolder") or ""), choice)
            if stored is not None:
                found["quantization_config"] = stored
        return found, rest
    if not choice.serves(METHOD):
        return original(place, **kwargs)
    with open_checkpoint(_located(place, name, kwargs)) as checkpoint:
        found = checkpoint.config()
    for key in (*FETCHING, *_OF_THE_CALL):
        kwargs.pop(key, None)
    return found, kwargs


def tokenizer(
    choice: Choice,
    original: Callable[..., Any],
    place: str | os.PathLike[str],
    *inputs: Any,
    **kwargs: Any,
) -> Any:
    """`AutoTokenizer.from_pretrained`: the tokenizer that the file holds."""
    name = kwargs.get("gguf_file")
    if not name or not choice.serves(METHOD):
        return original(place, *inputs, **kwargs)
    path = _located(place, name, kwargs)
    with open_checkpoint(path) as checkpoint:
        files = checkpoint.origin.companions() if checkpoint.origin is not None else {}
    if not files:
        raise CheckpointError(f"{path}: the file holds no tokenizer that is known")
    rest = {k: v for k, v in kwargs.items() if k not in {"gguf_file", *FETCHING, *_OF_THE_CALL}}
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        return original(folder, *inputs, **rest)


def without_loading_options(config: Any) -> Any:
    """A config of `transformers` for such files without what only says how to load them.

    Raises:
        UnsupportedOperationError: it asks for a float model.
    """
    raw = as_dict(config)
    if raw.get("quant_method") != METHOD or not any(key in raw for key in _OF_LOADING):
        return config
    if raw.get("dequantize"):
        raise UnsupportedOperationError(
            "dequantize=True: load the model packed and call model.dequantize()"
        )
    return {key: value for key, value in raw.items() if key not in _OF_LOADING}


class FileTensor:
    """A tensor of an open checkpoint, as the loader of `transformers` reads one.

    Args:
        checkpoint: which stays open.
        name: of the tensor.
    """

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint = checkpoint
        self._name = name

    def get_dtype(self) -> str:
        """The dtype as safetensors names it; packed types have names of their own."""
        return "U8" if not self._floating() else self._checkpoint.info(self._name).dtype

    def get_shape(self) -> list[int]:
        """The shape."""
        return list(self._checkpoint.info(self._name).torch_shape)

    def __getitem__(self, index: Any) -> Tensor:
        return self._checkpoint.read(self._name)[index]

    def _floating(self) -> bool:
        return self._checkpoint.info(self._name).torch_dtype.is_floating_point


def _located(place: str | os.PathLike[str], name: str, kwargs: dict[str, Any]) -> Path:
    """The file itself, with the other parts of it beside it."""
    if Path(name).is_file():
        return Path(name)
    local = Path(place) / (kwargs.get("subfolder") or "") / name
    if local.is_file():
        return local
    fetch = {key: kwargs[key] for key in FETCHING if kwargs.get(key)}
    return resolve_source(place, file=name, **fetch)


def _beside(folder: Path, choice: Choice) -> dict[str, Any] | None:
    """A quantization config in a file of its own, of a method that is served."""
    found = stored_config(folder)
    return found if found is not None and choice.serves(str(found.get("quant_method"))) else None

"""`Facts`: what the metadata and tensor names of a file say of the model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload_gguf.ggml import ggml_type

if TYPE_CHECKING:
    from torch import Tensor

    from quantload.quantizers.spec import TensorHeader

_ABSENT = object()


class Described(Protocol):
    """What facts are taken from: an open file, or one that is about to be written."""

    @property
    def path(self) -> Path:
        """The file, for messages."""

    @property
    def architecture(self) -> str:
        """`general.architecture`."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key -> value."""

    @property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """Name -> header."""

    def info(self, name: str) -> TensorHeader:
        """The header of a name."""

    def dequantize(self, name: str) -> Tensor:
        """The numbers of a tensor."""


class Facts:
    """Typed look-ups that say what is missing and where.

    Args:
        file: the open file.
    """

    def __init__(self, file: Described) -> None:
        self._file = file
        self.architecture = file.architecture
        self.tensors = file.tensors

    def has(self, tensor: str) -> bool:
        """Whether the file holds a tensor."""
        return tensor in self.tensors

    def packed_experts(self, layer: int) -> bool:
        """Whether a matrix of a layer's experts is stored in blocks."""
        starts = [f"blk.{layer}.ffn_{part}" for part in ("gate", "up", "down")]
        found = [f"{start}_exps.weight" for start in starts]
        found += [f"{start}.{e}.weight" for start in starts for e in range(self.experts)]
        return any(ggml_type(self.tensors[name].dtype).packed for name in found if self.has(name))

    @cached_property
    def experts(self) -> int:
        """Number of experts; 0 of a model without.

        Raises:
            CheckpointError: more than there are tensors, or parts of tensors, for.
        """
        count = int(self.whole("expert_count", 0))
        stacked = (info.shape[0] for info in self.tensors.values() if len(info.shape) == 3)
        most = max(len(self.tensors), *stacked, 0)
        if count < 0 or (self.tensors and count > most):
            raise CheckpointError(
                f"{self._file.path}: {self.architecture}.expert_count is {count}, and the file has "
                f"tensors for no more than {most}; it is damaged"
            )
        return count

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor, as torch has it.

        Raises:
            CheckpointError: there is no such tensor.
        """
        return self._file.info(tensor).shape

    def numbers(self, tensor: str) -> list[float]:
        """The values of a small tensor.

        Raises:
            CheckpointError: there is no such tensor.
        """
        found: list[float] = self._file.dequantize(tensor).reshape(-1).tolist()
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """The value of one of the model's own keys; floats without the noise of float32."""
        return clean(self._file.metadata.get(f"{self.architecture}.{name}", default))

    def other(self, key: str) -> Any:
        """The value of any key, where it is a number; None otherwise."""
        value = self._file.metadata.get(key)
        return clean(value) if isinstance(value, (int, float)) else None

    def whole(self, name: str, default: Any = _ABSENT) -> Any:
        """A whole number; an array of equal ones counts as one.

        Raises:
            CheckpointError: absent without a default, or something else.
            UnsupportedOperationError: it is not the same for all layers.
        """
        value = self.get(name, _ABSENT)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if value is _ABSENT and default is not _ABSENT:
            return default
        if isinstance(value, list) and value:
            raise UnsupportedOperationError(
                f"{self._file.path}: {self.architecture}.{name} differs from layer to layer "
                f"({repr(value)[:80]}), and the model's class of transformers has one for all; its "
                f"tensors can be read one by one with quantload_gguf.open_gguf()"
            )
        if isinstance(value, bool) or not isinstance(value, int):
            found = "nothing" if value is _ABSENT else repr(value)[:80]
            raise CheckpointError(
                f"{self._file.path}: expected a whole number for {self.architecture}.{name}, found "
                f"{found}"
            )
        return value

    def number(self, name: str, default: Any = _ABSENT) -> Any:
        """A number.

        Raises:
            CheckpointError: absent without a default, or something else.
        """
        value = self.get(name, _ABSENT)
        if value is _ABSENT and default is not _ABSENT:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            found = "nothing" if value is _ABSENT else repr(value)[:80]
            raise CheckpointError(
                f"{self._file.path}: expected a number for {self.architecture}.{name}, "
                f"found {found}"
            )
        return value

    def token(self, name: str) -> int | None:
        """The number of a special token ("bos", "eos", "padding"), where the file names one."""
        value = self._file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        size = self.vocabulary
        known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
        return value if known else None

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.shape("token_embd.weight")[0]

    @property
    def blocks(self) -> int:
        """Number of layers.

        Raises:
            CheckpointError: absent, or more than there are tensors for.
        """
        count = int(self.whole("block_count"))
        if count < 0 or (self.tensors and count > len(self.tensors)):
            raise CheckpointError(
                f"{self._file.path}: {self.architecture}.block_count is {count}, and the file has "
                f"only {len(self.tensors)} tensors; it is damaged"
            )
        return count

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self._positive("attention.head_count", self.whole("attention.head_count"))

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        found = self.whole("attention.head_count_kv", self.heads)
        return self._positive("attention.head_count_kv", found)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        found = self.whole("attention.key_length", self.whole("embedding_length") // self.heads)
        return self._positive("attention.key_length", found)

    @property
    def value_dim(self) -> int:
        """Width of a head of the values."""
        found = self.whole("attention.value_length", self.head_dim)
        return self._positive("attention.value_length", found)

    def _positive(self, name: str, value: int) -> int:
        if value < 1:
            raise CheckpointError(
                f"{self._file.path}: {self.architecture}.{name} is {value}, expected 1 or more"
            )
        return value


def clean(value: Any) -> Any:
    """A float that was stored in four bytes as the short number it was written from."""
    if isinstance(value, float):
        import numpy as np

        narrow = np.float32(value)
        return float(str(narrow)) if float(narrow) == value else value
    return value

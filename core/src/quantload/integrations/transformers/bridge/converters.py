"""Tensors of a checkpoint become packed weights: the converters of `transformers`, with our ops.

Source: `transformers.core_model_loading` (5.17 to 5.23). The loader renames every key of
the checkpoint, asks the converters in turn whether they take it, collects the tensors of
one target, and lets the converter make the target's parameters of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.core_model_loading import ConversionOps, WeightConverter

if TYPE_CHECKING:
    from quantload.integrations.transformers.bridge.loading import Loading

_MARK = "quantload:"


class Quantize(ConversionOps):  # type: ignore[misc]  # transformers is not followed
    """Quantizes float tensors of the model, named in full.

    Args:
        loading: the load that it is a part of.
    """

    def __init__(self, loading: Loading) -> None:
        self._loading = loading

    def convert(
        self, input_dict: Mapping[str, Any], missing_keys: set[str] | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The parameters that the loader is to put in place itself."""
        found: dict[str, Tensor] = {}
        for name, tensors in input_dict.items():
            tensor = tensors[0] if isinstance(tensors, list) else tensors
            found |= self._loading.quantize(name, tensor, missing_keys)
        return found


class PackedConverter(WeightConverter):  # type: ignore[misc]  # likewise
    """Takes exactly the tensors that a plan names, one target at a time.

    It raises what goes wrong as it is: the loader would note it down and go on.

    Args:
        loading: the load that it is a part of.
        table: name after the renamings -> the parameter of the model that stands for all
            that is made of the tensor.
    """

    def __init__(self, loading: Loading, table: Mapping[str, str]) -> None:
        super().__init__([_MARK], [_MARK], [Quantize(loading)])
        self._loading = loading
        self._table = table
        self._names: list[str] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedConverter:
        return PackedConverter(self._loading, self._table)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """The target of a tensor, and the one pattern that stands for all of them."""
        target = self._table.get(source_key)
        return (source_key, None) if target is None else (target, _MARK)

    def add_tensor(
        self, target_key: str, source_key: str, source_pattern: str, future: Any
    ) -> None:
        """Collect a tensor, named by what the checkpoint calls it."""
        self._names.append(source_key)
        super().add_tensor(target_key, source_key, source_pattern, future)

    def convert(self, layer_name: str, **kwargs: Any) -> dict[str, Tensor]:
        """Pack, convert or quantize what was collected for one target."""
        (collected,) = self.materialize_tensors().values()
        tensors = dict(zip(self._names, collected, strict=True))
        info = kwargs.get("loading_info")
        missing = info.missing_keys if info is not None else None
        return self._loading.convert(layer_name, tensors, missing)

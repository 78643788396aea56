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
        table: name after the renamings -> (target, name within its module).
    """

    def __init__(self, loading: Loading, table: Mapping[str, tuple[str, str]]) -> None:
        leaves = sorted({leaf for _, leaf in table.values()}) or [""]
        super().__init__(
            [f"{_MARK}{leaf}" for leaf in leaves], [f"{_MARK}packed"], [Quantize(loading)]
        )
        self._loading = loading
        self._table = table

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedConverter:
        return PackedConverter(self._loading, self._table)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """The target of a tensor, and which of its parts it is."""
        if source_key not in self._table:
            return source_key, None
        target, leaf = self._table[source_key]
        return target, f"{_MARK}{leaf}"

    def convert(self, layer_name: str, **kwargs: Any) -> dict[str, Tensor]:
        """Pack or quantize what was collected for one target."""
        collected = self.materialize_tensors()
        tensors = {key.removeprefix(_MARK): found[0] for key, found in collected.items()}
        info = kwargs.get("loading_info")
        missing = info.missing_keys if info is not None else None
        return self._loading.convert(layer_name, tensors, missing)

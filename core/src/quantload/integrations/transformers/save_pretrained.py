"""`save_pretrained` of a model that `load_model` made."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from quantload.errors import UnsupportedOperationError
from quantload.integrations.transformers.bridge import is_enabled
from quantload.loading.given import holding

_UNWANTED = ("push_to_hub", "variant")
SHARD_SIZE = "50GB"
"""What `transformers` takes where the caller says nothing."""


class SavePretrained:
    """Stands on the model in the place of the method, which knows no packed weights.

    With the bridge into `transformers` on it writes what `save_model` writes; off, it says
    which of the two to call. It does not keep the model alive, and goes with its copies.

    Args:
        model: to be saved.
    """

    def __init__(self, model: Any) -> None:
        self._model = weakref.ref(model)

    def __call__(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Any] | None = None,
        *,
        max_shard_size: int | str = SHARD_SIZE,
        **kwargs: Any,
    ) -> None:
        """Write a folder of safetensors in the method's own layout; see `save_model`.

        Args:
            save_directory: the folder.
            is_main_process: False writes nothing.
            state_dict: tensors to write in the place of the model's, all of them; see `holding`.
            max_shard_size: bytes of one file, a number or text like "4GB".
            **kwargs: others that `transformers` takes; those that would change what is
                written are refused.

        Raises:
            UnsupportedOperationError: the bridge is off, or see `save_model` and `holding`.
        """
        if not is_enabled():
            raise UnsupportedOperationError(
                "save_pretrained of transformers does not know the layout of packed weights; use "
                "quantload.save_model(model, folder), or call quantload.enable_transformers() "
                "once, with which save_pretrained works"
            )
        for name in _UNWANTED:
            if kwargs.get(name):
                raise UnsupportedOperationError(
                    f"save_pretrained({name}=...) is not done for a packed model: the folder is "
                    f"written whole, from the model itself"
                )
        if is_main_process:
            from quantload.loading import save_model

            model = self._alive()
            with nullcontext() if state_dict is None else holding(model, state_dict):
                save_model(model, save_directory, max_shard_size=max_shard_size)

    def _alive(self) -> Any:
        model = self._model()
        if model is None:
            raise UnsupportedOperationError("the model that was to be saved is gone")
        return model

    def __deepcopy__(self, memo: dict[int, Any]) -> SavePretrained:
        model = self._alive()
        return SavePretrained(memo.get(id(model), model))

    def __reduce__(self) -> tuple[type[SavePretrained], tuple[Any]]:
        return SavePretrained, (self._alive(),)

"""`BridgedQuantizer`: any quantizer of quantload, as `transformers` drives one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

from quantload.errors import UnsupportedOperationError
from quantload.integrations.transformers.attributes import method_text
from quantload.integrations.transformers.bridge.converters import PackedConverter, Quantize
from quantload.integrations.transformers.bridge.loading import Loading
from quantload.integrations.transformers.bridge.parallel import Split
from quantload.loading import dequantize
from quantload.loading.record import record_of
from quantload.loading.save import stored_tensors
from quantload.quantizers.auto import AutoHfQuantizer
from quantload.verdict import Verdict


class BridgedQuantizer(HfQuantizer):  # type: ignore[misc]  # transformers is not followed
    """Serves every method: it translates the hooks, and decides nothing itself.

    Args:
        quantization_config: a config of any kind.
        **kwargs: `pre_quantized`, and what the method's own quantizer takes.

    Attributes:
        core: the quantizer of quantload.
    """

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        self.core = AutoHfQuantizer.from_config(quantization_config, **kwargs)
        super().__init__(
            self.core.quantization_config,
            pre_quantized=self.core.pre_quantized,
        )
        self._loading: Loading | None = None
        self._device_map: Any = None
        self._split: Split | None = None

    # -- what it can do ------------------------------------------------------------

    @property
    def quant_method(self) -> str:
        """The method's name."""
        return self.core.quant_method

    @property
    def requires_calibration(self) -> bool:
        """Whether the method cannot quantize a float weight without data."""
        return self.core.requires_calibration

    @property
    def modules_to_not_convert(self) -> list[str]:
        """Modules that the caller wants left alone."""
        return self.core.modules_to_not_convert

    def is_available(self) -> Verdict:
        """Whether every package the method needs is installed."""
        return self.core.is_available()

    def is_serializable(self, **kwargs: Any) -> bool:
        """Whether `save_pretrained` can write the method's own layout."""
        return bool(self.core.is_serializable())

    @property
    def is_trainable(self) -> bool:
        """Whether adapters can be trained on top."""
        return self.core.is_trainable

    @property
    def is_qat_trainable(self) -> bool:
        """Whether the packed weights themselves can be trained."""
        return self.core.is_qat_trainable

    @property
    def is_compileable(self) -> bool:
        """Whether `generate` may compile the model."""
        return self.core.is_compileable

    # -- before loading --------------------------------------------------------------

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to start where the method cannot run; the last device map given counts."""
        self._device_map = kwargs.get("device_map")
        self.core.validate_environment(device_map=self._device_map)

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype for what stays float."""
        return self.core.update_dtype(dtype)

    def update_device_map(self, device_map: Any) -> Any:
        """The device map to use."""
        self._device_map = self.core.update_device_map(device_map)
        return self._device_map

    def adjust_max_memory(self, max_memory: dict[Any, Any]) -> dict[Any, Any]:
        """The memory limits to plan with."""
        return self.core.adjust_max_memory(max_memory)

    def preprocess_model(self, model: Any, dtype: Any = None, **kwargs: Any) -> None:
        """Remember what is to be loaded; the hosts come when the conversions are known."""
        self._loading = Loading(self, model, dtype, kwargs.get("checkpoint_files"))
        super().preprocess_model(model, dtype=dtype, **kwargs)
        name = method_text(self.quant_method)
        known = type(name) is str and name in {method.value for method in QuantizationMethod}
        model.quantization_method = QuantizationMethod(name) if known else name

    def _convert_model_for_quantization(self, model: Any) -> None:
        """Nothing: experts are taken apart when the checkpoint shows that they are packed."""

    def read_header(self, gguf_file: str) -> None:
        """Nothing: the file is opened when the model is there."""

    def get_state_dict(self, checkpoint_file: str, model: Any) -> dict[str, Any]:
        """The tensors of `gguf_file=`, each read when the loader asks for it."""
        return self._load().tensors()

    # -- while loading -----------------------------------------------------------------

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any = None) -> Any:
        """Plan the load, and put what packs before the conversions of the model's class."""
        if self._loading is None:
            return weight_conversions  # asked for adapters, on a loaded model
        return [*self._loading.plan(weight_conversions), *weight_conversions]

    def get_quantize_ops(self) -> Quantize:
        """The operation that quantizes what the model's own conversions give."""
        return Quantize(self._load())

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a float parameter is quantized, or feeds something that is."""
        return self._loading is not None and self._loading.changes(param_name)

    def param_element_size(self, model: Any, param_name: str, param: Tensor) -> float:
        """Bytes per element as they will be, for device maps."""
        size = self._loading.element_size(param_name) if self._loading is not None else None
        return float(param.element_size()) if size is None else size

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """The dtype to read a tensor in; None keeps that of the file."""
        if isinstance(converter, PackedConverter):
            return None
        return super().get_new_dtype(converter, param, dtype)

    def place(self, name: str) -> Any:
        """Where a tensor or module goes, by the device map that was last heard of."""
        places = self._device_map if isinstance(self._device_map, dict) else {}
        at = name
        while at not in places and at:
            at = at.rpartition(".")[0]
        return places.get(at, "cpu")

    # -- afterwards ----------------------------------------------------------------------

    def postprocess_model(self, model: Any, **kwargs: Any) -> Any:
        """Finish a model whose weights are in place."""
        super().postprocess_model(model, **kwargs)
        loading, self._loading = self._load(), None
        self._split = loading.split if loading.split is not None and loading.split.done() else None
        return loading.finish(model)

    @property
    def in_parts(self) -> bool:
        """Whether this process has only parts of the model's packed weights."""
        return self._split is not None

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> nn.Module:
        """Turn the packed modules of a model back into float ones."""
        return dequantize(model, dtype)

    def get_state_dict_and_metadata(
        self, model: Any
    ) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        """The tensors to save: under the names, and in the form, that they came in."""
        if getattr(model, "_hf_peft_config_loaded", False):
            return None, {}  # the adapters alone are saved
        record = record_of(model)
        if self._split is None:
            return dict(stored_tensors(model, record, self.core)), {}
        with self._split.whole(model) as here:
            return dict(stored_tensors(model, record, self.core if here else None)), {}

    def _load(self) -> Loading:
        if self._loading is None:
            raise UnsupportedOperationError(
                f"this {self.quant_method} quantizer is not loading a model: it is made anew for "
                f"every from_pretrained"
            )
        return self._loading

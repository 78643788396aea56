"""`HfQuantizer`: the verbs by which a loader drives a quantization method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from quantload.errors import ConfigError, UnsupportedOperationError
from quantload.registry.requirements import check_requirements
from quantload.verdict import Verdict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from quantload.config.base import QuantizationConfig
    from quantload.plugin import QuantizerPlugin


class HfQuantizer(ABC):
    """Base of every quantizer; named after the class it is made to be used like.

    Most methods derive from `WeightQuantizer`, which fills in everything here
    from five functions about bytes.

    Args:
        quantization_config: the validated config.
        pre_quantized: whether the checkpoint is quantized already.
        modules_to_not_convert: module names to leave alone, beside the config's own.
        **kwargs: kept in `self.options` for subclasses.

    Attributes:
        plugin: the descriptor it was made from; None when made by hand.
        requires_calibration: it cannot quantize a float weight without data.
        file_format: suffix of the files that its models are saved in, where a plugin
            writes them; "" for safetensors.

    Raises:
        ConfigError: the method needs calibration and the checkpoint is float.
    """

    requires_calibration: ClassVar[bool] = False
    file_format: ClassVar[str] = ""

    def __init__(
        self,
        quantization_config: QuantizationConfig,
        *,
        pre_quantized: bool = True,
        modules_to_not_convert: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.quantization_config = quantization_config
        self.pre_quantized = pre_quantized
        self.modules_to_not_convert = list(modules_to_not_convert or [])
        self.options = kwargs
        self.plugin: QuantizerPlugin | None = None
        if self.requires_calibration and not pre_quantized:
            raise ConfigError(
                f"{self.quant_method} quantizes with calibration data and the checkpoint is not "
                f"quantized yet; load one that is, or choose a method that needs no data"
            )

    @property
    def quant_method(self) -> str:
        """The method's name."""
        return self.quantization_config.quant_method

    # -- what it can do ------------------------------------------------------------

    def is_available(self) -> Verdict:
        """Whether every package the method needs is installed; names those that are not."""
        return check_requirements(self.plugin.requires if self.plugin else ())

    def supports_device(self, device_type: str) -> Verdict:
        """Whether the method runs on a torch device type ("cpu", "cuda")."""
        if self.plugin is None or device_type in (*self.plugin.devices, "meta", "disk"):
            return Verdict.yes()
        runs_on = ", ".join(self.plugin.devices)
        return Verdict.no(f"{self.quant_method} runs on {runs_on}, not on {device_type}")

    @abstractmethod
    def is_serializable(self) -> Verdict:
        """Whether a loaded model can be written in the method's own layout."""

    @property
    @abstractmethod
    def is_trainable(self) -> bool:
        """Whether adapters can be trained on top of the packed weights."""

    @property
    def is_qat_trainable(self) -> bool:
        """Whether the packed weights themselves can be trained."""
        return False

    @property
    def is_compileable(self) -> bool:
        """Whether `torch.compile` takes the model without a graph break in it."""
        return False

    # -- before loading --------------------------------------------------------------

    def validate_environment(
        self, device_map: str | Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Refuse to start where the method cannot run.

        Raises:
            MissingRequirementError: a package is absent or too old.
            DeviceMapError: a device the method does not run on.
        """
        from quantload.quantizers.checks import check_devices, check_packages

        check_packages(self)
        check_devices(self, device_map)

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype for what stays float; override where the method wants another."""
        return dtype

    def update_device_map(self, device_map: Any) -> Any:
        """The device map to use; override to choose one where None was given."""
        return device_map

    def adjust_max_memory(self, max_memory: dict[Any, Any]) -> dict[Any, Any]:
        """Memory limits to plan with; override to leave room for temporary buffers."""
        return max_memory

    def param_needs_quantization(
        self,
        model: nn.Module,
        param_name: str,
        **kwargs: Any,
    ) -> bool:
        """Whether a float parameter is to be quantized while loading."""
        return False

    # -- the model -------------------------------------------------------------------

    @abstractmethod
    def preprocess_model(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        """Give a skeleton on the meta device the modules that host packed weights."""

    def postprocess_model(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        """Finish a model whose weights are all in place."""
        return model

    def dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """Turn the packed modules of a model back into float ones.

        Raises:
            UnsupportedOperationError: the method cannot.
        """
        raise UnsupportedOperationError(f"{self.quant_method} cannot dequantize a model")

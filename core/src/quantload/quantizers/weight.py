"""`WeightQuantizer`: a method said in terms of bytes and weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantload.errors import CheckpointError, UnsupportedOperationError
from quantload.quantizers.base import HfQuantizer
from quantload.quantizers.spec import Header, ModuleSpec, TensorHeader
from quantload.quantizers.targets import quantizable_modules
from quantload.verdict import Verdict

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from quantload.weights.packed import PackedWeight


class WeightQuantizer(HfQuantizer):
    """What nearly every method derives from: it only says how bytes become a weight.

    A method implements `claims`, `empty`, `pack_weight` and `unpack_weight`, and
    `quantize` where it can quantize without data.
    """

    # -- what a method says ----------------------------------------------------------

    @abstractmethod
    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """Which modules of a checkpoint are packed, and how, from its headers alone.

        Args:
            headers: every tensor of the checkpoint by its full name.

        Returns:
            module name -> spec with `tensors` filled in; `shape` where the headers tell.

        Raises:
            CheckpointError: the tensors of a module contradict each other or the config.
        """

    @abstractmethod
    def empty(self, spec: ModuleSpec) -> PackedWeight:
        """The weight on the meta device: right class, shapes and bytes. `spec.shape` is set."""

    @abstractmethod
    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """A weight from the checkpoint tensors of one module.

        The tensors may be memory-mapped and are kept where no conversion is needed.

        Args:
            spec: the module.
            tensors: name without the module prefix -> tensor, all on one device.

        Raises:
            CheckpointError: a tensor is missing or has a wrong shape, dtype or value.
        """

    @abstractmethod
    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """The checkpoint tensors of one module, byte for byte those it was packed from."""

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> PackedWeight:
        """Quantize a float weight `[out_features, in_features]` on `device`.

        `weight` may be a staging buffer that is used again: nothing of it may be kept.

        Raises:
            UnsupportedOperationError: the method cannot quantize without data.
        """
        raise UnsupportedOperationError(f"{self.quant_method} cannot quantize a float weight")

    def can_requantize(self, spec: ModuleSpec, like: PackedWeight) -> Verdict:
        """Whether `requantize` works for this module; the default asks `can_quantize`."""
        return self.can_quantize()

    def requantize(self, spec: ModuleSpec, like: PackedWeight, weight: Tensor) -> PackedWeight:
        """New numbers for a module that is packed already, packed as it is.

        Merging an adapter needs this. The default quantizes by the config; a method whose
        modules differ in more than their specs overrides it, and `can_requantize`.

        Args:
            spec: the module.
            like: its weight until now.
            weight: float, `[out_features, in_features]`, on the device of `like`.

        Raises:
            UnsupportedOperationError: the method cannot quantize without data.
        """
        able = self.can_requantize(spec, like)
        if not able:
            raise UnsupportedOperationError(f"{spec.name}: {able.reason}")
        known = spec.replace(shape=tuple(like.shape), tensors={}, dtype=like.dtype)
        made = self.quantize(known, weight, weight.device)
        made.set_compute_dtype(like.dtype)
        return made

    def wrap(self, spec: ModuleSpec, module: nn.Module) -> nn.Module:
        """What takes the place of a module that is claimed as a wrapper.

        Args:
            spec: the claim; its tensors become parameters of the wrapper, by their names.
            module: what is wrapped.

        Returns:
            A module on the meta device, whose parameters are loaded like all float ones.

        Raises:
            UnsupportedOperationError: the method wraps nothing.
        """
        raise UnsupportedOperationError(
            f"{spec.name}: {self.quant_method} claims a wrapper around a {type(module).__name__} "
            f"and does not say which"
        )

    def can_quantize(self) -> Verdict:
        """Whether `quantize` works with this config."""
        if type(self).quantize is WeightQuantizer.quantize:
            return Verdict.no(f"{self.quant_method} reads quantized checkpoints and makes none")
        return Verdict.yes()

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """The modules of a float model that are to be quantized, with logical shapes.

        The default takes every linear layer but the output head, what is tied to
        it, and what `modules_to_not_convert` names.
        """
        return quantizable_modules(model, self.modules_to_not_convert)

    # -- what callers use -------------------------------------------------------------

    def spec_for(self, name: str, tensors: Mapping[str, Tensor]) -> ModuleSpec:
        """The spec of a module known by name, from its tensors; overrides apply by name.

        Raises:
            CheckpointError: the tensors are not those of a module of this method.
        """
        headers = {f"{name}.{key}": Header.of(tensor) for key, tensor in tensors.items()}
        found = self.claims(headers)
        if name not in found:
            listing = ", ".join(sorted(tensors)) or "none"
            raise CheckpointError(
                f"{name}: the tensors given ({listing}) are not those of a "
                f"{self.quant_method} layer"
            )
        return found[name]

    def pack(self, spec: ModuleSpec | str, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """The canonical weight of one module.

        Args:
            spec: the module, or its bare name (per-module overrides apply by name).
            tensors: name without the module prefix -> tensor. A `bias` is the
                host's and is left alone.

        Raises:
            CheckpointError: see `pack_weight`.
        """
        own = {key: tensor for key, tensor in tensors.items() if key != "bias"}
        known = self.spec_for(spec, own) if isinstance(spec, str) else spec
        return self.pack_weight(known, own)

    def unpack(self, spec: ModuleSpec | str, weight: PackedWeight) -> dict[str, Tensor]:
        """The checkpoint tensors of one module, in canonical storage whatever the kernel.

        All are contiguous, with the strides of a tensor that was read from a file.
        """
        known = ModuleSpec(spec, shape=tuple(weight.shape)) if isinstance(spec, str) else spec
        tensors = self.unpack_weight(known, weight.canonical())
        return {name: _in_order(tensor) for name, tensor in tensors.items()}

    # -- the verbs of the loader, said with the above ----------------------------------

    def is_serializable(self) -> Verdict:
        """Always: `unpack` gives the checkpoint's tensors back."""
        return Verdict.yes()

    @property
    def is_trainable(self) -> bool:
        """Adapters can be trained: the gradient reaches the input of every packed weight."""
        return True

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: Any) -> bool:
        """Whether a float parameter is the weight of one of `targets(model)`."""
        module, _, leaf = param_name.rpartition(".")
        return leaf == "weight" and not self.pre_quantized and module in self.targets(model)

    def preprocess_model(
        self,
        model: nn.Module,
        specs: Mapping[str, ModuleSpec] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        """Put a host with an empty packed weight where each spec says.

        Args:
            model: a skeleton; modules that are hosts already stay.
            specs: module name -> spec with its shape; `targets(model)` where None.
            **kwargs: unused.
        """
        from quantload.modules import host_for, set_module

        for name, spec in (self.targets(model) if specs is None else specs).items():
            module = model.get_submodule(name)
            set_module(model, name, host_for(spec, self.empty(spec), module, self))
        return model

    def dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """Replace every host by the float module it stands for, in place where possible."""
        from quantload.modules import dequantize_hosts

        return dequantize_hosts(model, dtype)


def _in_order(tensor: Tensor) -> Tensor:
    """The tensor, contiguous; a dimension of size 1 may have any stride and count as that."""
    return tensor.reshape(-1).view(tensor.shape) if tensor.is_contiguous() else tensor.contiguous()

"""`PartsQuantizer`: a method whose layers are the parts of a `PartsWeight`, and no more."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from quantload.errors import CheckpointError, QuantloadError, UnsupportedOperationError
from quantload.quantizers.spec import Header, ModuleSpec, TensorHeader, torch_to_name
from quantload.quantizers.targets import quantizable_modules
from quantload.quantizers.weight import WeightQuantizer
from quantload.verdict import Verdict

if TYPE_CHECKING:
    from torch import nn

    from quantload.weights.packed import PackedWeight
    from quantload.weights.parts import Part, PartsWeight

logger = logging.getLogger(__name__)


class PartsQuantizer(WeightQuantizer):
    """Reads, checks, makes and writes layers from the parts that a weight class declares.

    A subclass names its `weight_class`, and implements `encode` where it can quantize.
    A checkpoint holds each part of a layer under the layer's name ("up_proj.codes"); the
    part that is declared first is the evidence that a layer is packed. A field
    `modules_to_not_convert` of the config is respected.

    Attributes:
        weight_class: the `PartsWeight` of the method.
    """

    weight_class: ClassVar[type[PartsWeight]]

    def encode(self, weight: Tensor) -> Mapping[str, Tensor]:
        """The parts of a float weight.

        Args:
            weight: finite float32 `[out_features, in_features]`. It may be used again by
                the caller: keep nothing of it.

        Returns:
            Every part of `weight_class`, in its first dtype.
        """
        raise UnsupportedOperationError(f"{self.quant_method} cannot quantize a float weight")

    def settings_of(self, module: str) -> dict[str, Any]:
        """The settings of one module; override where they differ between modules."""
        return {
            name: getattr(self.quantization_config, name) for name in self.weight_class.settings
        }

    # -- what WeightQuantizer asks for ---------------------------------------------------

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """Every module that has the first part; see `WeightQuantizer.claims`.

        Raises:
            CheckpointError: a part is missing, or of a dtype or shape that does not fit.
        """
        parts = self.weight_class.parts
        evidence = next(iter(parts))
        found = {}
        for key, header in headers.items():
            module, dot, leaf = key.rpartition(".")
            # a layer that is not packed has a `weight`, too
            if leaf != evidence or (leaf == "weight" and not _fits(header, parts[leaf])):
                continue
            own = {n: headers[module + dot + n] for n in parts if module + dot + n in headers}
            settings = self.settings_of(module)
            shape = self._shape(module, own, settings)
            found[module] = ModuleSpec(module, shape=shape, tensors=own, params=settings)
        return found

    def empty(self, spec: ModuleSpec) -> PartsWeight:
        """On meta, from the headers or, when quantizing on load, from what is declared."""
        if spec.shape is None:
            raise UnsupportedOperationError(f"{spec.name}: the shape is not known yet")
        settings = self._settings(spec)
        tensors = {}
        for name, declared in self.weight_class.parts.items():
            header = spec.tensors.get(name)
            dtype = _dtype_of(header, declared) if header else declared.dtype
            sizes = declared.sizes(spec.shape, settings)
            tensors[name] = torch.empty(sizes, dtype=dtype, device="meta")
        return self._made(spec, spec.shape, tensors, settings)

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> PartsWeight:
        """The tensors are the storage, once they are checked.

        Raises:
            CheckpointError: one is missing, does not fit, or holds NaN or infinity.
        """
        settings = self._settings(spec)
        own = {name: tensors[name] for name in self.weight_class.parts if name in tensors}
        shape = self._shape(spec.name, {n: Header.of(t) for n, t in own.items()}, settings)
        if spec.shape is not None and tuple(spec.shape) != shape:
            raise CheckpointError(
                f"{spec.name}: the tensors are those of a {shape[0]}x{shape[1]} layer, the module "
                f"is {spec.shape[0]}x{spec.shape[1]}; they are damaged or another module's"
            )
        for name, tensor in own.items():
            if tensor.dtype in _CHECKED and not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"{spec.name}.{name} holds NaN or infinite values; the file is damaged, or "
                    f"the quantization failed"
                )
        return self._made(spec, shape, own, settings)

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """The storage, as it is."""
        held = weight.storage()
        return {name: held[name] for name in self.weight_class.parts}

    def can_quantize(self) -> Verdict:
        """Where there is an `encode`."""
        if type(self).encode is PartsQuantizer.encode:
            return Verdict.no(f"{self.quant_method} reads quantized checkpoints and makes none")
        return Verdict.yes()

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> PartsWeight:
        """See `WeightQuantizer.quantize`; `encode` does it.

        Raises:
            CheckpointError: the weight holds NaN or infinity.
            UnsupportedOperationError: the method makes none, or the weight does not divide
                into the declared parts.
            QuantloadError: `encode` gave other parts than the class declares.
        """
        shape, settings = (weight.shape[0], weight.shape[1]), self._settings(spec)
        expected = {n: p.sizes(shape, settings) for n, p in self.weight_class.parts.items()}
        floats = weight.to(device=device or weight.device, dtype=torch.float32)
        if not bool(torch.isfinite(floats).all()):
            raise CheckpointError(f"{spec.name}: the weight holds NaN or infinite values")
        made = dict(self.encode(floats))
        for name, sizes in expected.items():
            self._check_made(name, made.get(name), sizes)
        settled = spec if spec.dtype is not None else spec.replace(dtype=weight.dtype)
        return self._made(settled, shape, made, settings)

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """See `WeightQuantizer.targets`; layers that do not divide into the parts stay float."""
        listed = getattr(self.quantization_config, "modules_to_not_convert", None) or []
        found = {}
        for name, spec in quantizable_modules(
            model, [*self.modules_to_not_convert, *listed]
        ).items():
            settings = self.settings_of(name)
            try:
                for declared in self.weight_class.parts.values():
                    declared.sizes(spec.shape or (), settings)
            except UnsupportedOperationError as error:
                logger.warning("%s stays float: %s", name, error)
                continue
            found[name] = spec.replace(params=settings)
        return found

    @property
    def is_compileable(self) -> bool:
        """The product is that of the decoded weight."""
        return True

    # -- how -------------------------------------------------------------------------------

    def _settings(self, spec: ModuleSpec) -> dict[str, Any]:
        known = self.settings_of(spec.name)
        return {name: spec.params.get(name, value) for name, value in known.items()}

    def _shape(
        self, module: str, headers: Mapping[str, TensorHeader], settings: Mapping[str, Any]
    ) -> tuple[int, int]:
        """The shape of the layer that these are the parts of, all of them checked against it."""
        parts = self.weight_class.parts
        for name, declared in parts.items():
            if name not in headers:
                raise CheckpointError(
                    f"{module}.{name} is missing; a {self.quant_method} layer has "
                    f"{', '.join(parts)}, found {', '.join(sorted(headers)) or 'none of them'}"
                )
            header = headers[name]
            if not _fits(header, declared):
                raise CheckpointError(
                    f"{module}.{name}: found {header.dtype} {list(header.shape)}, expected "
                    f"{' or '.join(declared.dtypes)} [{', '.join(d.text for d in declared.shape)}]"
                )
        lengths = _lengths(parts, headers, settings)
        if set(lengths) != {"out", "in"}:
            raise CheckpointError(f"{module}: its tensors do not tell the shape of the layer")
        shape = (lengths["out"], lengths["in"])
        for name, declared in parts.items():
            self._check_sizes(f"{module}.{name}", declared, headers[name], shape, settings)
        return shape

    @staticmethod
    def _check_sizes(
        where: str,
        declared: Part,
        header: TensorHeader,
        shape: tuple[int, int],
        settings: Mapping[str, Any],
    ) -> None:
        try:
            sizes = declared.sizes(shape, settings)
        except UnsupportedOperationError as error:
            raise CheckpointError(f"{where}: {error}") from error
        if sizes != tuple(header.shape):
            raise CheckpointError(
                f"{where}: shape {list(header.shape)}, expected {list(sizes)} for a layer of "
                f"{shape[0]}x{shape[1]}; the file is damaged or its config is another one's"
            )

    def _check_made(self, name: str, tensor: Tensor | None, sizes: tuple[int, ...]) -> None:
        declared = self.weight_class.parts[name]
        if tensor is None or tensor.dtype != declared.dtype or tuple(tensor.shape) != sizes:
            found = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise QuantloadError(
                f"{type(self).__name__}.encode: {name} should be {declared.dtype} {list(sizes)}, "
                f"as {self.weight_class.__name__} declares it; found {found}"
            )

    def _made(
        self,
        spec: ModuleSpec,
        shape: tuple[int, ...],
        tensors: Mapping[str, Tensor],
        settings: Mapping[str, Any],
    ) -> PartsWeight:
        floats = (t.dtype for t in tensors.values() if t.dtype in _CHECKED)
        dtype = spec.dtype or next(floats, torch.float32)
        return self.weight_class(tuple(shape), dtype, tensors, settings)


_CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _lengths(
    parts: Mapping[str, Part], headers: Mapping[str, TensorHeader], settings: Mapping[str, Any]
) -> dict[str, int]:
    """The axes of a layer, as far as its tensors tell; "out" itself tells it before "out/4"."""
    found: dict[str, int] = {}
    for exact in (True, False):
        for name, declared in parts.items():
            for dimension, size in zip(declared.shape, headers[name].shape, strict=True):
                length = dimension.length(size, settings)
                if dimension.axis and length and (dimension.text == dimension.axis) is exact:
                    found.setdefault(dimension.axis, length)
    return found


def _dtype_of(header: TensorHeader, declared: Part) -> torch.dtype:
    return next(d for d in _dtypes(declared) if torch_to_name(d) == header.dtype)


def _dtypes(declared: Part) -> list[torch.dtype]:
    return [getattr(torch, name) for name in declared.dtypes]


def _fits(header: TensorHeader, declared: Part) -> bool:
    """Whether dtype and number of dimensions are those of a part."""
    named = header.dtype in map(torch_to_name, _dtypes(declared))
    return named and len(header.shape) == len(declared.shape)

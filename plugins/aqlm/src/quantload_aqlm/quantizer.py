"""`AqlmQuantizer`: which layers are AQLM, and their tensors in and out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from quantload.errors import UnsupportedOperationError
from quantload.plugin import (
    CheckpointError,
    ModuleSpec,
    PackedWeight,
    TensorHeader,
    WeightQuantizer,
)
from quantload.quantizers.targets import quantizable_modules
from quantload_aqlm.fitting import fit
from quantload_aqlm.layout import NAMES, check_module, check_values, checked_shape
from quantload_aqlm.weights import AqlmWeight

if TYPE_CHECKING:
    from torch import nn

    from quantload_aqlm.config import AqlmConfig

logger = logging.getLogger(__name__)

CODE_DTYPES = ((8, torch.int8), (16, torch.int16), (32, torch.int32))
FLOAT_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


class AqlmQuantizer(WeightQuantizer):
    """Reads and writes AQLM layers; fits codebooks to float ones."""

    @property
    def config(self) -> AqlmConfig:
        """The config, typed."""
        return cast("AqlmConfig", self.quantization_config)

    @property
    def is_compileable(self) -> bool:
        """The product is plain torch."""
        return True

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """Every module with `codes` and `codebooks` is AQLM, whatever the config lists."""
        modules = [
            name.removesuffix(".codes")
            for name in headers
            if name.endswith(".codes") and f"{name.removesuffix('codes')}codebooks" in headers
        ]
        found = {}
        for module in modules:
            own = {n: headers[f"{module}.{n}"] for n in NAMES if f"{module}.{n}" in headers}
            shape = checked_shape(module, own)
            self._compare(module, own)
            found[module] = ModuleSpec(module, shape=shape, tensors=own)
        return found

    def _compare(self, module: str, own: Mapping[str, TensorHeader]) -> None:
        count, entries, out_group, in_group = own["codebooks"].shape
        config = self.config
        said = (
            config.num_codebooks,
            config.nbits_per_codebook,
            config.out_group_size,
            config.in_group_size,
        )
        if said != (count, entries.bit_length() - 1, out_group, in_group):
            logger.info(
                "%s: the tensors say %dx%d with groups of %dx%d, and not what the config says; "
                "the tensors are believed",
                module,
                count,
                entries.bit_length() - 1,
                out_group,
                in_group,
            )

    def empty(self, spec: ModuleSpec) -> AqlmWeight:
        """On meta, from the headers or, when quantizing on load, from the config."""
        dtype = spec.dtype or torch.float32
        if spec.tensors:
            codes, books, scales = (spec.tensors[name] for name in NAMES)
            bits = {"I8": 8, "I16": 16, "I32": 32}[codes.dtype]
            return _on_meta(
                codes.shape,
                books.shape,
                bits,
                FLOAT_DTYPES[books.dtype],
                FLOAT_DTYPES[scales.dtype],
                dtype,
            )
        config = self.config
        rows, columns = self._groups(spec)
        return _on_meta(
            (rows, columns, config.num_codebooks),
            (
                config.num_codebooks,
                1 << config.nbits_per_codebook,
                config.out_group_size,
                config.in_group_size,
            ),
            config.nbits_per_codebook,
            _stored(dtype),
            _stored(dtype),
            dtype,
        )

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> AqlmWeight:
        """The checkpoint's tensors are the canonical storage."""
        from quantload.quantizers.spec import Header

        headers = {n: Header.of(t) for n, t in tensors.items() if n in NAMES}
        check_module(spec, checked_shape(spec.name, headers))
        check_values(spec.name, tensors)
        codes, books, scales = (tensors[name] for name in NAMES)
        return AqlmWeight(codes, books, scales, spec.dtype or books.dtype)

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """The storage, as it is."""
        return {name: weight.storage()[name] for name in NAMES}

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """Every linear layer whose parameter the config does not list and that groups divide."""
        listed = self.config.linear_weights_not_to_quantize or []
        skip = [*self.modules_to_not_convert, *(name.removesuffix(".weight") for name in listed)]
        found = {}
        for name, spec in quantizable_modules(model, skip).items():
            out_features, in_features = spec.shape or (0, 0)
            if out_features % self.config.out_group_size or in_features % self.config.in_group_size:
                logger.warning("%s stays float: groups do not divide %s", name, spec.shape)
                continue
            found[name] = spec
        return found

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> AqlmWeight:
        """Fit codebooks by residual k-means: far from calibrated AQLM, and of its form.

        Raises:
            CheckpointError: the weight holds NaN or infinity.
            UnsupportedOperationError: the groups do not divide the weight.
        """
        config = self.config
        self._groups(spec.replace(shape=tuple(weight.shape)))
        weight = weight.to(device) if device is not None else weight
        if not bool(weight.isfinite().all()):
            raise CheckpointError(f"{spec.name}: the weight holds NaN or infinite values")
        codes, books, scales = fit(
            weight,
            config.num_codebooks,
            config.nbits_per_codebook,
            config.out_group_size,
            config.in_group_size,
        )
        dtype = spec.dtype or weight.dtype
        return AqlmWeight(
            _wrapped(codes, config.nbits_per_codebook),
            books.to(_stored(dtype)),
            scales.to(_stored(dtype)),
            dtype,
        )

    def _groups(self, spec: ModuleSpec) -> tuple[int, int]:
        out_features, in_features = spec.shape or (0, 0)
        out_group, in_group = self.config.out_group_size, self.config.in_group_size
        if out_features % out_group or in_features % in_group:
            raise UnsupportedOperationError(
                f"{spec.name}: groups of {out_group}x{in_group} do not divide a weight of "
                f"{out_features}x{in_features}"
            )
        return out_features // out_group, in_features // in_group


def _stored(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which new codebooks and scales are kept."""
    return dtype if dtype in FLOAT_DTYPES.values() else torch.float32


def _code_dtype(nbits: int) -> torch.dtype:
    return next(dtype for width, dtype in CODE_DTYPES if nbits <= width)


def _wrapped(codes: Tensor, nbits: int) -> Tensor:
    """Unsigned codes as the format stores them: wrapped into a signed type at `2 ** nbits`."""
    half = 1 << (nbits - 1)
    return torch.where(codes >= half, codes - 2 * half, codes).to(_code_dtype(nbits))


def _on_meta(
    codes: tuple[int, ...],
    codebooks: tuple[int, ...],
    nbits: int,
    books_dtype: torch.dtype,
    scales_dtype: torch.dtype,
    dtype: torch.dtype,
) -> AqlmWeight:
    return AqlmWeight(
        torch.empty(codes, dtype=_code_dtype(nbits), device="meta"),
        torch.empty(codebooks, dtype=books_dtype, device="meta"),
        torch.empty((codes[0], 1, 1, 1), dtype=scales_dtype, device="meta"),
        dtype,
    )

"""`GPTQQuantizer`: GPTQ checkpoints, read, made and written."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantload.plugin import (
    CheckpointError,
    ModuleSpec,
    UnsupportedOperationError,
    WeightQuantizer,
)
from quantload.quantizers.spec import Header
from quantload.weights.affine import AffineWeight
from quantload.weights.affine.headers import by_module
from quantload.weights.affine.rtn import round_to_nearest
from quantload_gptq import layout
from quantload_gptq.config import GPTQConfig
from quantload_gptq.headers import LEAVES, MARLIN_LEAVES, read_headers
from quantload_gptq.making import config_for_making, readable_by_others, warn_about
from quantload_gptq.overrides import Parameters, parameters_for
from quantload_gptq.targets import find_targets

if TYPE_CHECKING:
    from quantload.plugin import PackedWeight, TensorHeader

logger = logging.getLogger("quantload.gptq")

_SPARSE = "B_24"


class GPTQQuantizer(WeightQuantizer):
    """Reads what a checkpoint's tensors show; the config says what they cannot.

    Args:
        quantization_config: the config.
        **kwargs: see `HfQuantizer`.

    Raises:
        ConfigError: the model would have to rotate its activations.
    """

    quantization_config: GPTQConfig

    def __init__(self, quantization_config: GPTQConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._packed = False
        warn_about(quantization_config, self.pre_quantized)
        if not self.pre_quantized:
            self.quantization_config = config_for_making(quantization_config)

    # -- reading -------------------------------------------------------------------

    def claims(self, headers: Mapping[str, TensorHeader]) -> dict[str, ModuleSpec]:
        """See `WeightQuantizer.claims`: a module is packed where it has a `qweight`."""
        found: dict[str, ModuleSpec] = {}
        leaves = (*LEAVES, *MARLIN_LEAVES, _SPARSE)
        for name, own in by_module(headers, leaves, extra=("bias",)).items():
            if _SPARSE in own:
                raise CheckpointError(
                    f"{name}.{_SPARSE}: this layer is packed for Marlin's 2:4 sparse kernel and "
                    f"cannot be read; take the checkpoint it was made from"
                )
            if not {"qweight", "qzeros", "g_idx"} & set(own) and not set(MARLIN_LEAVES) <= set(own):
                continue
            found[name] = self._claim(name, own)
        self._packed = self._packed or bool(found)
        return found

    def _claim(self, name: str, own: Mapping[str, TensorHeader]) -> ModuleSpec:
        said = parameters_for(self.quantization_config, name)
        shape = read_headers(name, own, said)
        logical = None if shape.columns is None else (shape.rows, shape.columns)
        return ModuleSpec(name, shape=logical, tensors=own, params=dataclasses.asdict(said))

    def empty(self, spec: ModuleSpec) -> PackedWeight:
        """See `WeightQuantizer.empty`."""
        dtype = spec.dtype or torch.float16
        return layout.empty(spec, spec.tensors, self._said(spec), dtype)

    def pack_weight(self, spec: ModuleSpec, tensors: Mapping[str, Tensor]) -> PackedWeight:
        """See `WeightQuantizer.pack_weight`."""
        headers = {name: Header.of(tensor) for name, tensor in tensors.items()}
        return layout.read(spec, headers, tensors, self._said(spec))

    def unpack_weight(self, spec: ModuleSpec, weight: PackedWeight) -> dict[str, Tensor]:
        """See `WeightQuantizer.unpack_weight`.

        A weight that another method read is written in this config's layout.

        Raises:
            UnsupportedOperationError: the layout cannot express the weight.
        """
        if not isinstance(weight, AffineWeight):
            raise UnsupportedOperationError(
                f"{spec.name}: a {type(weight).__name__} cannot be written as a GPTQ layer"
            )
        return layout.write(spec.name, weight, self._said(spec))

    def _said(self, spec: ModuleSpec) -> Parameters:
        # a claim went by the name in the checkpoint, and the model may call the module otherwise
        claimed = Parameters.of(spec.params)
        return claimed or parameters_for(self.quantization_config, spec.name)

    # -- making --------------------------------------------------------------------

    def targets(self, model: nn.Module) -> dict[str, ModuleSpec]:
        """The layers to quantize; see `WeightQuantizer.targets`.

        Those that `dynamic` skips or `modules_in_block_to_quantize` leaves out stay
        float, and so do those whose sides are no multiples of 32, which not every reader
        of GPTQ takes. With `lm_head` the head is one of them, unless it is tied. The config
        then says what is made; where the checkpoint has packed layers, it stays as it is.
        """
        found, made = find_targets(model, self.quantization_config, self.modules_to_not_convert)
        if not self.pre_quantized:
            made = readable_by_others(made)
        if not self._packed:
            self.quantization_config = made
        return found

    def quantize(
        self, spec: ModuleSpec, weight: Tensor, device: torch.device | str | None = None
    ) -> PackedWeight:
        """Round a float weight to the nearest codes; see `WeightQuantizer.quantize`.

        Raises:
            CheckpointError: the weight holds NaN or infinite values.
        """
        said = self._said(spec)
        source = weight.detach().to(weight.device if device is None else torch.device(device))
        columns = weight.shape[1]
        size = columns if said.group_size == -1 else min(said.group_size, columns)
        try:
            rounded = round_to_nearest(
                source,
                bits=said.bits,
                group_size=size,
                symmetric=said.sym,
                lowest_zero=1 if said.format == "gptq" else 0,
            )
        except CheckpointError as error:
            raise CheckpointError(f"{spec.name}.weight: {error}") from error
        plain = said.format != "marlin"
        return AffineWeight.from_codes(
            rounded.codes,
            rounded.scales,
            rounded.zeros if plain else None,
            bits=said.bits,
            group_size=size,
            dtype=spec.dtype or weight.dtype,
            g_idx=layout.trivial_g_idx(columns, size, source.device) if plain else None,
        )

    # -- the verbs of the loader -----------------------------------------------------

    @property
    def is_compileable(self) -> bool:
        """The reference is plain torch, and kernels are registered operators."""
        return True

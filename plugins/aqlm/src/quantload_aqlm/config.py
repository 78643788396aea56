"""`AqlmConfig`: the settings of an AQLM checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from quantload.plugin import QuantizationConfig, option


@dataclass(frozen=True, kw_only=True)
class AqlmConfig(QuantizationConfig):
    """How groups of weights are coded.

    The tensors of a checkpoint say all of this themselves; where they and the
    config disagree, the tensors are believed.

    Attributes:
        in_group_size: input features per group.
        out_group_size: output features per group.
        num_codebooks: codebooks whose entries are added.
        nbits_per_codebook: width of a code; a codebook has `2 ** nbits` entries.
        linear_weights_not_to_quantize: *parameter* names (ending in ".weight") of
            layers that are float.
    """

    quant_method = "aqlm"

    in_group_size: int = option(8, minimum=1)
    out_group_size: int = option(1, minimum=1)
    num_codebooks: int = option(1, minimum=1)
    nbits_per_codebook: int = option(16, minimum=1, maximum=32)
    linear_weights_not_to_quantize: list[str] | None = option(None, inert=True)

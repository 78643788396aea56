"""`QuantizedEmbedding`: an `nn.Embedding` to everyone who asks, with packed rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantload.modules.origin import Origin
from quantload.weights.packed import PackedWeight


class QuantizedEmbedding(nn.Embedding):
    """Takes the place of an embedding.

    Args:
        weight: the packed weight, `(num_embeddings, embedding_dim)`.
        blueprint: the float module whose place it takes, for `padding_idx`, for a
            factor on the rows (Gemma's `embed_scale`), and for dequantizing.
        origin: the method, by which the layer can be packed anew.
    """

    weight: PackedWeight  # type: ignore[assignment]

    def __init__(
        self,
        weight: PackedWeight,
        blueprint: nn.Module | None = None,
        origin: Origin | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = getattr(blueprint, "padding_idx", None)
        self.max_norm = None
        self.norm_type = 2.0
        self.scale_grad_by_freq = False
        self.sparse = False
        self.weight = weight
        self.scalar_embed_scale = getattr(blueprint, "scalar_embed_scale", None)
        self.blueprint = (blueprint,)
        self.origin = origin
        self._is_hf_initialized = True

    def reset_parameters(self) -> None:
        """Does nothing: a packed weight is never initialised."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  named as in nn.Embedding
        """`input` holds row numbers; the result is `[*input.shape, embedding_dim]`."""
        rows: Tensor = self.weight(input)
        if self.scalar_embed_scale is not None:
            rows = rows * torch.tensor(self.scalar_embed_scale, dtype=rows.dtype)
        return rows

    def dequantized(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The float module whose place this one takes, with the decoded weight."""
        (module,) = self.blueprint
        if module is None:
            module = nn.Embedding(
                self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta"
            )
        module.weight = nn.Parameter(self.weight.dequantize(dtype), requires_grad=False)
        return module.train(self.training)

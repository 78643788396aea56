"""`QuantizedLinear`: an `nn.Linear` to everyone who asks, with a packed weight inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantload.modules.origin import Origin
from quantload.weights.packed import PackedWeight


class QuantizedLinear(nn.Linear):
    """Takes the place of a linear layer (or of GPT-2's transposed one).

    The input is cast to the weight's compute dtype and the result back to the
    dtype of the input.

    Args:
        weight: the packed weight, `(out_features, in_features)`.
        bias: `[out_features]` or None.
        blueprint: the float module whose place it takes; its class and settings
            come back when the model is dequantized. Its own tensors are not kept.
        origin: the method, by which the layer can be packed anew.
    """

    weight: PackedWeight  # type: ignore[assignment]

    def __init__(
        self,
        weight: PackedWeight,
        bias: nn.Parameter | None = None,
        blueprint: nn.Module | None = None,
        origin: Origin | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.register_parameter("bias", bias)
        self.blueprint = (blueprint,)
        self.origin = origin
        self._is_hf_initialized = True

    def reset_parameters(self) -> None:
        """Does nothing: a packed weight is never initialised."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` is `[..., in_features]`; the result `[..., out_features]` has its dtype."""
        weight, bias = self.weight, self.bias
        dtype, wanted = x.dtype, weight.dtype
        y: Tensor = weight(x if dtype == wanted else x.to(wanted))
        if bias is not None:
            y = y + bias.to(y.dtype)
        return y if y.dtype == dtype else y.to(dtype)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )

    def dequantized(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The float module whose place this one takes, with the decoded weight."""
        matrix = self.weight.dequantize(dtype)
        (module,) = self.blueprint
        if module is None:
            module = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        transposed = not isinstance(module, nn.Linear)
        matrix = matrix.T.contiguous() if transposed else matrix
        module.weight = nn.Parameter(matrix, requires_grad=False)
        module.register_parameter("bias", self._parameters["bias"])
        if self.bias is not None and dtype is not None:  # type: ignore[redundant-expr]  # may be None
            module.bias = nn.Parameter(self.bias.detach().to(dtype), requires_grad=False)
        return module.train(self.training)

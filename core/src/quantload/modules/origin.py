"""Where the weight of a host came from: the method, and how it packs this module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantload.verdict import Verdict

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from quantload.quantizers.spec import ModuleSpec
    from quantload.quantizers.weight import WeightQuantizer
    from quantload.weights.packed import PackedWeight


@dataclass(frozen=True)
class Origin:
    """By which a host can be given new numbers, packed as its old ones were.

    Attributes:
        quantizer: the method; copies of a host share it.
        spec: the module as the method knows it.
    """

    quantizer: WeightQuantizer
    spec: ModuleSpec

    def can_requantize(self, like: PackedWeight) -> Verdict:
        """Whether the method packs new numbers the way `like` is packed."""
        return self.quantizer.can_requantize(self.spec, like)

    def requantize(self, like: PackedWeight, matrix: Tensor) -> PackedWeight:
        """`matrix` `[out_features, in_features]` packed as `like` is, with a kernel as it has."""
        from quantload.kernels.selector import prepare

        made = self.quantizer.requantize(self.spec, like, matrix)
        if like.selection is not None:  # without one, the weight was never given a kernel
            prepare(made, like.selection.asked)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a quantizer may hold buffers, and nothing of it belongs to one host

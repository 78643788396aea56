"""Adapters of PEFT on packed weights: attached as on any layer, merged by packing anew.

PEFT takes a host for the `nn.Linear` or `nn.Embedding` it is, so training, saving and
loading adapters need nothing of this. Merging does: PEFT adds to `weight.data`, which a
packed weight does not have. `enable_peft` replaces one method of PEFT by one that lets
the layers over packed weights merge in their own way (see `layers`).

Written against PEFT 0.19 to 0.21; `_check_merge_allowed` is called there before
anything is merged, in `merge_adapter` and in `merge_and_unload`.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from quantload.errors import MissingRequirementError

if TYPE_CHECKING:
    from typing_extensions import Self

_HOOK = "_check_merge_allowed"


class PeftIntegration:
    """What `enable_peft` changed; as a context manager it takes the change back.

    Args:
        owner: the class of PEFT whose method was replaced.
        original: the method.
        fresh: whether this call replaced it, and not an earlier one.
    """

    def __init__(self, owner: type, original: Any, fresh: bool) -> None:
        self._owner, self._original, self._fresh = owner, original, fresh

    def undo(self) -> None:
        """Put PEFT's own method back."""
        setattr(self._owner, _HOOK, self._original)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fresh:
            self.undo()


def enable_peft() -> PeftIntegration:
    """Let PEFT merge LoRA adapters into packed weights, and take them out again.

    `merge_adapter` and `merge_and_unload` then dequantize each layer, add its adapters in
    float32, and pack the sum as the layer was packed; `unmerge_adapter` puts the very
    weight back that was there. Models that have adapters already are served as well.
    Calling it again changes nothing; in a `with` statement it ends with the block.

    Raises:
        MissingRequirementError: PEFT is not installed, or has no such method.
    """
    try:
        from peft.tuners.lora.model import LoraModel
    except ImportError as error:
        raise MissingRequirementError(
            f"enable_peft needs PEFT, which cannot be imported ({error}); try: pip install peft"
        ) from error
    from quantload.integrations.peft.layers import prepare_merge

    original = vars(LoraModel).get(_HOOK)
    if original is None:
        raise MissingRequirementError(
            f"this release of PEFT has no LoraModel.{_HOOK}, which enable_peft replaces; "
            f"try: pip install 'peft>=0.19'"
        )
    earlier = getattr(original, "_quantload_original", None)
    if earlier is not None:
        return PeftIntegration(LoraModel, earlier, fresh=False)

    def _check_merge_allowed(self: Any) -> None:
        prepare_merge(self, original)

    _check_merge_allowed._quantload_original = original  # type: ignore[attr-defined]  # a mark
    setattr(LoraModel, _HOOK, _check_merge_allowed)
    return PeftIntegration(LoraModel, original, fresh=True)

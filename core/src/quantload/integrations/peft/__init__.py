"""Adapters of PEFT on packed weights: attached as on any layer, merged by packing anew.

PEFT takes a host for the `nn.Linear` or `nn.Embedding` it is, so training, saving and
loading adapters need nothing of this. What reads or writes the numbers of a weight does:
merging, and adapters that start from the weight (DoRA, PiSSA, OLoRA). `enable_peft`
replaces the few functions of PEFT that do so, see `_replacements`.

Written against PEFT 0.19 to 0.21; `_check_merge_allowed` is called there before
anything is merged, in `merge_adapter` and in `merge_and_unload`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quantload.errors import MissingRequirementError

if TYPE_CHECKING:
    from typing_extensions import Self

_CHECK = "_check_merge_allowed"
_DEQUANTIZE = "dequantize_module_weight"
_NEEDED = {
    "peft.tuners.tuners_utils.BaseTuner": _CHECK,
    "peft.tuners.lora.model.LoraModel": _CHECK,
    "peft.utils.integrations": _DEQUANTIZE,
    "peft.tuners.lora.dora": _DEQUANTIZE,
    "peft.tuners.lora.layer": _DEQUANTIZE,
}
"""Classes and modules that every release has, and what is replaced in them."""
_MORE = {
    "peft.tuners.oft.model.OFTModel": _CHECK,
    "peft.tuners.lora.variants": _DEQUANTIZE,
}
"""Those that some releases have."""
_STARTS = ("pissa_init", "olora_init", "corda_init", "mica_init", "lora_ga_init")

_MARK = "_quantload_original"


class PeftIntegration:
    """What `enable_peft` changed; as a context manager it takes the change back.

    Args:
        originals: owner, name and what was there of each attribute that was replaced.
        fresh: whether this call replaced them, and not an earlier one.
    """

    def __init__(self, originals: list[tuple[Any, str, Any]], fresh: bool) -> None:
        self._originals, self._fresh = originals, fresh

    def undo(self) -> None:
        """Put PEFT's own functions back."""
        for owner, name, original in self._originals:
            setattr(owner, name, original)

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
    """Let PEFT merge adapters into packed weights, take them out again, and start from them.

    `merge_adapter` and `merge_and_unload` then dequantize each layer, have PEFT merge into
    float32, and pack the sum as the layer was packed; `unmerge_adapter` puts the very
    weight back that was there. DoRA computes with dequantized weights; PiSSA and OLoRA
    leave the rest of the weight packed. Models that have adapters already are served as
    well. Calling it again changes nothing; in a `with` statement it ends with the block.

    Raises:
        MissingRequirementError: PEFT is not installed, or lacks what is replaced.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingRequirementError(
            f"enable_peft needs PEFT, which cannot be imported ({error}); try: pip install peft"
        ) from error
    places = list(_replacements(peft))
    marked = [getattr(vars(owner)[name], _MARK, None) for owner, name, _ in places]
    if any(marked):
        earlier = zip(places, marked, strict=True)
        return PeftIntegration([(o, n, was) for (o, n, _), was in earlier if was], fresh=False)
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in places]
    for (owner, name, made), (_, _, original) in zip(places, originals, strict=True):
        replacement = made(original)
        setattr(replacement, _MARK, original)
        setattr(owner, name, replacement)
    return PeftIntegration(originals, fresh=True)


def _replacements(peft: Any) -> Iterator[tuple[Any, str, Callable[[Any], Any]]]:
    """Owner, name, and what makes the replacement, of every function of PEFT that is replaced.

    Raises:
        MissingRequirementError: one that every release has is not there.
    """
    from peft.tuners.lora.layer import LoraLayer

    from quantload.integrations.peft.layers import prepare_merge
    from quantload.integrations.peft.starting import dequantized, starting

    def checked(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def _check_merge_allowed(self: Any) -> None:
            prepare_merge(self, original)

        return _check_merge_allowed

    made = {_CHECK: checked, _DEQUANTIZE: dequantized}
    for path, name in {**_NEEDED, **_MORE}.items():
        try:
            owner = pkgutil.resolve_name(path)
        except (ImportError, AttributeError):
            owner = None
        if name in getattr(owner, "__dict__", {}):
            yield owner, name, made[name]
        elif path in _NEEDED:
            raise MissingRequirementError(
                f"PEFT {peft.__version__} has no {path}.{name}, which enable_peft replaces; "
                f"try: pip install 'peft>=0.19'"
            )
    for name in _STARTS:
        if name in vars(LoraLayer):
            yield LoraLayer, name, starting

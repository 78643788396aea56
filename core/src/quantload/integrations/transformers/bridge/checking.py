"""What `transformers` lets pass and a quantized model must not: missing and ill-fitting tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from quantload.errors import CheckpointError
from quantload.integrations.transformers.bridge.choice import Choice
from quantload.loading.device_map import DISK
from quantload.loading.plan import Decision
from quantload.loading.record import record_of
from quantload.loading.report import LoadReport
from quantload.loading.skeleton import tensors_of
from quantload.modules import hosts_of


def settle(report: LoadReport, model: Any) -> None:
    """Raise where the model would get random layers.

    A head that the checkpoint does not claim to have is initialised, as `transformers`
    does it and says so. What is superfluous it lists, too.

    Raises:
        CheckpointError: the checkpoint lacks what its class needs, or has a bias that counts
            and that the class has no place for.
    """
    if report.biases:
        name, file = next(iter(report.biases.items()))
        raise CheckpointError(
            f"{report.source}: {name} in {file} is the bias of a packed layer, not all zeros, "
            f"and a {type(model).__name__} has none there: transformers alone would leave it out"
        )
    missing = report.missing if _claimed(model) else [n for n in report.missing if _base(model, n)]
    if not missing:
        return
    listing = "\n".join(f"  {name}" for name in missing[:20])
    more = f"\n  ... and {len(missing) - 20} more" if len(missing) > 20 else ""
    raise CheckpointError(
        f"{report.source}: the checkpoint lacks {len(missing)} tensors that a "
        f"{type(model).__name__} needs, and transformers alone would fill them with random "
        f"numbers:\n{listing}{more}\nIt is not complete, or its quantization config is of another "
        f"method"
    )


def report_differences(
    choice: Choice,  # noqa: ARG001  what every replacement is given
    original: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """`log_state_dict_report`, which points at the log where a tensor does not fit.

    Raises:
        CheckpointError: a tensor does not fit its place, or could not be converted to it.
    """
    said = inspect.signature(original).bind(*args, **kwargs).arguments
    model, info = said["model"], said["loading_info"]
    record = record_of(model)
    if record is not None:
        lines = [f"{name}: {what}" for name, what in info.conversion_errors.items()]
        if not said["ignore_mismatched_sizes"]:
            known = record.report.mismatched
            lines += [
                known.get(name, f"{name}: expected shape {[*expected]}, found {[*found]}")
                for name, found, expected in sorted(info.mismatched_keys)
            ]
        if lines:
            listing = "\n".join(f"  {line}" for line in lines[:20])
            raise CheckpointError(
                f"{record.report.source}: {len(lines)} tensors do not fit a "
                f"{type(model).__name__}:\n{listing}\nignore_mismatched_sizes=True initialises "
                f"those of another shape anew"
            )
    return original(*args, **kwargs)


def _claimed(model: Any) -> bool:
    """Whether the checkpoint says that it holds a model of this very class."""
    names = getattr(model.config, "architectures", None) or []
    return type(model).__name__ in names or not _has_head(model)


def _has_head(model: Any) -> bool:
    base = getattr(model, model.base_model_prefix or "", None)
    return base is not None and base is not model


def _base(model: Any, name: str) -> bool:
    return name.startswith(f"{model.base_model_prefix}.")


def check_loaded(model: Any, decided: Decision, place: Callable[[str], Any]) -> None:
    """Raise where something has not the value, or the shape, that it should have.

    Args:
        model: filled by the loader.
        decided: what should have been loaded.
        place: where a tensor or module is to be.

    Raises:
        CheckpointError: a weight was not loaded, or one of another shape was.
    """
    for name, host in hosts_of(model):
        weight = f"{name}.weight"  # a module, and it may be the one that has the hook
        if host.weight.is_meta and not _away(model, weight, place, innermost=weight):
            raise CheckpointError(
                f"{decided.report.source}: nothing was loaded into the packed weight of {name}"
            )
    for name, tensor in tensors_of(model).items():
        if name in decided.report.mismatched and tensor.shape != decided.expected[name].shape:
            raise CheckpointError(decided.report.mismatched[name])
        if tensor.is_meta and not _away(model, name, place):
            raise CheckpointError(
                f"{decided.report.source}: nothing was loaded into {name}, and nothing "
                f"initialises it"
            )


def _away(model: Any, name: str, place: Callable[[str], Any], innermost: str | None = None) -> bool:
    """Whether a tensor is offloaded: hooks fetch it when it is used.

    Args:
        model: what has it.
        name: of the tensor or packed weight.
        place: where a tensor or module is to be.
        innermost: the smallest module around it; what `name` stands in, where None.
    """
    at = name.rpartition(".")[0] if innermost is None else innermost
    while at:
        hook = getattr(model.get_submodule(at), "_hf_hook", None)
        if getattr(hook, "offload", False):
            return True
        at = at.rpartition(".")[0]
    return bool(place(name) == DISK)

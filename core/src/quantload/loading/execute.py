"""A whole load into a skeleton, from plan to hooks; on failure the skeleton comes back."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from torch import nn

from quantload.checkpoint.base import Checkpoint
from quantload.loading.buffers import restore_buffers
from quantload.loading.device_map import DISK
from quantload.loading.finish import (
    check_complete,
    device_of,
    fill_host_biases,
    forget_ties,
    materialize_missing,
    move_buffers,
    prepare_kernels,
)
from quantload.loading.offload import OffloadedTensors, dispatch, offload_target
from quantload.loading.plan import Plan, make_plan
from quantload.loading.progress import Report
from quantload.loading.skeleton import Snapshot
from quantload.loading.stream import stream
from quantload.loading.traits import Traits
from quantload.quantizers.base import HfQuantizer
from quantload.quantizers.weight import WeightQuantizer

logger = logging.getLogger(__name__)


def execute(
    model: nn.Module,
    checkpoint: Checkpoint,
    traits: Traits,
    *,
    quantizer: HfQuantizer | None = None,
    device_map: object = None,
    max_memory: Mapping[Any, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    strict: bool = True,
    kernel: str | None = None,
    progress: bool | Report | None = None,
) -> Plan:
    """Load a checkpoint into a skeleton.

    Args:
        model: built on the meta device; complete afterwards.
        checkpoint: open, and to be closed by the caller unless offloaded weights are
            read from it, in which case it stays open as long as they.
        traits: of the model's class.
        quantizer: the method, if there is one.
        device_map: see `resolve_device_map`.
        max_memory: see `resolve_device_map`.
        offload_folder: for what is sent to disk in another form than it is there.
        strict: whether a difference between checkpoint and model is an error.
        kernel: the kernel to insist on.
        progress: see `Progress`.

    Raises:
        QuantloadError: of any kind; the model is a skeleton again, as it was.
    """
    start = time.perf_counter()
    before = Snapshot(model)
    try:
        plan = make_plan(
            model,
            checkpoint,
            traits=traits,
            quantizer=quantizer,
            device_map=device_map,
            max_memory=max_memory,
            strict=strict,
        )
        offload = offload_target(plan, offload_folder)
        packer = quantizer if isinstance(quantizer, WeightQuantizer) else None
        stream(model, checkpoint, plan, quantizer=packer, offload=offload, progress=progress)
        _complete(model, checkpoint, plan, traits, offload, kernel)
    except BaseException:
        before.restore()
        raise
    if offload is not None and offload.uses(checkpoint):
        logger.debug("%s stays open for offloaded weights", checkpoint.path)
    else:
        checkpoint.close()
    logger.info(
        "%s: %d bytes in %.2f s, %d modules packed",
        checkpoint.path,
        plan.nbytes,
        time.perf_counter() - start,
        len(plan.specs),
    )
    return plan


def _complete(
    model: nn.Module,
    checkpoint: Checkpoint,
    plan: Plan,
    traits: Traits,
    offload: OffloadedTensors | None,
    kernel: str | None,
) -> None:
    fresh = materialize_missing(model, plan)
    initialize = traits.initialize
    restore_buffers(
        model,
        device_of(plan.device_map),
        None if initialize is None else lambda built: initialize(built, fresh),
        traits.real_buffers,
    )
    move_buffers(model, plan.device_map)
    fill_host_biases(model, fresh)
    check_complete(model, plan.device_map)
    forget_ties(model, plan)
    prepare_kernels(model, plan.device_map, kernel, lambda name: _release(checkpoint, plan, name))
    if offload is not None:
        for name in fresh:
            if plan.device_map.place(name) == DISK and name in dict(model.named_parameters()):
                offload.write(name, model.get_parameter(name).cpu())
        for name, owner in plan.sharing.tensors.items():
            offload.alias(name, owner)
        for name, owner in plan.sharing.modules.items():
            offload.alias(f"{name}.weight", f"{owner}.weight")
    if plan.device_map.dispatched:
        dispatch(model, plan.device_map, offload)


def _release(checkpoint: Checkpoint, plan: Plan, module: str) -> None:
    """Give back the mapped pages of a packed module that a kernel has arranged elsewhere."""
    for key in plan.specs[module].tensors if module in plan.names else ():
        checkpoint.release(f"{plan.names[module]}.{key}")

"""What is left to do when every byte is in place."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import nn

from quantload.errors import CheckpointError, NoKernelError
from quantload.kernels.selector import REFERENCE, prepare
from quantload.loading import tying
from quantload.loading.device_map import DISK, DeviceMap
from quantload.loading.heap import PACKED_STRIDE, Trimmer
from quantload.loading.plan import Plan
from quantload.loading.skeleton import get_tensor, set_tensor, tensors_of
from quantload.modules import group_experts, hosts_of
from quantload.weights.packed import PackedWeight

logger = logging.getLogger(__name__)


def device_of(device_map: DeviceMap) -> Callable[[str], torch.device]:
    """Where a tensor that is not offloaded goes: buffers stay where they are used."""

    def find(name: str) -> torch.device:
        place = device_map.place(name)
        if device_map.offloaded(name) or isinstance(place, str):
            return device_map.main
        return place

    return find


def materialize_missing(model: nn.Module, plan: Plan) -> list[str]:
    """Give what the checkpoint lacks memory of its own, still without values.

    Returns:
        The names: whoever initialises the model fills these.
    """
    fresh = []
    for name, tensor in tensors_of(model).items():
        place = plan.device_map.place(name)
        if not tensor.is_meta or name in plan.sharing.tensors:
            continue
        if getattr(tensor, "_is_hf_initialized", False) and place == DISK:
            continue  # loaded, and offloaded
        device = device_of(plan.device_map)(name)
        if isinstance(tensor, nn.Parameter) and isinstance(place, torch.device):
            device = place
        dtype = plan.dtypes.get(name, tensor.dtype)
        empty = torch.empty(tensor.shape, dtype=dtype, device=device)
        set_tensor(model, name, empty)
        fresh.append(name)
    for name, owner in plan.sharing.tensors.items():
        if owner in fresh:
            set_tensor(model, name, get_tensor(model, owner))
    return fresh


def move_buffers(model: nn.Module, device_map: DeviceMap) -> None:
    """Bring buffers that were real from the start to where they are used."""
    find = device_of(device_map)
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                device = find(f"{prefix}.{name}" if prefix else name)
                if buffer.device != device:
                    module._buffers[name] = buffer.to(device)


def fill_host_biases(model: nn.Module, fresh: list[str]) -> None:
    """Zero the biases of packed modules that the checkpoint lacks.

    Classes do not initialise what hosts a packed weight.
    """
    names = set(fresh)
    for name, host in hosts_of(model):
        if f"{name}.bias" in names and isinstance(host, nn.Linear):
            with torch.no_grad():
                host.bias.zero_()


def check_complete(model: nn.Module, device_map: DeviceMap) -> None:
    """Raise where something has no bytes and is not offloaded.

    Raises:
        CheckpointError: a tensor was left without a value.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta and device_map.place(name) != DISK:
            raise CheckpointError(
                f"{name}: nothing was loaded into this tensor and nothing initialises it"
            )


def forget_ties(model: nn.Module, plan: Plan) -> None:
    """Bring the model's own account of its ties in line with what was loaded."""
    for (name, owner), why in plan.report.untied.items():
        logger.warning("%s and %s are not tied, though the class ties them: %s", name, owner, why)
    tying.prune(model, plan.sharing.forget)


def prepare_kernels(
    model: nn.Module, device_map: DeviceMap, kernel: str | None, release: Callable[[str], None]
) -> None:
    """Choose a kernel for every packed weight and repack for it, once.

    Offloaded weights stay in canonical storage and run through the reference.

    Args:
        model: with its weights in place.
        device_map: where they are.
        kernel: the kernel to insist on.
        release: called with the name of a module whose weight no longer lies where it
            was loaded.

    Raises:
        NoKernelError: `kernel` was asked for and cannot run a weight.
    """
    seen: set[int] = set()
    trimmer = Trimmer(PACKED_STRIDE)
    for name, host in hosts_of(model):
        weight = host.weight
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        if device_map.offloaded(name):
            if kernel not in (None, REFERENCE):
                raise NoKernelError(
                    f"{name} is offloaded, and offloaded weights run through the reference; "
                    f"kernel={kernel!r} cannot be used for it. Leave kernel= out, or keep the "
                    f"module on {device_map.main}"
                )
            continue
        assert isinstance(weight, PackedWeight)
        held = {tensor.data_ptr() for tensor in weight.storage().values()}
        prepare(weight, kernel)
        trimmer.passed(weight.nbytes)
        if held.isdisjoint(tensor.data_ptr() for tensor in weight.storage().values()):
            release(name)
    group_experts(model)

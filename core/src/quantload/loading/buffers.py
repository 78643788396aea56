"""Buffers that no checkpoint holds: rotary frequencies, masks, position numbers.

A module built on meta has lost their values. They are computed anew by the class
itself, and what it leaves as it was is found by a mark and taken from a module
that is really built, or refused: never garbage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from quantload.errors import UnsupportedOperationError

logger = logging.getLogger(__name__)

_MARK = 0x5A


def lost_buffers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Full name, module and own name of every non-persistent buffer on meta."""
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            unsaved = name in module._non_persistent_buffers_set
            if buffer is not None and buffer.is_meta and unsaved:
                yield (f"{prefix}.{name}" if prefix else name), module, name


def restore_buffers(
    model: nn.Module,
    device_of: Callable[[str], torch.device],
    initialize: Callable[[nn.Module], None] | None = None,
    real_buffers: Callable[[], Mapping[str, Tensor]] | None = None,
) -> None:
    """Give every lost buffer its value.

    Args:
        model: with all its parameters in place.
        device_of: buffer name -> device.
        initialize: fills what is not marked as initialised; run in any case.
        real_buffers: all buffers, from a model of the same class that is really built.

    Raises:
        UnsupportedOperationError: a buffer whose value nobody knows.
    """
    lost = list(lost_buffers(model))
    for name, module, own in lost:
        meta = module._buffers[own]
        assert meta is not None
        module._buffers[own] = _marked(meta, device_of(name))
    if initialize is not None:
        initialize(model)
    left = [(n, m, own) for n, m, own in lost if _still_marked(m._buffers[own])]
    if not left:
        return
    real = real_buffers() if real_buffers is not None else {}
    for name, module, own in left:
        if name not in real:
            raise UnsupportedOperationError(
                f"{name}: the value of this buffer is in no checkpoint, and the module was built "
                f"on the meta device, where it was lost. Build the module under "
                f"accelerate.init_empty_weights(), which keeps buffers, or give its class a "
                f"reset_parameters() that computes it"
            )
        logger.debug("%s: taken from a model built for its buffers", name)
        module._buffers[own] = real[name].to(device_of(name))


def _marked(meta: Tensor, device: torch.device) -> Tensor:
    fresh = torch.empty_like(meta, device=device)
    if fresh.is_floating_point() or fresh.is_complex():
        return fresh.fill_(float("nan"))
    return fresh.fill_(_MARK if fresh.dtype != torch.bool else 0)


def _still_marked(buffer: Tensor | None) -> bool:
    if buffer is None or buffer.numel() == 0:
        return False
    if buffer.dtype == torch.bool:
        return not bool(buffer.any())  # cannot be told from one that is all False: ask
    if buffer.is_floating_point() or buffer.is_complex():
        return bool(buffer.isnan().all())
    return bool((buffer == _MARK).all())

"""`load_into`: any module built on the meta device, without `transformers`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantload.checkpoint import Checkpoint, open_checkpoint, resolve_source
from quantload.loading.buffers import restore_buffers
from quantload.loading.dtypes import parse_dtype
from quantload.loading.execute import execute
from quantload.loading.initialize import buffer_resetter, initialize_missing
from quantload.loading.method import find_quantizer
from quantload.loading.names import PlainNames
from quantload.loading.progress import Report
from quantload.loading.record import LoadRecord, attach
from quantload.loading.report import LoadReport
from quantload.loading.skeleton import Snapshot
from quantload.loading.traits import Traits

logger = logging.getLogger(__name__)


def load_into(
    module: nn.Module,
    checkpoint: str | os.PathLike[str] | Checkpoint,
    *,
    quantization_config: object | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    max_memory: Mapping[Any, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    rename: Callable[[str], str] | None = None,
    no_split_modules: Iterable[str] = (),
    revision: str | None = None,
    subfolder: str | None = None,
    gguf_file: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    strict: bool = True,
    mmap: bool = True,
    kernel: str | None = None,
    progress: bool | Report | None = None,
) -> LoadReport:
    """Load a checkpoint into a module that was built on the meta device.

    `with torch.device("meta"): module = MyModel(...)` builds one without memory.
    Parameters that the module shares stay shared. Buffers that checkpoints do not
    hold must either be real (`accelerate.init_empty_weights()` keeps them so) or be
    computed by a `reset_parameters()` of the module they belong to.

    Args:
        module: changed in place. Where loading fails it is as it was before.
        checkpoint: a folder, file, name on the hub, or an open `Checkpoint`, which is
            closed afterwards.
        quantization_config: the method to load with, or to quantize with on the way; a
            dict, a config object, or anything with `to_dict()`. What the checkpoint's
            own `config.json` says comes first.
        dtype: "auto" keeps what the checkpoint has; a torch dtype or its name casts
            float tensors and nothing packed.
        device_map: None, a device, "auto", "balanced", "sequential", or module name ->
            device or "disk".
        max_memory: device -> bytes or text like "10GiB", for automatic device maps.
        offload_folder: where weights that are sent to disk are written if the
            checkpoint's own files cannot serve.
        rename: from a name in the checkpoint to the module's name for it.
        no_split_modules: names of classes whose modules stay on one device.
        revision: branch, tag or commit on the hub.
        subfolder: folder inside the checkpoint.
        gguf_file: the one file of a folder or repository to load, where there are
            several; of a split one any part. "place:Q4_K_M" names it by its end.
        variant: "fp16" for `model.fp16.safetensors`.
        token: for the hub.
        cache_dir: of the hub.
        local_files_only: never ask the hub.
        strict: raise where checkpoint and module differ; False logs it and initialises
            what is missing with `reset_parameters()`.
        mmap: leave weights that need no conversion mapped in their files.
        kernel: the kernel to insist on for packed weights; "reference" is plain torch.
        progress: True or False, None for a bar on terminals, or a function that is
            called with (bytes done, bytes in all).

    Returns:
        What the checkpoint had, lacked, and was let get away with.

    Raises:
        CheckpointError: the checkpoint is damaged or not that of this module.
        DeviceMapError: the device map cannot be carried out.
        UnknownMethodError, ConfigError: the quantization cannot be resolved.
        UnsupportedOperationError: something packed cannot be hosted, or the value of
            a buffer is lost.
    """
    wanted = parse_dtype(dtype)
    opened = open_source(
        checkpoint,
        revision=revision,
        subfolder=subfolder,
        file=gguf_file,
        variant=variant,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        mmap=mmap,
    )
    before = Snapshot(module)
    try:
        quantizer = find_quantizer(opened, quantization_config)
        if quantizer is not None:
            quantizer.validate_environment(device_map=device_map)
            device_map = quantizer.update_device_map(device_map)
            wanted = quantizer.update_dtype(wanted) if wanted is not None else None
        restore_buffers(module, lambda _: torch.device("cpu"), buffer_resetter(module))
        traits = Traits(
            names=PlainNames(rename),
            dtype_of=_dtype_rule(wanted),
            initialize=initialize_missing,
            no_split=tuple(no_split_modules),
        )
        plan = execute(
            module,
            opened,
            traits,
            quantizer=quantizer,
            device_map=device_map,
            max_memory=max_memory,
            offload_folder=offload_folder,
            strict=strict,
            kernel=kernel,
            progress=progress,
        )
        if quantizer is not None:
            quantizer.postprocess_model(module)
    except BaseException:
        before.restore()
        opened.close()
        raise
    record = LoadRecord(
        opened.folder,
        opened.config(),
        plan.names,
        plan.groups,
        plan.specs,
        quantizer,
        plan.report,
        origin=opened.origin,
    )
    attach(module, record)
    return plan.report


def open_source(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    *,
    variant: str | None,
    mmap: bool,
    **where: Any,
) -> Checkpoint:
    """Open a checkpoint that is on this machine or on the hub."""
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    path = resolve_source(checkpoint, variant=variant, **where)
    return open_checkpoint(path, variant=variant, mmap=mmap)


def _dtype_rule(wanted: torch.dtype | None) -> Callable[[str, Tensor], torch.dtype | None]:
    def rule(name: str, tensor: Tensor) -> torch.dtype | None:  # noqa: ARG001  a callback
        return wanted if tensor.is_floating_point() else tensor.dtype

    return rule

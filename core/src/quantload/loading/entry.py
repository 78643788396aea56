"""`load_model`: from a checkpoint to a ready `transformers` model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quantload.errors import MissingRequirementError
from quantload.registry.requirements import check_requirement

if TYPE_CHECKING:
    import torch

    from quantload.loading.progress import Report

TRANSFORMERS = "transformers>=5"


def load_model(
    checkpoint: str | os.PathLike[str],
    *,
    quantization_config: object | None = None,
    dtype: str | torch.dtype | None = "auto",
    device_map: Any = None,
    max_memory: Mapping[Any, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    model_class: type | str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    gguf_file: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    attn_implementation: str | None = None,
    strict: bool = True,
    mmap: bool = True,
    kernel: str | None = None,
    progress: bool | Report | None = None,
) -> Any:
    """Load a checkpoint as a `transformers` model, quantized or not, ready to run.

    The class is that of the checkpoint's `config.json`. Nothing is half done: where
    anything fails, no model is returned, files are closed and memory is given back.

    Args:
        checkpoint: a folder, a file, or a name on the hub; with a tag ("name:Q4_K_M") the
            one `.gguf` file of it.
        quantization_config: the method to load with, or to quantize with on the way: a
            dict, a config object of quantload or `transformers`, or anything with
            `to_dict()`. What the checkpoint says of itself comes first.
        dtype: "auto" is the dtype of `config.json`, or else of the first float tensor;
            a torch dtype or its name casts float tensors and nothing packed.
        device_map: None (the default device), a device, its index, "auto", "balanced",
            "balanced_low_0", "sequential", or module name -> device or "disk".
        max_memory: device -> bytes or text like "10GiB", for automatic device maps.
        offload_folder: where weights that are sent to disk are written if the
            checkpoint's own files cannot serve.
        model_class: the class to build instead: a model class of `transformers`, one of
            its Auto classes, or the name of either.
        trust_remote_code: run the Python files of the checkpoint. Never without this.
        revision: branch, tag or commit on the hub.
        subfolder: folder inside the checkpoint.
        gguf_file: the one file of a folder or repository to load, where there are
            several; of a split one any part. "place:Q4_K_M" names it by its end.
        variant: "fp16" for `model.fp16.safetensors`.
        token: for the hub.
        cache_dir: of the hub.
        local_files_only: never ask the hub.
        attn_implementation: "sdpa", "eager", "flash_attention_2"...
        strict: raise where checkpoint and model differ; False logs it, and the class
            initialises what is missing.
        mmap: leave weights that need no conversion mapped in their files.
        kernel: the kernel to insist on for packed weights; "reference" is plain torch.
        progress: True or False, None for a bar on terminals, or a function that is
            called with (bytes done, bytes in all).

    Returns:
        A `transformers.PreTrainedModel` in evaluation mode.

    Raises:
        MissingRequirementError: `transformers` is absent or too old, or what the
            quantization method needs is.
        CheckpointError: the checkpoint is damaged, or not that of its class.
        DeviceMapError: the device map cannot be carried out.
        UnknownMethodError, PluginError, ConfigError: the quantization cannot be resolved.
        UnsupportedOperationError: something packed cannot be hosted.
    """
    verdict = check_requirement(TRANSFORMERS)
    if not verdict:
        raise MissingRequirementError(
            f"load_model builds models of transformers: {verdict.reason}; try: {verdict.fix}. "
            f"load_into loads any torch module without it"
        )
    from quantload.integrations.transformers.load import load

    return load(
        checkpoint,
        quantization_config=quantization_config,
        dtype=dtype,
        device_map=device_map,
        max_memory=max_memory,
        offload_folder=offload_folder,
        model_class=model_class,
        trust_remote_code=trust_remote_code,
        hub={
            "revision": revision,
            "subfolder": subfolder,
            "file": gguf_file,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        },
        variant=variant,
        attn_implementation=attn_implementation,
        strict=strict,
        mmap=mmap,
        kernel=kernel,
        progress=progress,
    )

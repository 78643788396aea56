"""`load_model`, once `transformers` is known to be there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from quantload.config.stored import config_in
from quantload.integrations.transformers.attributes import finish_model
from quantload.integrations.transformers.classes import load_config
from quantload.integrations.transformers.classes import model_class as _class
from quantload.integrations.transformers.skeleton import (
    build,
    resolve_dtype,
    set_dtype,
    settle_config,
)
from quantload.integrations.transformers.traits import traits_of
from quantload.loading.dtypes import parse_dtype
from quantload.loading.execute import execute
from quantload.loading.into import open_source
from quantload.loading.method import find_quantizer
from quantload.loading.progress import Report
from quantload.loading.record import LoadRecord, attach


def load(
    checkpoint: str | os.PathLike[str],
    *,
    quantization_config: object | None,
    dtype: str | torch.dtype | None,
    device_map: Any,
    max_memory: Mapping[Any, int | str] | None,
    offload_folder: str | os.PathLike[str] | None,
    model_class: type | str | None,
    trust_remote_code: bool,
    hub: Mapping[str, Any],
    variant: str | None,
    attn_implementation: str | None,
    strict: bool,
    mmap: bool,
    kernel: str | None,
    progress: bool | Report | None,
) -> Any:
    """See `quantload.load_model`; `hub` holds revision, subfolder, token and so on."""
    wanted = parse_dtype(dtype)
    opened = open_source(checkpoint, variant=variant, mmap=mmap, code=trust_remote_code, **hub)
    folder = str(opened.folder)
    try:
        config = load_config(opened, trust_remote_code)
        cls = _class(config, folder, model_class, trust_remote_code)
        quantizer = find_quantizer(opened, quantization_config, config_in(config.to_dict()))
        target = resolve_dtype(config, opened, wanted)
        if quantizer is not None:
            quantizer.validate_environment(device_map=device_map)
            device_map = quantizer.update_device_map(device_map)
            target = quantizer.update_dtype(target)
            settle_config(config, quantizer.quantization_config)
        set_dtype(config, target)
        config.name_or_path = os.fspath(checkpoint)
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        model = build(cls, config, target, **opened.model_options)
        traits = traits_of(model, target)
        plan = execute(
            model,
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
    except BaseException:
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
        code=trust_remote_code,
        origin=opened.origin,
    )
    attach(model, record)
    return finish_model(model, plan, traits, quantizer, opened, trust_remote_code)

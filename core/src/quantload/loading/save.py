"""`save_model`: a loaded model becomes a checkpoint again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quantload.checkpoint import companion_files, save_checkpoint
from quantload.checkpoint.arguments import parse_size
from quantload.checkpoint.formats import format_splitter, format_writer, known_suffixes
from quantload.checkpoint.onefile import replaced_file, replaced_parts
from quantload.checkpoint.writer import CheckpointWriter
from quantload.errors import UnsupportedOperationError
from quantload.loading.offload import fetched
from quantload.loading.parts import ModelParts
from quantload.loading.record import LoadRecord, is_transformers_model, record_of
from quantload.loading.skeleton import tensors_of
from quantload.modules import hosts_of
from quantload.quantizers.base import HfQuantizer
from quantload.quantizers.spec import ModuleSpec
from quantload.quantizers.weight import WeightQuantizer

logger = logging.getLogger(__name__)

SHARD_SIZE = "5GB"
_CONFIGS = ("config.json", "generation_config.json")
_METHOD_CONFIGS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def save_model(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    max_shard_size: int | str | None = None,
    sync: bool = True,
) -> Path:
    """Write a model as a checkpoint in its method's own layout.

    A path with the suffix of a format that a plugin writes (`.gguf`) becomes one file
    of that format, with the tokenizer in it. Any other path becomes a folder: of
    safetensors, or with one such file where that is the method's own format and has a
    place for the model (not where `max_shard_size` is given).

    In safetensors, tensors have the names and bytes they were loaded with; tied ones
    are written once. Beside them go config (with the quantization config), generation
    config, tokenizer, chat template and the other companions of the checkpoint it came
    from. The folder or file appears as a whole or not at all; one that exists is
    replaced, also the one the model was loaded from.

    Args:
        model: loaded with quantload, or any float model.
        folder: where the checkpoint is to be: a folder, or a file such as `model.gguf`.
        max_shard_size: bytes of a safetensors file, a number or text like "4GB"; "5GB"
            where None. For a file such as `model.gguf` the bytes that the tensors of one may
            take: a model that needs several becomes `model-00001-of-00003.gguf` and so on; one
            file where None.
        sync: wait until everything is on the disk, so that it survives a power cut.

    Returns:
        The folder or file; of several files the first.

    Raises:
        UnsupportedOperationError: the method cannot write what it packed, the file's
            format has no place for the model, or adapters are attached.
        CheckpointError: it could not be written; then nothing has changed.
    """
    if getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedOperationError(
            "the model has adapters attached, which are no part of a checkpoint; save them with "
            "their own library, and unload them or merge them before saving the model"
        )
    record = record_of(model)
    if record is not None and record.in_parts:
        raise UnsupportedOperationError(
            "every process has a part of the packed weights: call model.save_pretrained(folder) in "
            "all of them, which puts the parts together"
        )
    suffix = Path(folder).suffix
    if suffix.lower() in known_suffixes() and not Path(folder).is_dir():
        return _save_file(model, record, Path(folder), max_shard_size, sync)
    quantizer = _quantizer(model, record)
    companions = _companions(model, record, quantizer)
    if quantizer is not None and quantizer.file_format and max_shard_size is None:
        try:
            return _save_beside(model, record, quantizer, folder, companions, sync)
        except UnsupportedOperationError as error:
            logger.info("%s is saved as safetensors: %s", folder, error)
    return save_checkpoint(
        folder,
        stored_tensors(model, record, quantizer),
        companions=companions,
        max_shard_size=max_shard_size or SHARD_SIZE,
        remove=() if quantizer is not None else _METHOD_CONFIGS,
        sync=sync,
    )


def _save_file(
    model: nn.Module,
    record: LoadRecord | None,
    path: Path,
    max_shard_size: int | str | None,
    sync: bool,
) -> Path:
    """Write the file of a format that a plugin has, or the files; gives the first."""
    suffix = path.suffix.removeprefix(".")
    if max_shard_size is not None:
        size = parse_size(max_shard_size)
        split = format_splitter(suffix)
        with replaced_parts(path, sync=sync) as draft:
            first = split(_parts(model, record), draft, size)[0]
        return path.parent / first.name
    write = format_writer(suffix)
    with replaced_file(path, sync=sync) as draft:
        write(_parts(model, record), draft)
    return path


def _save_beside(
    model: nn.Module,
    record: LoadRecord | None,
    quantizer: HfQuantizer,
    folder: str | os.PathLike[str],
    companions: Mapping[str, bytes | str | os.PathLike[str]],
    sync: bool,
) -> Path:
    """Write a folder whose weights are a file of the method's own format."""
    write = format_writer(quantizer.file_format)
    origin = record.origin if record is not None else None
    name = origin.file_name() if origin is not None else f"model.{quantizer.file_format}"
    with CheckpointWriter(folder, remove=_METHOD_CONFIGS, sync=sync) as writer:
        writer.add_weights(name, lambda path: write(_parts(model, record), path))
        for companion, content in companions.items():
            if companion not in _METHOD_CONFIGS:
                writer.add_companion(companion, content)
        return writer.commit()


def _parts(model: nn.Module, record: LoadRecord | None) -> ModelParts:
    tensors = tensors_of(model)
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    folder = record.folder if record is not None and record.folder.is_dir() else None
    return ModelParts(
        model=model,
        weights={name: host.weight for name, host in hosts_of(model)},
        tensors={name: tensor for name, tensor in tensors.items() if name not in ignored},
        read=lambda name: _read(model, name, tensors[name]),
        fetched=fetched,
        origin=record.origin if record is not None else None,
        folder=folder,
    )


def _quantizer(model: nn.Module, record: LoadRecord | None) -> HfQuantizer | None:
    """The method that the model is packed with; None where it is float."""
    packed = next((name for name, _ in hosts_of(model)), None)
    found = getattr(model, "hf_quantizer", None)
    if not isinstance(found, HfQuantizer):
        found = record.quantizer if record is not None else None
    if packed is None and (found is None or isinstance(found, WeightQuantizer)):
        return None
    if found is None or (packed is not None and not isinstance(found, WeightQuantizer)):
        raise UnsupportedOperationError(
            f"{packed} holds a packed weight, and the model does not know by which method; "
            f"only models loaded with load_model or load_into can be saved packed"
        )
    able = found.is_serializable()
    if not able:
        raise UnsupportedOperationError(f"{found.quant_method} cannot be saved: {able.reason}")
    return found


def stored_tensors(
    model: nn.Module, record: LoadRecord | None, quantizer: HfQuantizer | None
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint of a model, under the names and in the form it came in.

    Args:
        model: packed or float.
        record: where it came from, if that is known.
        quantizer: what it is packed with; None where it is float.
    """
    names = record.names if record is not None else {}
    if isinstance(quantizer, WeightQuantizer):
        specs = record.specs if record is not None else {}
        yield from _packed(model, names, specs, quantizer)
    yield from _floats(model, record, names)


def _packed(
    model: nn.Module,
    names: Mapping[str, str],
    specs: Mapping[str, ModuleSpec],
    quantizer: WeightQuantizer,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of every packed weight, shared ones once and under the owner's name."""
    owners: dict[int, str] = {}
    weights: dict[int, Any] = {}
    for name, host in hosts_of(model):
        known = owners.get(id(host.weight))
        if known is None or (known not in names and name in names):
            owners[id(host.weight)] = name
        weights[id(host.weight)] = host.weight
    for key, name in owners.items():
        weight = weights[key]
        spec = specs.get(name) or ModuleSpec(name, shape=tuple(weight.shape), dtype=weight.dtype)
        with fetched(weight):
            for leaf, tensor in quantizer.unpack(spec, weight).items():
                yield f"{names.get(name, name)}.{leaf}", tensor


def _floats(
    model: nn.Module, record: LoadRecord | None, names: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """The float tensors under the checkpoint's names, tied ones once."""
    left = _once(model, names)
    for name in [n for n in left if _known(n, names)]:
        yield _known(name, names), _read(model, name, left.pop(name))
    groups = record.groups if record is not None else {}
    for targets, sources in groups.items():
        if all(target in left for target in targets):
            part = {target: _read(model, target, left.pop(target)) for target in targets}
            yield from _reverted(model, part, sources).items()
    rest = {name: _read(model, name, tensor) for name, tensor in left.items()}
    yield from _reverted(model, rest, ()).items()


def _once(model: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Every tensor under one of its names, if possible one the checkpoint used."""
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in tensors_of(model).items():
        if name in ignored:
            continue
        known = found.get(id(tensor))
        if known is None or (not _known(known[0], names) and _known(name, names)):
            found[id(tensor)] = (name, tensor)
    return dict(found.values())


def _known(name: str, names: Mapping[str, str]) -> str:
    """The checkpoint's name of a tensor, "" where it had none."""
    module = name.removesuffix(".weight")
    if name in names or module == name or module not in names:
        return names.get(name, "")
    return f"{names[module]}.weight"  # packed then, float now


def _read(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_meta:
        return tensor.detach()
    prefix, _, leaf = name.rpartition(".")
    module = model.get_submodule(prefix)
    with fetched(module):
        found = getattr(module, leaf)
        if found.is_meta:
            raise UnsupportedOperationError(f"{name} is on the meta device: it was never loaded")
        kept: Tensor = found.detach()
    return kept


def _reverted(
    model: nn.Module, tensors: dict[str, Tensor], sources: tuple[str, ...]
) -> dict[str, Tensor]:
    """Tensors converted back to what checkpoints of the class hold."""
    if not tensors or not is_transformers_model(model):
        return tensors
    from quantload.integrations.transformers.saving import reverted

    return reverted(model, tensors, sources)


def _companions(
    model: nn.Module, record: LoadRecord | None, quantizer: HfQuantizer | None
) -> dict[str, bytes | str | os.PathLike[str]]:
    found: dict[str, bytes | str | os.PathLike[str]] = {}
    if record is not None and record.origin is not None:
        found.update(record.origin.companions())
    elif record is not None and record.folder.is_dir():
        files = companion_files(record.folder, code=record.code)
        carried = quantizer is not None and quantizer.pre_quantized
        skipped = _CONFIGS if carried else (*_CONFIGS, *_METHOD_CONFIGS)
        found.update({name: path for name, path in files.items() if name not in skipped})
    elif record is not None:
        logger.warning(
            "%s is gone: tokenizer and other files beside the weights are not saved", record.folder
        )
    if is_transformers_model(model):
        from quantload.integrations.transformers.saving import configs

        found.update(configs(model, quantizer))
        return found
    config = dict(record.config) if record is not None else {}
    config.pop("quantization_config", None)
    if quantizer is not None:
        config["quantization_config"] = quantizer.quantization_config.to_dict()
    if config:
        found["config.json"] = json.dumps(config, indent=2) + "\n"
    return found

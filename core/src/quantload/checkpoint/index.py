"""`*.safetensors.index.json`: which shard holds which tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantload.checkpoint.jsonfile import parse_json, read_bytes
from quantload.checkpoint.paths import plain_name, show
from quantload.checkpoint.safetensors_file import SafetensorsFile
from quantload.errors import CheckpointError


def read_index(path: Path, real: Path | None = None) -> dict[str, str]:
    """Tensor name -> file name, as an index file says; every file name is a plain one.

    Args:
        path: the index file, for messages.
        real: where it really is, if `path` leads there through links.

    Raises:
        CheckpointError: it is no index, or names a file outside its folder.
    """
    weight_map = parse_json(read_bytes(real or path), path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path}: expected an object 'weight_map' of tensor and file names, "
            f"found {show(weight_map)}"
        )
    for file in set(map(str, weight_map.values())):
        if not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{path}: expected the names of .safetensors files in 'weight_map', "
                f"found {show(file)}"
            )
    return {
        name: plain_name(file, f"{path}: tensor {show(name)}") for name, file in weight_map.items()
    }


def check_against_index(
    index: Path, weight_map: Mapping[str, str], shards: Mapping[str, SafetensorsFile]
) -> None:
    """Compare an index with the headers of the shards it names.

    Args:
        index: the index file, for messages.
        weight_map: what `read_index` gave.
        shards: file name -> opened file, for every file that the index names.

    Raises:
        CheckpointError: a tensor is in two shards, in another shard than the
            index says, in none, or in a shard but not in the index.
    """
    where: dict[str, str] = {}
    for file, shard in shards.items():
        for name in shard.tensors:
            if name in where:
                raise CheckpointError(
                    f"{index}: tensor {show(name)} is in two shards, {where[name]} and {file}; "
                    f"the shards are of different checkpoints, download them again"
                )
            where[name] = file
    for name, file in weight_map.items():
        found = where.get(name)
        if found != file:
            raise CheckpointError(
                f"{index}: tensor {show(name)} should be in {file}, found it in "
                f"{found or 'no shard'}; index and shards are of different checkpoints"
            )
    extra = [name for name in where if name not in weight_map]
    if extra:
        raise CheckpointError(
            f"{shards[where[extra[0]]].path}: holds {len(extra)} tensors that the index "
            f"{index.name} does not name, {show(extra[0])} first; index and shards are of "
            f"different checkpoints"
        )

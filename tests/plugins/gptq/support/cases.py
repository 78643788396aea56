"""Layers that the original libraries packed, from `tests/data/formats`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[3] / "data" / "formats"


@dataclass(frozen=True)
class Case:
    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    numbers: dict[str, Tensor]

    def weight(self) -> Tensor:
        """The float32 weight, from the numbers that went into the packer."""
        groups = self.numbers["groups"].long()
        scales, codes = self.numbers["scales"].float(), self.numbers["codes"].float()
        zeros = self.numbers["zeros"].float()
        if "fast" in self.name or "llm" in self.name:
            offsets = (-(scales * zeros)).half().float()
            return scales[:, groups] * codes + offsets[:, groups]
        return scales[:, groups] * (codes - zeros[:, groups])


@cache
def cases(method: str) -> dict[str, Case]:
    found = {}
    with safe_open(FOLDER / f"{method}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, text in sorted((file.metadata() or {}).items()):
            mine = {k.split("/")[1]: t for k, t in tensors.items() if k.split("/")[0] == name}
            packed = {k.removeprefix("layer."): t for k, t in mine.items() if "layer." in k}
            numbers = {k: t for k, t in mine.items() if "layer." not in k}
            found[name] = Case(name, json.loads(text)["quantization_config"], packed, numbers)
    return found


def same_bytes(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Names, dtypes, shapes and bytes are equal."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        other = right[name]
        assert tensor.dtype == other.dtype, name
        assert tensor.shape == other.shape, name
        assert tensor.is_contiguous(), name
        mine, theirs = (t.reshape(-1).view(torch.uint8) for t in (tensor, other.contiguous()))
        assert torch.equal(mine, theirs), name

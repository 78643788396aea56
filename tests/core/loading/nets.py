"""Small modules of plain torch, for the tests of loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class Rotary(nn.Module):
    """Owns a buffer that checkpoints do not hold, and can compute it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("frequencies", torch.empty(size), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.frequencies.copy_(1.0 / 10.0 ** torch.arange(self.size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.frequencies


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.up = nn.Linear(size, 2 * size)
        self.down = nn.Linear(2 * size, size, bias=False)
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """Embedding, blocks, head; `tied` shares the first and the last weight."""

    def __init__(
        self, size: int = 16, words: int = 11, blocks: int = 2, tied: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, size)
        self.rotary = Rotary(size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(blocks))
        self.head = nn.Linear(size, words, bias=False)
        self.register_buffer("steps", torch.tensor(7))
        if tied:
            self.head.weight = self.embed.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: Tensor) -> Tensor:
        x = self.rotary(self.embed(ids))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


IDS = torch.arange(8).reshape(8, 1) % 11


def real(**kwargs: Any) -> Net:
    torch.manual_seed(0)
    return Net(**kwargs)


def skeleton(**kwargs: Any) -> Net:
    with torch.device("meta"):
        return Net(**kwargs)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The state, every storage once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            found[name] = tensor.detach().clone()
            seen.add(tensor.data_ptr())
    return found


def write(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None, shards: int = 1
) -> Path:
    """A checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    index = {}
    for number in range(shards):
        part = {name: tensors[name].contiguous() for name in names[number::shards]}
        file = "model.safetensors"
        if shards > 1:
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file)
        index.update(dict.fromkeys(part, file))
    if shards > 1:
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder

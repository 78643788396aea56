"""Any `torch.nn.Module`, without `transformers`: build it on the meta device and load into it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import quantload


class Classifier(nn.Module):
    """A module of one's own; nothing in it knows of quantization."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(256, 512)
        self.out = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(torch.relu(self.hidden(x)))
        return scores


torch.manual_seed(0)
trained = Classifier()
x = torch.randn(8, 256)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    save_file(trained.state_dict(), path)

    with torch.device("meta"):
        module = Classifier()
    report = quantload.load_into(module, path, quantization_config={"load_in_8bit": True})

print(module)
print(report)
with torch.inference_mode():
    wanted, found = trained(x), module(x)
print(f"largest difference from the float module: {(found - wanted).abs().max():.4f}")

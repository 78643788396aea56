"""`tp_plan="auto"` under `torchrun`: two processes, each with its part of the packed weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
import quantload
quantload.enable_transformers()
from transformers import AutoModelForCausalLM

ids = torch.arange(24).reshape(2, 12)
folder = sys.argv[1]
direct = quantload.load_model(folder)
model = AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto")
layer, whole = model.model.layers[0], direct.model.layers[0]
assert layer.mlp.down_proj.weight.shape[1] * 2 == whole.mlp.down_proj.weight.shape[1]
assert layer.mlp.up_proj.weight.shape[0] * 2 == whole.mlp.up_proj.weight.shape[0]
with torch.no_grad():
    torch.testing.assert_close(model(ids).logits, direct(ids).logits, atol=1e-5, rtol=1e-4)
try:
    model.save_pretrained(folder + "-split")
except quantload.UnsupportedOperationError:
    print("equal, and not saved")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "nf4"])
def test_two_processes_give_the_logits_of_one(
    method: str, packed: Callable[[str], Path], tmp_path: Path
) -> None:
    script = tmp_path / "split.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(packed(method))],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal, and not saved") == 2

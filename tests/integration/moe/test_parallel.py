"""Experts spread over processes: each runs some, and what they give is added up."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from foreign import CHECKPOINTS, write
from models import tensors

import quantload
from quantload.modules import QuantizedExperts

SCRIPT = """
import sys
import torch
import quantload
quantload.enable_transformers()
from transformers import AutoModelForCausalLM

ids = torch.arange(24).reshape(2, 12)
for folder in sys.argv[1:]:
    direct = quantload.load_model(folder, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto", dtype=torch.float32)
    experts = model.model.layers[1].mlp.experts
    held = [name for name, _ in experts.named_children() if name.isdigit()]
    rank = torch.distributed.get_rank()
    assert held == [str(rank), str(rank + 2)]
    assert not any(p.is_meta for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, direct(ids).logits, atol=1e-5, rtol=1e-4)
    try:
        model.dequantize()
    except quantload.UnsupportedOperationError as error:
        assert "every process has a part" in str(error)
        print("equal")
    model.save_pretrained(folder + "-again")
    torch.distributed.barrier()
    assert [name for name, _ in experts.named_children() if name.isdigit()] == held
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, direct(ids).logits, atol=1e-5, rtol=1e-4)
torch.distributed.destroy_process_group()
"""
NAMES = ("Mixtral by AutoGPTQ", "Qwen3-MoE by GPTQModel", "DeepSeek by GPTQModel")


@pytest.mark.slow
def test_two_processes_with_half_of_the_experts_compute_and_save_as_one(
    tmp_path: Path,
) -> None:
    folders = []
    for number, name in enumerate(NAMES):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        write(name, folders[-1])
    script = tmp_path / "split.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == 2 * len(NAMES)
    for folder, name in zip(folders, NAMES, strict=True):
        dropped = CHECKPOINTS[name].dropped or ("?",)
        wanted = {k: t for k, t in tensors(folder).items() if not k.endswith(dropped)}
        found = tensors(folder.with_name(f"{folder.name}-again"))
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():  # what is float was loaded in float32
            assert torch.equal(found[key].to(tensor.dtype), tensor), key


def test_parts_of_the_experts_add_up_to_all_of_them(tmp_path: Path) -> None:
    write("Qwen3-MoE by GPTQModel", tmp_path)
    model = quantload.load_model(tmp_path, dtype=torch.float32)
    whole = model.model.layers[1].mlp.experts
    assert isinstance(whole, QuantizedExperts)
    x, weights = torch.randn(6, 64), torch.rand(6, 2)
    chosen = torch.tensor([[0, 3], [1, 2], [3, 0], [2, 1], [0, 1], [3, 2]])
    given = []
    for own in ({0, 3}, {1}, {2}):
        part = copy.deepcopy(whole)
        part.keep(own)
        assert {name for name, _ in part.named_children() if name.isdigit()} == set(map(str, own))
        given.append(part(x, chosen, weights))
        with pytest.raises(quantload.UnsupportedOperationError, match=f"{len(own)} of 4 experts"):
            part.joined()
    torch.testing.assert_close(sum(given), whole(x, chosen, weights), atol=1e-5, rtol=1e-5)

"""`tp_plan="auto"` under `torchrun`: two processes, each with its part of the packed weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from methods import METHODS, TINY

import quantload

SCRIPT = Path(__file__).with_name("split.py")


@pytest.mark.slow
def test_two_processes_load_quantize_compute_and_save_as_one_does(
    tiny: Path, packed: Callable[[str], Path], tmp_path: Path
) -> None:
    experts = tmp_path / "experts"
    settings = {**TINY, "num_local_experts": 4}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**settings))
    model.save_pretrained(f"{experts}-float")
    made = quantload.load_model(f"{experts}-float", quantization_config=METHODS["nf4"])
    quantload.save_model(made, experts)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    folders = [text for method in METHODS for text in (method, str(packed(method)))]
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), str(tiny), str(experts), str(tmp_path), *folders],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[:6000]}"
    told = done.stdout  # of both, whose lines may run into each other
    for method in METHODS:
        assert told.count(f"{method} packed") == 2
        assert told.count(f"{method} quantized on load") == 2
    assert told.count("experts equal, and saved") == 2

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from quantload.testing import fake_distribution


@pytest.fixture
def run():
    """Run the command in this process: `run("list", "--json")`."""
    from quantload.cli.app import app

    def invoke(*arguments: object):
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def run_json(run):
    """The same with `--json`: exit status and the parsed answer."""

    def invoke(*arguments: object):
        result = run(*arguments, "--json")
        return result.exit_code, json.loads(result.stdout)

    return invoke


@pytest.fixture
def toy8():
    """The toy method, installed as far as discovery can tell."""
    with fake_distribution(
        "quantload-toy8",
        version="2.1",
        quantizers={"toy8": "toy8.plugin:PLUGIN", "toy8_alias": "toy8.plugin:PLUGIN"},
        kernels={"toy8": "toy8.plugin:KERNELS"},
    ):
        yield


@pytest.fixture
def toy_checkpoint(tmp_path):
    """A checkpoint with two packed layers and a float one, and no model class."""
    import torch

    tensors = {
        "up.codes": torch.zeros(32, 16, dtype=torch.int8),
        "up.scales": torch.ones(32),
        "down.codes": torch.zeros(16, 32, dtype=torch.int8),
        "down.scales": torch.ones(16),
        "norm.weight": torch.ones(16, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"dtype": "bfloat16", "quantization_config": {"quant_method": "toy8", "odd_key": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path

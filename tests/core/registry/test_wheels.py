"""Discovery of really built and installed wheels, in an environment with nothing else."""

from __future__ import annotations

import json

import pytest
from wheels import ROOT, Environment, build, plugin_project

pytestmark = pytest.mark.wheels


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    projects = {
        "core": ROOT / "core",
        "toy": plugin_project(folder, "quantload-toy", "quantload>=0.1"),
        "rival": plugin_project(folder, "rival-toy", "quantload"),
        "future": plugin_project(folder, "quantload-future", "quantload>=99"),
    }
    return {key: build(project, folder) for key, project in projects.items()}


@pytest.fixture
def environment(built, tmp_path):
    made = Environment(tmp_path / "env")
    made.install(built["core"])
    return made


INSTALL_WHILE_RUNNING = """
import json, subprocess, sys
import quantload

def ask():
    try:
        quantizer = quantload.AutoHfQuantizer.from_config({"quant_method": "toy", "bits": 3})
        return f"{quantizer.plugin.quantizer} {quantizer.quantization_config.bits}"
    except quantload.QuantloadError as error:
        return type(error).__name__

said = [ask()]
subprocess.run(json.loads(sys.argv[1]), check=True)
said.append(ask())
quantload.refresh()
said.append(ask())
from quantload import ToyConfig
said.append(ToyConfig.quant_method)
subprocess.run(json.loads(sys.argv[2]), check=True)
quantload.refresh()
said.append(ask())
said.append("ToyConfig" in vars(quantload))
said.append("torch" in sys.modules)
print(json.dumps(said))
"""


def test_refresh_sees_what_is_installed_and_removed_while_running(built, environment):
    install = environment.pip("install", "--no-deps", "--no-index", built["toy"])
    remove = environment.pip("uninstall", "-y", "quantload-toy")
    said = environment.execute(INSTALL_WHILE_RUNNING, json.dumps(install), json.dumps(remove))
    assert json.loads(said) == [
        "UnknownMethodError",
        "UnknownMethodError",
        "quantload_toy.method:Quantizer 3",
        "toy",
        "UnknownMethodError",
        False,
        False,
    ]


ASK = """
import sys
import quantload
try:
    print(quantload.AutoHfQuantizer.from_config({"quant_method": "toy"}).plugin.config)
except quantload.QuantloadError as error:
    print(type(error).__name__, error)
print(sorted(m for m in sys.modules if m.endswith(("_toy", "_future"))))
"""


def test_the_same_wheel_in_two_folders_is_one_provider(built, environment, tmp_path):
    environment.install(built["toy"])
    environment.install(built["toy"], target=tmp_path / "also")
    said = environment.execute(ASK, PYTHONPATH=str(tmp_path / "also"))
    assert said.splitlines()[0] == "quantload_toy.method:Config"


def test_two_wheels_for_one_method_are_a_conflict_until_one_is_chosen(built, environment):
    environment.install(built["toy"], built["rival"])
    said = environment.execute(ASK)
    assert said.startswith("PluginConflictError")
    assert "quantload-toy 1.0" in said
    assert "rival-toy 1.0" in said
    assert said.splitlines()[-1] == "[]"
    said = environment.execute(ASK, QUANTLOAD_PROVIDER="toy=rival-toy")
    assert said.splitlines() == ["rival_toy.method:Config", "['rival_toy']"]


def test_a_wheel_built_for_another_core_is_refused_and_not_imported(built, environment):
    environment.install(built["future"])
    said = environment.execute(ASK)
    assert said.startswith("PluginIncompatibleError quantload-future 1.0")
    assert "quantload 0.1" in said
    assert said.splitlines()[-1] == "[]"

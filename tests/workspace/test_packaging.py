"""What the packages say of themselves, and that the constraints hold all they ask for."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = [ROOT / "core", *sorted(p.parent for p in ROOT.glob("plugins/*/pyproject.toml"))]
PLUGINS = MEMBERS[1:]
CORE = MEMBERS[0]


def project(member: Path) -> dict[str, Any]:
    return tomllib.loads((member / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def asked(member: Path) -> list[Requirement]:
    found = project(member)
    extras = found.get("optional-dependencies", {}).values()
    return [Requirement(text) for part in (found["dependencies"], *extras) for text in part]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in found}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_metadata_is_complete(member: Path) -> None:
    found = project(member)
    assert found["requires-python"] == ">=3.10"
    assert found["license"] == "Apache-2.0"
    assert (member / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (member / found["readme"]).read_text().strip()
    assert found["description"]
    assert "Typing :: Typed" in found["classifiers"]
    assert list(member.glob("src/*/py.typed"))


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_requirements_are_ranges_and_never_pins(member: Path) -> None:
    for requirement in asked(member):
        if requirement.name != "quantload":
            operators = {s.operator for s in requirement.specifier}
            assert ">=" in operators, f"{requirement} has no lower bound"
            assert not operators & {"==", "==="}, f"{requirement} is a pin"


@pytest.mark.parametrize("member", PLUGINS, ids=lambda m: m.name)
def test_a_plugin_is_named_after_its_folder_and_asks_for_the_core(member: Path) -> None:
    found = project(member)
    assert found["name"] == f"quantload-{member.name}"
    core = next(r for r in asked(member) if r.name == "quantload")
    assert {s.operator for s in core.specifier} == {">=", "<"}


def test_extras_of_the_core_pull_every_plugin() -> None:
    extras = project(CORE)["optional-dependencies"]
    whole = Requirement(extras["all"][0])
    assert whole.extras == set(extras) - {"all"}
    pulled = {Requirement(text).name for part in extras.values() for text in part}
    assert {f"quantload-{member.name}" for member in PLUGINS} <= pulled


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_constraints_pin_what_a_package_asks_for_within_its_range(member: Path) -> None:
    have = pins()
    for requirement in asked(member):
        if not requirement.name.startswith("quantload"):
            pin = have.get(canonicalize_name(requirement.name))
            assert pin, f"constraints.txt does not hold {requirement.name}"
            assert requirement.specifier.contains(pin)


def test_constraints_pin_every_tool_that_nox_installs() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    tools = {"pytest", "pytest-timeout", "hypothesis", "ruff", "mypy", "mkdocs-material", "twine"}
    assert tools <= words, "this list no longer names what noxfile.py installs"
    assert {canonicalize_name(tool) for tool in (*tools, "nox", "hatchling")} <= set(pins())


def test_ci_and_readme_name_the_same_sessions() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    sessions = set(re.findall(r"^session (\w+)$", script.read_text(), re.MULTILINE))
    assert {"tests", "lint", "types"} <= sessions
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    assert sessions <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install nox && nox -s demo" in readme
    assert "pip install nox && nox -s tests" in readme


@pytest.mark.wheels
@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_a_wheel_holds_the_package_and_nothing_else(member: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(member)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = next(member.glob("src/*/__init__.py")).parent
    sources = {f"{package.name}/{f.relative_to(package)}" for f in package.rglob("*.py")}
    held = {name for name in names if ".dist-info/" not in name}
    assert sources <= held
    assert f"{package.name}/py.typed" in held
    assert {name.split("/")[0] for name in held} == {package.name}
    assert any(name.endswith("licenses/LICENSE") for name in names)

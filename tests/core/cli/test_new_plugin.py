from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from own_tests import run_tests
from wheels import ROOT, Environment, build

from quantload.cli.scaffold import writing
from quantload.testing import fake_distribution

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


@pytest.fixture
def made(run, tmp_path):
    result = run("new-plugin", "my-int4", "--into", tmp_path)
    assert result.exit_code == 0, result.output
    return tmp_path / "quantload-my-int4"


def test_it_says_what_it_wrote_and_what_comes_next(run_json, run, tmp_path):
    code, said = run_json("new-plugin", "fancy_4bit", "--into", tmp_path)
    folder = tmp_path / "quantload-fancy-4bit"
    assert code == 0
    assert (said["method"], said["package"]) == ("fancy_4bit", "quantload_fancy_4bit")
    assert said["folder"] == str(folder)
    there = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert said["files"] == there
    assert {"pyproject.toml", "README.md", ".github/workflows/ci.yml"} <= set(there)
    shown = run("new-plugin", "another", "--into", tmp_path).output
    assert "python -m pytest" in shown
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_every_blank_is_filled_and_the_entry_point_is_there(made):
    texts = {p: p.read_text() for p in made.rglob("*") if p.is_file()}
    assert not [p for p, text in texts.items() if re.search(r"__[A-Z_]+__", text)]
    project = tomllib.loads(texts[made / "pyproject.toml"])["project"]
    points = project["entry-points"]
    assert points["quantload.quantizers"] == {"my-int4": "quantload_my_int4.plugin:PLUGIN"}
    assert points["quantload.exports"] == {"MyInt4Config": "quantload_my_int4.config:MyInt4Config"}
    assert re.fullmatch(r"quantload>=0\.\d+,<0\.\d+", project["dependencies"][0])
    for path, text in texts.items():
        if path.suffix == ".py":
            compile(text, str(path), "exec")


def test_the_workflow_publishes_without_a_token(made):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((made / ".github/workflows/ci.yml").read_text())
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert "secrets." not in (made / ".github/workflows/ci.yml").read_text()


def test_its_tests_pass_as_they_are_written(made):
    with fake_distribution(
        "quantload-my-int4",
        version="0.1.0",
        quantizers={"my-int4": "quantload_my_int4.plugin:PLUGIN"},
    ) as fake:
        found = os.pathsep.join([str(fake.path), str(made / "src")])
        # what is compiled takes seconds and is left to the test below
        said = run_tests(made, "-k", "not compiled and not shard and not cast", PYTHONPATH=found)
    assert re.search(r"\d{2,} passed", said)
    assert "GPU tests did not run" in said or "skipped" not in said


@pytest.mark.wheels
def test_its_wheel_is_discovered_and_passes_its_tests_where_it_is_installed(made, tmp_path):
    environment = Environment(tmp_path / "env")
    environment.borrow()
    environment.install(build(ROOT / "core", tmp_path), build(made, tmp_path))
    said = environment.execute("from quantload import MyInt4Config; print(MyInt4Config().bits)")
    assert said.strip() == "8"
    assert " passed" in run_tests(made, python=environment.python, PYTHONPATH="")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My Method", "try 'my-method'"),
        ("RowInt8", "try 'row-int8'"),
        ("8bit", "try 'bit'"),
        ("../../etc", "cannot name a method"),
        ("a" * 60, "40 characters"),
        ("", "cannot name a method"),
        ("-x", "cannot name a method|No such option"),
        ("double--hyphen", "try 'double-hyphen'"),
        ("quantload-thing", "give the name of the method alone, 'thing'"),
        ("gptq", "provided by quantload-gptq"),
        ("GPTQ", "try 'gptq'"),
        ("toy8-alias", "provided by quantload-toy8 2.1"),
    ],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_is_written(run, toy8, tmp_path, name, said):
    result = run("new-plugin", "--into", tmp_path, name)
    assert result.exit_code != 0
    assert re.search(said, result.output)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_is(run, tmp_path):
    folder = tmp_path / "quantload-mine"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    result = run("new-plugin", "mine", "--into", tmp_path)
    assert result.exit_code == 1
    assert "exists already" in result.output
    assert [p.name for p in tmp_path.rglob("*")] == ["quantload-mine", "precious"]
    result = run("new-plugin", "mine", "--into", tmp_path / "absent")
    assert result.exit_code == 1
    assert "is no folder" in result.output


def test_files_appear_all_at_once_or_not_at_all(run, tmp_path, monkeypatch):
    real = Path.write_text

    def failing(self, *args, **kwargs):
        if self.name == "quantizer.py":
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(writing.Path, "write_text", failing)
    result = run("new-plugin", "mine", "--into", tmp_path)
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert list(tmp_path.iterdir()) == []

"""`quantload list`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from stub_plugin import plugin_source

from quantload.testing import fake_distribution


def installed(name="dist-a", method="stub", **kwargs):
    module = name.replace("-", "_")
    defaults = {
        "version": "1.2",
        "quantizers": {method: f"{module}.plugin:PLUGIN"},
        "modules": {f"{module}.plugin": plugin_source("a stub")},
    }
    return fake_distribution(name, **{**defaults, **kwargs})


def only(answer, distribution="dist-a"):
    return [p for p in answer["plugins"] if p["distribution"] == distribution]


def test_a_ready_plugin_with_everything_that_is_known_of_it(run, run_json, toy8):
    status, answer = run_json("list")
    first, second, kernels = only(answer, "quantload-toy8")
    assert status == 0
    assert answer["schema"] == 1
    assert first == {
        "group": "quantload.quantizers",
        "name": "toy8",
        "distribution": "quantload-toy8",
        "version": "2.1",
        "target": "toy8.plugin:PLUGIN",
        "location": first["location"],
        "status": "ready",
        "reason": "",
        "fix": "",
        "devices": ["cpu", "cuda"],
        "summary": "int8 rows, rounded to nearest",
    }
    assert second["name"] == "toy8_alias"
    assert kernels["group"] == "quantload.kernels"
    shown = run("list").stdout
    for part in ("toy8_alias", "quantload-toy8", "2.1", "ready", "cpu cuda", "int8 rows"):
        assert part in shown


@pytest.mark.parametrize(
    ("kwargs", "status", "reason", "exit_code"),
    [
        ({"modules": {"dist_a.plugin": "1 / 0"}}, "broken", "ZeroDivisionError", 1),
        ({"quantizers": {"stub": "no target"}}, "broken", "module:attribute", 1),
        ({"quantizers": {"../../x": "m:P"}}, "broken", "cannot be a name", 1),
        ({"files": {"METADATA": b"\xff"}}, "broken", "metadata", 1),
        ({"requires": ("quantload>=99",)}, "incompatible", "another core", 1),
        (
            {"modules": {"dist_a.plugin": plugin_source().replace("api=1", "api=7")}},
            "incompatible",
            "API 7",
            1,
        ),
        (
            {
                "modules": {
                    "dist_a.plugin": plugin_source().replace(
                        "api=1", "api=1, requires=('quantload-no-such>=2',)"
                    )
                }
            },
            "missing",
            "quantload-no-such is not installed",
            0,
        ),
    ],
)
def test_what_is_wrong_is_shown_with_its_reason(run, run_json, kwargs, status, reason, exit_code):
    with installed(**kwargs):
        code, answer = run_json("list")
        found = [p for p in answer["plugins"] if "dist" in p["distribution"]]
        shown = run("list")
    assert [p["status"] for p in found] == [status]
    assert reason in found[0]["reason"]
    assert code == shown.exit_code == exit_code
    assert status in shown.stdout
    assert "Traceback" not in shown.output


def test_a_missing_requirement_comes_with_the_command_that_mends_it(run_json):
    source = plugin_source().replace("api=1", "api=1, requires=('quantload-no-such>=2',)")
    with installed(modules={"dist_a.plugin": source}):
        _, answer = run_json("list")
    (plugin,) = only(answer)
    assert plugin["fix"] == "pip install 'quantload-no-such>=2'"


def test_a_conflict_is_shown_on_both_sides_until_the_environment_decides(run_json, monkeypatch):
    with installed("dist-a"), installed("dist-b"):
        code, answer = run_json("list")
        both = [*only(answer, "dist-a"), *only(answer, "dist-b")]
        assert [p["status"] for p in both] == ["conflict", "conflict"]
        assert code == 1
        monkeypatch.setenv("QUANTLOAD_PROVIDER", "stub=dist-b")
        code, answer = run_json("list")
    assert code == 0
    assert only(answer, "dist-a")[0]["status"] == "not chosen"
    assert only(answer, "dist-b")[0]["status"] == "ready"


def test_a_provider_that_is_asked_for_and_absent_is_told(run_json, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_PROVIDER", "stub=elsewhere")
    with installed():
        _, answer = run_json("list")
    (plugin,) = only(answer)
    assert plugin["status"] == "not chosen"
    assert "elsewhere" in plugin["reason"]


@pytest.mark.parametrize(("variable", "value"), [("DISABLE", "dist-a"), ("ALLOW", "other")])
def test_a_disabled_plugin_is_shown_as_such_and_not_imported(
    run_json, monkeypatch, variable, value
):
    monkeypatch.setenv(f"QUANTLOAD_{variable}", value)
    with installed(modules={"dist_a.plugin": "1 / 0"}):
        code, answer = run_json("list")
        assert "dist_a.plugin" not in sys.modules
    (plugin,) = only(answer)
    assert (plugin["status"], code) == ("disabled", 0)
    assert f"QUANTLOAD_{variable}" in plugin["reason"]


def test_what_could_be_installed_is_named(run, run_json, monkeypatch):
    known = {"quantload.quantizers": {"farquant": "quantload-far"}}
    monkeypatch.setattr("quantload.cli.listing.known", lambda: known)
    _, answer = run_json("list")
    assert {
        "group": "quantload.quantizers",
        "name": "farquant",
        "distribution": "quantload-far",
        "fix": "pip install quantload-far",
    } in answer["not_installed"]
    assert "pip install quantload-far" in run("list").stdout


def test_what_a_plugin_prints_does_not_spoil_the_json(run):
    with installed(modules={"dist_a.plugin": "print('hello')\n" + plugin_source()}):
        result = run("list", "--json")
    assert json.loads(result.stdout)["schema"] == 1
    assert "hello" in result.stderr


def test_escape_sequences_in_names_do_not_reach_the_terminal(run):
    text = "[quantload.quantizers]\n\x1b[31mred = m:P\n"
    with installed(files={"entry_points.txt": text}):
        result = run("list")
    assert "\x1b[31mred" not in result.stdout
    assert "x1b[31mred" in result.stdout


def test_a_malformed_environment_variable_is_a_readable_error(run, run_json, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_PROVIDER", "nonsense")
    with installed():
        result = run("list")
        code, answer = run_json("list")
    assert result.exit_code == code == 1
    assert result.stderr.startswith("error: QUANTLOAD_PROVIDER")
    assert "Traceback" not in result.output
    assert answer["error"]["type"] == "ConfigError"


@pytest.mark.parametrize("arguments", [("nope",), ("list", "--nope"), ("info",), ("list", "x")])
def test_a_command_that_is_not_understood_exits_with_two(run, arguments):
    assert run(*arguments).exit_code == 2


def test_help_and_version(run):
    assert run("--version").stdout.startswith("quantload 0")
    for arguments in (("--help",), ("list", "-h"), ("info", "-h"), ("doctor", "-h")):
        assert run(*arguments).exit_code == 0


@pytest.mark.parametrize(
    "command", [["-m", "quantload"], ["-c", "from quantload.cli import main; main()"]]
)
def test_the_module_and_the_entry_point_list_without_torch(command, tmp_path):
    check = tmp_path / "sitecustomize.py"
    check.write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    )
    done = subprocess.run(
        [sys.executable, *command, "list", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == 1
    assert done.stderr.strip().splitlines()[-1] == "False"


def test_the_entry_point_names_what_there_is():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="quantload")
    assert callable(script.load())

"""`quantload doctor`."""

from __future__ import annotations

import sys

from stub_plugin import plugin_source

from quantload import env
from quantload.testing import fake_distribution


def of(answer, distribution):
    return [p for p in answer["plugins"] if p["distribution"] == distribution]


def test_environment_devices_variables_and_what_is_untested(run, run_json, monkeypatch):
    monkeypatch.setenv("QUANTLOAD_KERNEL", "reference")
    _, answer = run_json("doctor")
    assert answer["environment"]["python"].startswith(sys.version.split()[0])
    assert answer["devices"][0]["type"] == "cpu"
    assert {v["name"] for v in answer["variables"]} == {v.name for v in env.TABLE}
    assert {v["name"]: v["value"] for v in answer["variables"]}["QUANTLOAD_KERNEL"] == "reference"
    assert {line.split(":")[0].split()[0] for line in answer["untested"]} == {
        "Windows",
        "macOS",
        "ROCm",
        "XPU",
    }
    shown = run("doctor").stdout
    for part in ("Windows", "QUANTLOAD_KERNEL", "torch", "cpu"):
        assert part in shown


def test_a_plugin_with_its_requirements_and_its_kernels(run_json, toy8):
    _, answer = run_json("doctor")
    quantizer, pack = of(answer, "quantload-toy8")  # the alias is not examined twice
    assert quantizer["ok"]
    assert [need["what"] for need in quantizer["needs"]] == ["needs torch>=2.8"]
    assert pack["group"] == "quantload.kernels"
    assert "toy8" in answer["kernels"]["cpu"]


def test_every_problem_has_a_reason_and_an_exit_status(run, run_json):
    needy = plugin_source().replace("api=1", "api=1, requires=('quantload-no-such>=2',)")
    with (
        fake_distribution(
            "dist-needy", quantizers={"needy": "needy_p:PLUGIN"}, modules={"needy_p": needy}
        ),
        fake_distribution(
            "dist-broken", quantizers={"sick": "sick_p:PLUGIN"}, modules={"sick_p": "1 / 0"}
        ),
    ):
        code, answer = run_json("doctor")
        shown = run("doctor")
    assert code == shown.exit_code == 1
    (needy_found,) = of(answer, "dist-needy")
    assert not needy_found["ok"]
    assert needy_found["fix"] == "pip install 'quantload-no-such>=2'"
    (broken,) = of(answer, "dist-broken")
    assert "ZeroDivisionError" in broken["reason"]
    assert "--force-reinstall" in broken["fix"]
    assert len([p for p in answer["problems"] if "needy" in p or "sick" in p]) == 2
    assert "problems found" in shown.stdout
    assert "Traceback" not in shown.output


def test_an_unmet_requirement_of_the_distribution_counts_too(run_json):
    with fake_distribution(
        "dist-a",
        quantizers={"stub": "stub_p:PLUGIN"},
        modules={"stub_p": plugin_source()},
        requires=("quantload", "quantload-no-such; python_version > '3'"),
    ):
        code, answer = run_json("doctor")
    (found,) = of(answer, "dist-a")
    assert (code, found["status"], found["ok"]) == (1, "ready", False)
    assert "quantload-no-such is not installed" in found["reason"]


def test_classes_that_cannot_be_imported_are_found_though_the_descriptor_is_fine(run_json):
    source = plugin_source().replace("stub_plugin:StubQuantizer", "stub_plugin:Absent")
    with fake_distribution(
        "dist-a", quantizers={"stub": "stub_p:PLUGIN"}, modules={"stub_p": source}
    ):
        code, answer = run_json("doctor")
    (found,) = of(answer, "dist-a")
    assert code == 1
    assert "Absent" in found["reason"]


def test_what_a_quantizer_says_of_itself_is_asked(run_json):
    source = (
        "from quantload.plugin import QuantizerPlugin, Verdict\n"
        "from stub_plugin import StubConfig, StubQuantizer\n"
        "class Picky(StubQuantizer):\n"
        "    def is_available(self): return Verdict.no('it is built wrong', 'rebuild it')\n"
        "PLUGIN = QuantizerPlugin(api=1, config=StubConfig, quantizer=Picky)\n"
    )
    with fake_distribution(
        "dist-a", quantizers={"stub": "picky_p:PLUGIN"}, modules={"picky_p": source}
    ):
        code, answer = run_json("doctor")
    (found,) = of(answer, "dist-a")
    assert (code, found["reason"], found["fix"]) == (1, "it is built wrong", "rebuild it")


def test_what_somebody_wished_for_is_no_problem(run_json, monkeypatch):
    _, before = run_json("doctor")
    monkeypatch.setenv("QUANTLOAD_DISABLE", "dist-a")
    with fake_distribution("dist-a", quantizers={"stub": "absent:P"}):
        _, answer = run_json("doctor")
    assert of(answer, "dist-a")[0]["status"] == "disabled"
    assert answer["problems"] == before["problems"]


def test_a_torch_that_cannot_be_imported_is_a_finding_and_no_crash(run_json, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, answer = run_json("doctor")
    assert code == 1
    assert "torch cannot be imported" in answer["problems"][0]
    assert answer["devices"] == []

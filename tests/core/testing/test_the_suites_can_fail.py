"""A suite that cannot fail is worthless: every broken promise is caught by the check for it."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import broken.configs
import broken.kernels
import broken.quantizers
import broken.weights
import pytest

CASES = {
    f"Test{kind}{case.name}": case
    for kind, module in {
        "Weight": broken.weights,
        "Quantizer": broken.quantizers,
        "Config": broken.configs,
        "Kernel": broken.kernels,
    }.items()
    for case in module.CASES
}

KINDS = {"weight": "Weight", "quantizer": "Quantizer"}
BROKEN_CHECKS = sorted(
    {
        (
            KINDS.get(
                case.parts.get("suite", ""), cls.removeprefix("Test").removesuffix(case.name)
            ),
            case.expected,
        )
        for cls, case in CASES.items()
    }
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[tuple[str, str], list[bool]]:
    """(class, check) -> whether each run of it failed, in one process for all of them.

    Asked are the check that a plugin breaks, and the same one of the correct plugin.
    """
    report = tmp_path_factory.mktemp("broken") / "report.xml"
    child = Path(__file__).with_name("broken_child.py")
    nodes = {f"{child}::{cls}::{case.expected}" for cls, case in CASES.items()}
    nodes |= {f"{child}::TestCorrect{kind}::{check}" for kind, check in BROKEN_CHECKS}
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *sorted(nodes)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert report.exists(), done.stdout[-4000:] + done.stderr[-4000:]
    found: dict[tuple[str, str], list[bool]] = {}
    for test in ET.parse(report).iter("testcase"):
        cls = test.get("classname", "").rpartition(".")[2]
        name = test.get("name", "").partition("[")[0]
        failed = test.find("failure") is not None or test.find("error") is not None
        found.setdefault((cls, name), []).append(failed)
    return found


@pytest.mark.parametrize("cls", sorted(CASES))
def test_the_check_for_it_fails(cls, outcomes):
    assert any(outcomes[cls, CASES[cls].expected])


@pytest.mark.parametrize(("kind", "check"), BROKEN_CHECKS)
def test_the_same_check_passes_where_nothing_is_broken(kind, check, outcomes):
    assert not any(outcomes[f"TestCorrect{kind}", check])


def test_every_check_of_the_suites_has_a_plugin_that_breaks_it(outcomes):
    from quantload.testing import ConfigSuite, KernelSuite, QuantizerSuite, WeightSuite

    broken_checks = {case.expected for case in CASES.values()}
    missing = {
        name
        for suite in (ConfigSuite, QuantizerSuite, WeightSuite, KernelSuite)
        for name in dir(suite)
        if name.startswith("test_") and name not in broken_checks
    }
    assert missing == TESTED_WITH_PACKAGES


TESTED_WITH_PACKAGES = {
    # these start a fresh process: their broken plugins are in test_the_suites_see_imports.py
    "test_configs_are_made_without_torch",
    "test_the_descriptor_imports_no_torch",
    "test_making_the_quantizer_imports_no_torch_where_declared",
}

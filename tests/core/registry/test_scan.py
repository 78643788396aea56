"""Reading installed metadata: real folders on `sys.path`, whole, damaged and hostile."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import sys
import time

import pytest
from stub_plugin import plugin_source

from quantload.errors import PluginLoadError, UnknownMethodError
from quantload.registry import registry
from quantload.registry.entrypoints import parse_entry_points
from quantload.registry.records import CONFIG_FILES, EXPORTS, QUANTIZERS
from quantload.registry.scan import scan
from quantload.testing import fake_distribution


def of(*distributions: str, group: str = QUANTIZERS):
    return [r for r in registry.records(group) if r.distribution in distributions]


def dist_info(folder, name, version, entry_points, *, prefix=""):
    place = folder / f"{prefix}{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (place / "entry_points.txt").write_text(entry_points)
    return place


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Put folders in front of `sys.path`, in this order, for one test."""

    def put(*folders):
        monkeypatch.setattr(sys, "path", [*map(str, folders), *sys.path])
        registry.refresh()

    yield put
    monkeypatch.undo()
    registry.refresh()


def test_scanning_imports_nothing():
    with fake_distribution(
        "dist-a", quantizers={"stub": "toy_a.plugin:PLUGIN"}, modules={"toy_a.plugin": "1 / 0"}
    ):
        (record,) = of("dist-a")
        assert (record.name, record.value) == ("stub", "toy_a.plugin:PLUGIN")
        assert "toy_a" not in sys.modules


def test_a_record_says_where_it_comes_from():
    with fake_distribution(
        "dist-a", version="1.2", quantizers={"stub": "m:P"}, requires=("quantload>=0.1", "numpy")
    ) as fake:
        (record,) = of("dist-a")
    assert record.version == "1.2"
    assert record.requires == ("quantload>=0.1", "numpy")
    assert record.location == str(fake.metadata)


def test_the_scan_is_cached_until_refresh(tmp_path, on_path):
    on_path(tmp_path)
    assert of("dist-a") == []
    dist_info(tmp_path, "dist-a", "1", f"[{QUANTIZERS}]\nstub = m:P\n")
    assert of("dist-a") == []
    registry.refresh()
    assert len(of("dist-a")) == 1


def test_a_path_that_is_listed_twice_counts_once(tmp_path, on_path):
    dist_info(tmp_path, "dist-a", "1", f"[{QUANTIZERS}]\nstub = m:P\n")
    on_path(tmp_path, tmp_path)
    assert len(of("dist-a")) == 1


@pytest.mark.parametrize("spelling", ["dist-a", "Dist.A", "dist_a"])
def test_of_one_distribution_in_two_folders_the_first_counts(tmp_path, on_path, spelling):
    dist_info(tmp_path / "first", "dist-a", "1", f"[{QUANTIZERS}]\nstub = first:P\n")
    dist_info(tmp_path / "second", spelling, "2", f"[{QUANTIZERS}]\nstub = second:P\n")
    on_path(tmp_path / "first", tmp_path / "second")
    assert registry.choose(QUANTIZERS, "stub").value == "first:P"
    on_path(tmp_path / "second", tmp_path / "first")
    assert registry.choose(QUANTIZERS, "stub").value == "second:P"


def test_a_version_without_entry_points_hides_an_older_one_behind_it(tmp_path, on_path):
    dist_info(tmp_path / "first", "dist-a", "2", "[console_scripts]\nx = y:z\n")
    dist_info(tmp_path / "second", "dist-a", "1", f"[{QUANTIZERS}]\nstub = second:P\n")
    on_path(tmp_path / "first", tmp_path / "second")
    assert of("dist-a") == []


def test_an_egg_link_beside_a_wheel_counts_once(tmp_path, on_path):
    egg = tmp_path / "source" / "dist_a.egg-info"
    egg.mkdir(parents=True)
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: dist-a\nVersion: 1\n")
    (egg / "entry_points.txt").write_text(f"[{QUANTIZERS}]\nstub = m:P\n")
    (egg / "requires.txt").write_text("quantload>=99\n")
    dist_info(tmp_path / "site", "dist-a", "1", f"[{QUANTIZERS}]\nstub = m:P\n")
    on_path(tmp_path / "source", tmp_path / "site")
    (record,) = of("dist-a")
    assert record.requires == ("quantload>=99",)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_versions_in_one_folder_the_highest_counts_whatever_the_file_system_says(
    tmp_path, on_path, monkeypatch, caplog, order
):
    for version in ("0.9", "0.10", "nonsense"):
        dist_info(tmp_path, "dist-a", version, f"[{QUANTIZERS}]\nstub = v{version[-1]}:P\n")
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda *a: sorted(real(*a))[::order])
    with caplog.at_level(logging.WARNING, "quantload"):
        on_path(tmp_path)
        (record,) = of("dist-a")
    assert record.version == "0.10"
    assert "3 versions of dist-a" in caplog.text


def test_what_an_interrupted_upgrade_left_behind_is_passed_over(tmp_path, on_path):
    text = f"[{QUANTIZERS}]\nstub = old:P\n"
    dist_info(tmp_path, "dist-a", "9", text, prefix="~")
    dist_info(tmp_path, "dist-a", "1", text.replace("old", "new"))
    on_path(tmp_path)
    (record,) = of("dist-a")
    assert record.value == "new:P"


def test_the_order_of_records_does_not_depend_on_the_path(tmp_path, on_path):
    text = f"[{QUANTIZERS}]\nbeta = m:P\nalpha = m:P\n"
    for name in ("dist-b", "dist-a"):
        dist_info(tmp_path / name, name, "1", text)
    on_path(tmp_path / "dist-b", tmp_path / "dist-a")
    one = [(r.name, r.distribution) for r in of("dist-a", "dist-b")]
    on_path(tmp_path / "dist-a", tmp_path / "dist-b")
    other = [(r.name, r.distribution) for r in of("dist-a", "dist-b")]
    assert one == other == sorted(one)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        b"",
        b"\xff\xfe\x00broken",
        b"Metadata-Version: 2.1\nVersion: 1\n",
        b"Metadata-Version: 2.1\nName:\nVersion: 1\n",
    ],
    ids=["absent", "empty", "binary", "nameless", "blank-name"],
)
def test_damaged_metadata_is_reported_and_hides_nothing_else(metadata, caplog):
    with (
        caplog.at_level(logging.WARNING, "quantload"),
        fake_distribution("dist-bad", quantizers={"stub": "m:P"}, files={"METADATA": metadata}),
        fake_distribution(
            "dist-b",
            quantizers={"other": "toy_b.plugin:PLUGIN"},
            modules={"toy_b.plugin": plugin_source("b")},
        ),
    ):
        assert registry.resolve("other").plugin.summary == "b"
        with pytest.raises(PluginLoadError, match=r"dist-bad.*'stub'.*metadata"):
            registry.resolve("stub")
    assert "dist_bad-1.0.dist-info" in caplog.text


def test_damaged_metadata_of_strangers_is_nobodys_business(tmp_path, on_path, caplog):
    for name, content in {"x-1.dist-info": b"\xff\xfe", "y-1.dist-info": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "METADATA").write_bytes(content)
    with caplog.at_level(logging.WARNING, "quantload"):
        on_path(tmp_path)
        registry.records(QUANTIZERS)
    assert caplog.text == ""


def test_an_unreadable_entry_points_file_is_reported(caplog):
    with (
        caplog.at_level(logging.WARNING, "quantload"),
        fake_distribution("dist-a", files={"entry_points.txt": b"[quantload.quantizers]\n\xff=\n"}),
    ):
        assert of("dist-a") == []
    assert "entry_points.txt cannot be read" in caplog.text


def test_a_finder_that_fails_costs_only_what_it_would_have_found(monkeypatch, caplog):
    class Failing:
        def find_spec(self, name, path=None, target=None):
            return None

        def find_distributions(self, context=None):
            raise RuntimeError("no distributions today")

    with fake_distribution("dist-a", quantizers={"stub": "m:P"}):
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Failing()])
        with caplog.at_level(logging.WARNING, "quantload"):
            registry.refresh()
            assert len(of("dist-a")) == 1
    assert "no distributions today" in caplog.text


HOSTILE = """
# a comment
; another
[console_scripts]
stub = not:ours

[quantload.quantizers]
good = m:P
no equals sign
../../x = m:P
os:system = os:system
empty =
= nameless:P
spaced out = m:P
  indented=m:P
stub = m : P
extras = m:P [fast]
twice = m:P
twice = m:P
[quantload.unknown]
stub = m:P
[quantload.config_files]
quantize_config.json = good
../config.json = good
/etc/passwd = good
x.json = ../../bad
[quantload.exports]
Good = m:Good
Bad = m
"""


def test_every_line_is_judged_by_itself():
    points = list(parse_entry_points(HOSTILE))
    fine = [(p.group, p.name, p.value) for p in points if not p.problem]
    assert fine == [
        (QUANTIZERS, "good", "m:P"),
        (QUANTIZERS, "indented", "m:P"),
        (QUANTIZERS, "extras", "m:P"),
        (QUANTIZERS, "twice", "m:P"),
        (CONFIG_FILES, "quantize_config.json", "good"),
        (EXPORTS, "Good", "m:Good"),
    ]
    wrong = {p.name: p.problem for p in points if p.problem}
    assert "equals" in wrong["no equals sign"]
    for name in ("../../x", "os:system", "", "spaced out"):
        assert "cannot be a name" in wrong[name]
    assert "module:attribute" in wrong["empty"]
    assert "module:attribute" in wrong["Bad"]
    assert "plain file name" in wrong["../config.json"]
    assert "plain file name" in wrong["/etc/passwd"]
    assert "cannot be the name of a method" in wrong["x.json"]


def test_the_parser_reads_what_importlib_reads():
    text = "[quantload.quantizers]\na = m.n:P\nb_2 = m:P.Q\n[quantload.exports]\nC=m:C\n"
    with fake_distribution("dist-a", files={"entry_points.txt": text}) as fake:
        distribution = importlib.metadata.Distribution.at(fake.metadata)
        theirs = {(e.group, e.name, e.value) for e in distribution.entry_points}
    assert theirs == {(p.group, p.name, p.value) for p in parse_entry_points(text)}


def test_hostile_names_are_listed_and_never_served():
    with fake_distribution("dist-a", files={"entry_points.txt": HOSTILE}):
        assert {r.name for r in of("dist-a")} >= {"../../x", "os:system"}
        for name in ("../../x", "os:system", "spaced out"):
            with pytest.raises(UnknownMethodError) as caught:
                registry.resolve(name)
            assert "os:system" not in str(caught.value).split("Installed: ")[1]


def test_a_thousand_entry_points_of_one_distribution_take_bounded_time():
    names = {f"method{i}": "m:P" for i in range(1000)}
    with fake_distribution("dist-a", quantizers=names):
        started = time.process_time()
        assert len(of("dist-a")) == 1000
        for i in range(0, 1000, 50):
            registry.choose(QUANTIZERS, f"method{i}")
        assert time.process_time() - started < 2


def test_a_thousand_distributions_take_bounded_time(tmp_path, on_path):
    for i in range(1000):
        dist_info(tmp_path, f"dist-{i}", "1", f"[{QUANTIZERS}]\nmethod{i} = m:P\n")
    on_path(tmp_path)
    started = time.process_time()
    assert sum(r.distribution.startswith("dist-") for r in scan()) == 1000
    assert time.process_time() - started < 4


def test_refresh_lets_imports_see_new_folders(tmp_path, on_path):
    on_path(tmp_path)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("toy_late")
    (tmp_path / "toy_late.py").write_text(plugin_source("late"))
    dist_info(tmp_path, "dist-a", "1", f"[{QUANTIZERS}]\nstub = toy_late:PLUGIN\n")
    registry.refresh()
    assert registry.resolve("stub").plugin.summary == "late"
    del sys.modules["toy_late"]

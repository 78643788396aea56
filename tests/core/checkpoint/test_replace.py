"""Saving over what exists: what stays, what goes, who waits, and what is refused."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantload.checkpoint import CheckpointWriter, open_checkpoint, recover, save_checkpoint
from quantload.checkpoint import replace as replace_module
from quantload.checkpoint.lock import WorkFolder
from quantload.errors import CheckpointError

WORK = ".quantload-save"


def save(folder: Path, value: float, **options: object) -> Path:
    tensors = {f"t{i}": torch.full((10,), value) for i in range(3)}
    companions = {"config.json": json.dumps({"v": value})}
    return save_checkpoint(folder, tensors, companions=companions, sync=False, **options)


def value(folder: Path) -> float:
    with open_checkpoint(folder) as opened:
        found = {float(opened.read(name)[0]) for name in opened}
        assert len(found) == 1, found
        assert opened.config() == {"v": min(found)}
        return min(found)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "m", 1.0)


# --- what stays and what goes --------------------------------------------------------------


def test_files_that_are_not_the_checkpoint_stay_and_stale_weights_go(tmp_path):
    folder = save(tmp_path / "m", 1.0, max_shard_size=40)
    stays = [
        "README.md",
        "notes/a.txt",
        "adapter_model.safetensors",
        "model.fp16.safetensors",
        "tokenizer.json",
        "pytorch_model.bin",
        "modelling-00001-of-00002.safetensors",
    ]
    for name in stays:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "model-00007-of-00009.safetensors").write_text("of an older save")
    (folder / "quantize_config.json").write_text("{}")
    save(folder, 2.0, remove=["quantize_config.json", "never_there.json"])
    assert names(folder) == sorted([*stays, "config.json", "model.safetensors"])
    assert all((folder / name).read_text() == name for name in stays)
    assert value(folder) == 2


def test_shards_of_other_names_that_the_old_index_names_go(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({"a": torch.ones(4)}, folder / "part-a.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "part-a.safetensors"}})
    )
    save(folder, 2.0)
    assert names(folder) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map":{"a":"../outside.safetensors"}}'])
def test_an_old_index_that_is_broken_or_hostile_goes_and_takes_nothing_with_it(tmp_path, text):
    (tmp_path / "outside.safetensors").write_text("mine")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(text)
    save(folder, 2.0)
    assert names(folder) == ["config.json", "model.safetensors"]
    assert (tmp_path / "outside.safetensors").read_text() == "mine"


def test_the_folder_stays_the_same_one_with_its_mode(folder):
    folder.chmod(0o2750)
    before = folder.stat()
    save(folder, 2.0)
    after = folder.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_model_can_be_saved_onto_the_folder_it_is_mapped_from(demo_model, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(demo_model, folder)
    with open_checkpoint(folder) as opened:
        read = {name: opened.read(name) for name in opened}
        before = {name: tensor.clone() for name, tensor in read.items()}
        save_checkpoint(folder, {name: read[name] for name in reversed(read)}, max_shard_size="2MB")
        assert all(torch.equal(read[name], before[name]) for name in read)
        assert all(torch.equal(opened.read(name), before[name]) for name in read)
    with open_checkpoint(folder) as again:
        assert all(torch.equal(again.read(name), before[name]) for name in read)


def test_saving_over_a_snapshot_of_the_hub_cache_leaves_its_blobs(tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "c"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save(tmp_path / "x", 1.0)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "x" / name).rename(repository / "blobs" / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    blobs = {path: path.read_bytes() for path in (repository / "blobs").iterdir()}
    assert value(snapshot) == 1
    save(snapshot, 2.0)
    assert value(snapshot) == 2
    assert {path: path.read_bytes() for path in (repository / "blobs").iterdir()} == blobs


def test_a_link_to_a_folder_is_followed(folder, tmp_path):
    (tmp_path / "latest").symlink_to("m")
    assert save(tmp_path / "latest", 2.0) == folder
    assert (tmp_path / "latest").is_symlink()
    assert value(folder) == 2


def test_the_current_folder_can_be_saved_into(folder, monkeypatch):
    monkeypatch.chdir(folder)
    save(Path(), 2.0)
    assert value(Path()) == 2
    assert sorted(path.name for path in Path().iterdir()) == ["config.json", "model.safetensors"]


def test_parents_are_made_and_taken_away_again_when_it_fails(tmp_path):
    assert value(save(tmp_path / "a" / "b" / "c", 1.0)) == 1
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path / "x" / "y" / "z", {"w": torch.empty(1, device="meta")})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("length", [235, 250, 255])
def test_long_names(tmp_path, length):
    folder = save(tmp_path / ("n" * length), 1.0)
    save(folder, 2.0)
    assert value(folder) == 2
    assert list(tmp_path.iterdir()) == [folder]


def test_an_empty_folder_that_exists_is_filled_not_exchanged(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    inode = folder.stat().st_ino
    save(folder, 1.0)
    assert (folder.stat().st_ino, value(folder)) == (inode, 1)


def test_a_folder_that_somebody_makes_meanwhile_is_kept(tmp_path):
    with CheckpointWriter(tmp_path / "m") as writer:
        writer.add("w", torch.ones(2))
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "README.md").write_text("mine")
    assert names(tmp_path / "m") == ["README.md", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# --- what is refused -----------------------------------------------------------------------


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(CheckpointError, match="expected a folder"):
        save(tmp_path / "m", 1.0)
    with pytest.raises(CheckpointError, match="m/x"):
        save(tmp_path / "m" / "x", 1.0)
    assert (tmp_path / "m").read_text() == "mine"


def test_a_folder_or_a_link_in_the_place_of_a_file(tmp_path, folder):
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*found a folder"):
        save_checkpoint(folder, {}, companions={"tokenizer.json": "{}"})
    (tmp_path / "outside").mkdir()
    (folder / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="link"):
        save_checkpoint(folder, {}, companions={"sub/x.json": "{}"})
    assert list((tmp_path / "outside").iterdir()) == []
    assert value(folder) == 1
    assert not (folder / WORK).exists()


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(Path("/proc/quantload-test"), 1.0)


@pytest.mark.parametrize("exists", [True, False])
def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path, exists):
    target = tmp_path / "m"
    if exists:
        save(target, 1.0)
    large = {f"t{i}": torch.ones(100_000) for i in range(20)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="nothing was changed") as caught:
            save_checkpoint(target, large, sync=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(caught.value.__cause__, OSError)
    if exists:
        assert value(target) == 1
        assert names(target) == ["config.json", "model.safetensors"]
    assert list(tmp_path.iterdir()) == ([target] if exists else [])


def test_the_producer_of_tensors_may_fail(folder):
    def produce() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.ones(4)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        save_checkpoint(folder, produce())
    assert value(folder) == 1
    assert names(folder) == ["config.json", "model.safetensors"]


def test_a_second_save_to_the_same_folder_inside_the_first_is_an_error_not_a_deadlock(folder):
    with CheckpointWriter(folder) as writer:
        writer.add("w", torch.ones(2))
        with pytest.raises(CheckpointError, match="same thread"):
            save(folder, 3.0)
    with open_checkpoint(folder) as opened:
        assert list(opened) == ["w"]


# --- others at the same time ---------------------------------------------------------------


def write(writer: CheckpointWriter, value: float) -> None:
    for i in range(3):
        writer.add(f"t{i}", torch.full((10,), value))
    writer.add_companion("config.json", json.dumps({"v": value}))


@pytest.mark.parametrize("exists", [True, False])
def test_one_who_is_saving_is_left_alone_by_those_who_open(tmp_path, exists):
    target = tmp_path / "m"
    if exists:
        save(target, 1.0)
    with CheckpointWriter(target, sync=False) as writer:
        write(writer, 2.0)
        if exists:
            assert value(target) == 1
        recover(target)
        assert len(list(tmp_path.rglob(WORK if exists else f".m{WORK}"))) == 1
    assert value(target) == 2
    assert list(tmp_path.iterdir()) == [target]


def test_a_second_one_who_saves_waits_for_the_first_and_wins(tmp_path, caplog):
    target = tmp_path / "m"
    with CheckpointWriter(target, sync=False) as writer:
        write(writer, 2.0)
        second = threading.Thread(target=save, args=(target, 3.0))
        second.start()
        second.join(0.3)
        assert second.is_alive()
    second.join()
    assert "waiting" in caplog.text
    assert value(target) == 3
    assert list(tmp_path.iterdir()) == [target]


_STORM = """
import sys, torch
from quantload.checkpoint import save_checkpoint
for step in range(8):
    v = float(sys.argv[2]) + step
    tensors = {f"t{i}": torch.full((10,), v) for i in range(3)}
    companions = {"config.json": '{"v": %s}' % v}
    size = (40, 80, "1GB")[step % 3]
    save_checkpoint(sys.argv[1], tensors, sync=False, companions=companions, max_shard_size=size)
"""


def test_readers_never_see_two_saves_mixed(folder):
    writers = [python(_STORM, folder, start) for start in (100, 200)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(value(folder))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(seen) > 2
    assert value(folder) in (107, 207)
    assert not (folder / WORK).exists()


# --- what an interrupted save left ---------------------------------------------------------


@pytest.fixture
def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose second save was stopped just after it was decided."""
    with monkeypatch.context() as patch:
        patch.setattr(replace_module, "apply_journal", _stop)
        with pytest.raises(CheckpointError, match="complete but could not"):
            save(folder, 2.0, max_shard_size=40)
    assert (folder / WORK / "journal.json").exists()
    return folder


def _stop(work: Path, target: Path) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_the_next_opening_completes_it(interrupted):
    assert value(interrupted) == 2
    assert not (interrupted / WORK).exists()


def test_opening_a_file_of_the_folder_completes_it_too(interrupted):
    index = interrupted / "model.safetensors.index.json"
    assert not index.exists()
    with open_checkpoint(index) as opened:
        assert opened.read("t0")[0] == 2
        assert opened.config() == {"v": 2.0}


def test_what_another_program_saved_meanwhile_is_kept(interrupted, caplog):
    save_file({"w": torch.full((4,), 5.0)}, interrupted / "model.safetensors")
    (interrupted / "config.json").write_text('{"v": 5.0, "by": "another"}')
    with open_checkpoint(interrupted) as opened:
        assert opened.config()["by"] == "another"
        assert opened.read("w")[0] == 5
    assert "another program" in caplog.text
    assert names(interrupted) == ["config.json", "model.safetensors"]


def test_a_reader_who_may_not_write_is_told_and_only_where_it_matters(interrupted, monkeypatch):
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(WorkFolder, "acquire_if_free", denied)
    monkeypatch.setattr(replace_module, "WAIT_SECONDS", 0.05)
    with pytest.raises(CheckpointError, match=r"Permission denied.*permission to write"):
        open_checkpoint(interrupted)
    (interrupted / WORK / "journal.json").unlink()
    assert value(interrupted) == 1


def test_on_a_file_system_without_locks_nothing_is_taken_from_the_living(
    interrupted, tmp_path, monkeypatch
):
    def unsupported(fd: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr(replace_module, "WAIT_SECONDS", 0.05)
    assert value(interrupted) == 2  # after a wait: whoever lives would have been done
    with CheckpointWriter(interrupted) as writer:
        write(writer, 3.0)
        assert value(interrupted) == 2
    assert value(interrupted) == 3
    assert not (interrupted / WORK).exists()


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "{}",
        "[]",
        '{"version": 2}',
        '{"version": 1}',
        '{"version": 1, "entries": [], "remove": ["../x"], "install": [], "old": {}}',
        '{"version": 1, "entries": [], "remove": [], "install": ["/x"], "old": {}}',
        '{"version": 1, "entries": 1, "remove": [], "install": [], "old": {}}',
        '{"version": 1, "entries": [], "remove": [], "install": [], "old": {"a": 1}}',
    ],
)
def test_a_journal_that_is_not_ours_is_refused_and_does_nothing(folder, tmp_path, journal):
    (tmp_path / "x").write_text("mine")
    (folder / WORK / "new").mkdir(parents=True)
    (folder / WORK / "journal.json").write_text(journal)
    with pytest.raises(CheckpointError, match=r"journal\.json"):
        open_checkpoint(folder)
    assert (tmp_path / "x").read_text() == "mine"
    assert names(folder / WORK) == ["journal.json", "lock"]


def test_a_journal_cannot_lead_through_links_out_of_the_folder(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (folder / "sub").symlink_to(tmp_path / "outside")
    (folder / WORK / "new" / "sub").mkdir(parents=True)
    (folder / WORK / "new" / "sub" / "x").write_text("theirs")
    (folder / WORK / "journal.json").write_text(
        json.dumps({"version": 1, "entries": [], "remove": [], "install": ["sub/x"], "old": {}})
    )
    with pytest.raises(CheckpointError, match="link"):
        open_checkpoint(folder)
    assert list((tmp_path / "outside").iterdir()) == []


def test_work_folders_and_contents_that_are_links_are_not_followed(folder, tmp_path):
    outside = tmp_path / "outside"
    (outside / "new").mkdir(parents=True)
    (outside / "new" / "precious").write_text("mine")
    (folder / WORK).symlink_to(outside)
    assert value(folder) == 1
    assert (outside / "new" / "precious").read_text() == "mine"
    (folder / WORK).unlink()
    (folder / WORK).mkdir()
    (folder / WORK / "new").symlink_to(outside)
    assert value(folder) == 1
    assert (outside / "new" / "precious").read_text() == "mine"
    assert not (folder / WORK).exists()


def test_what_an_interrupted_first_save_left_beside_goes_with_the_next_opening(tmp_path):
    left = tmp_path / f".m{WORK}"
    (left / "new").mkdir(parents=True)
    (left / "new" / "model.safetensors").write_text("half")
    with pytest.raises(CheckpointError, match="no such"):
        open_checkpoint(tmp_path / "m")
    assert not left.exists()


def test_files_are_on_the_disk_before_the_decision(folder, monkeypatch):
    # A power cut cannot be tried here; the order of the calls that guard against it can.
    order: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        order.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    save_checkpoint(folder, {"w": torch.ones(4)}, companions={"config.json": "{}"})
    decided = order.index("journal.json.draft")
    assert {"model.safetensors", "config.json", "new"} <= set(order[:decided])
    assert order[decided + 1 :] == [WORK, "m"]

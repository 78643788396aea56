"""Interrupts saves at every step and reports what is left; run by test_kill.py.

One process imports torch and forks a child for each trial; the child saves and is
stopped by a hook that Python calls before every operation on files.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from quantload.checkpoint import open_checkpoint, recover, save_checkpoint
from quantload.errors import CheckpointError

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock"}
USER_FILES = {
    "README.md": "mine",
    "notes/a.txt": "too",
    ".git/HEAD": "ref",
    "other.safetensors": "x",
}

OLD = {f"layer.{i}": torch.full((40, 10), float(i)) for i in range(6)}
NEW = {f"layer.{i}": torch.full((40, 10), 100.0 + i) for i in range(8)}
VERSIONS = {1: (OLD, "4KB"), 2: (NEW, "7KB"), 3: (NEW, "5GB"), 4: (OLD, "2KB")}
"""Version -> tensors and shard size: 3, 2, 1 and 6 files."""

armed: Callable[[], None] | None = None


def hook(event: str, args: tuple[object, ...]) -> None:
    if armed is not None and event in EVENTS:
        armed()


def save(folder: Path, version: int) -> None:
    tensors, size = VERSIONS[version]
    save_checkpoint(
        folder,
        tensors,
        max_shard_size=size,
        companions={"config.json": f'{{"v": {version}}}', "sub/t.jinja": f"{version}"},
        remove=["stale.json"],
        sync=False,
    )


def files(version: int) -> set[str]:
    count = {1: 3, 2: 2, 3: 1, 4: 6}[version]
    names = {f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)}
    names = {"model.safetensors"} if count == 1 else {*names, "model.safetensors.index.json"}
    return {*names, "config.json", "sub/t.jinja"}


def present(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def raw(folder: Path) -> int:
    """The version that the folder holds for a reader that knows nothing of interrupted saves."""
    version = int(json.loads((folder / "config.json").read_text())["v"])
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if not (folder / "model.safetensors").exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
    found = {name: t for file in names for name, t in load_file(folder / file).items()}
    same(found, version)
    return version


def whole(folder: Path) -> int:
    """The version that we find in the folder."""
    with open_checkpoint(folder) as opened:
        version = int(opened.config()["v"])
        same({name: opened.read(name) for name in opened}, version)
    assert raw(folder) == version
    return version


def same(found: dict[str, torch.Tensor], version: int) -> None:
    expected = VERSIONS[version][0]
    assert set(found) == set(expected), version
    assert all(torch.equal(found[name], expected[name]) for name in expected), version


def prepare(base: Path, existing: bool) -> Path:
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    folder = base / "model"
    if existing:
        save(folder, 1)
        for name, text in USER_FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / "stale.json").write_text("{}")
    return folder


def clean(folder: Path, version: int) -> None:
    """Nothing but the checkpoint and the user's files is there, and those are unchanged."""
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    expected = files(version)
    if (folder / "README.md").exists():
        expected |= set(USER_FILES) | ({"stale.json"} if version == 1 else set())
        for name, text in USER_FILES.items():
            assert (folder / name).read_text() == text
    assert present(folder) == expected, present(folder) ^ expected
    assert not [path for path in folder.rglob("*") if path.name.startswith(".quantload")]


def fork(action: Callable[[], None], step: int, how: str) -> int:
    """Do something in a child that is stopped at its n-th file operation; its exit code."""
    global armed
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    left = step

    def stop() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise (
                KeyboardInterrupt if how == "interrupt" else OSError(28, "No space left on device")
            )

    code = 0
    armed = stop
    try:
        action()
    except (KeyboardInterrupt, CheckpointError, OSError) as error:
        code = 1 if not isinstance(error, OSError) else 2
    except BaseException as error:
        sys.stderr.write(repr(error))
        code = 3
    armed = None
    os._exit(code)


def every_step(base: Path, existing: bool, how: str, then: str, version: int) -> list[str]:
    """Stop a save at each of its steps; the outcomes in order."""
    outcomes = []
    for step in range(1, 1000):
        folder = prepare(base, existing)
        status = fork(lambda folder=folder: save(folder, version), step, how)
        if how != "kill":
            assert os.waitstatus_to_exitcode(status) in (0, 1), (step, status)
            work = folder / ".quantload-save"
            assert how != "interrupt" or not (work / "new").exists(), "an interruption left files"
        # First what others see ...
        if existing and not (folder / "config.json").exists():
            assert (folder / ".quantload-save" / "journal.json").exists()
            outcomes.append("between")
        elif folder.exists():
            outcomes.append({1: "old", version: "new"}[raw(folder)])
        else:
            outcomes.append("absent")
        # ... then what we make of it.
        if then == "save":
            save(folder, 4)
            assert whole(folder) == 4
            clean(folder, 4)
        else:
            recover(folder)
            if folder.exists():
                found = raw(folder)
                assert whole(folder) == found
                assert found in ((1, version) if existing else (version,))
                assert outcomes[-1] != "new" or found == version
                clean(folder, found)
            else:
                assert not existing
                assert list(base.iterdir()) == []
        if status == 0:
            return outcomes
    raise AssertionError("the save never came to its end")


def recovery(base: Path) -> list[str]:
    """Kill a save at every third step after its decision, and the recovery at each of its own."""
    outcomes = []
    for step in range(1, 1000):
        folder = prepare(base, existing=True)
        if fork(lambda folder=folder: save(folder, 2), step, "kill") == 0:
            return outcomes
        if not (folder / ".quantload-save" / "journal.json").exists() or step % 3:
            continue
        shutil.copytree(base, base.with_name("frozen"), symlinks=True)
        for second in range(1, 1000):
            shutil.rmtree(base)
            shutil.copytree(base.with_name("frozen"), base, symlinks=True)
            status = fork(lambda folder=folder: recover(folder), second, "kill")
            assert whole_after_recovery(folder) == 2
            outcomes.append(f"{step}.{second}")
            if status == 0:
                break
        shutil.rmtree(base.with_name("frozen"))
    raise AssertionError("the save never came to its end")


def whole_after_recovery(folder: Path) -> int:
    recover(folder)
    version = whole(folder)
    clean(folder, version)
    return version


def random_moments(base: Path, trials: int, seed: int) -> list[str]:
    """Kill saves of 24 MB at random moments."""
    rng = random.Random(seed)
    blob = torch.zeros(1 << 20)
    VERSIONS[2] = ({f"layer.{i}": blob + i for i in range(6)}, "13MB")
    outcomes = []
    duration = 0.0
    for trial in range(trials + 1):
        folder = prepare(base, existing=True)
        begin = time.perf_counter()
        pid = os.fork()
        if not pid:
            save(folder, 2)
            os._exit(0)
        if trial:
            time.sleep(rng.uniform(0, duration * 1.1))
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        duration = duration or time.perf_counter() - begin
        outcomes.append({1: "old", 2: "new"}[whole_after_recovery(folder)])
    return outcomes


TASKS: dict[str, Callable[[Path], list[str]]] = {
    "kill, replace by 2 files, open": lambda base: every_step(base, True, "kill", "open", 2),
    "kill, replace by 1 file, open": lambda base: every_step(base, True, "kill", "open", 3),
    "kill, replace by 2 files, save": lambda base: every_step(base, True, "kill", "save", 2),
    "kill, write anew, open": lambda base: every_step(base, False, "kill", "open", 2),
    "kill, write anew, save": lambda base: every_step(base, False, "kill", "save", 2),
    "interrupt, replace": lambda base: every_step(base, True, "interrupt", "open", 2),
    "interrupt, write anew": lambda base: every_step(base, False, "interrupt", "open", 2),
    "full disk, replace": lambda base: every_step(base, True, "full", "open", 2),
    "full disk, write anew": lambda base: every_step(base, False, "full", "open", 2),
    "kill the recovery": recovery,
    "kill at random": lambda base: random_moments(base, trials=15, seed=1),
}


def main() -> None:
    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # a power cut needs it, a kill does not, and it is slow
    sys.addaudithook(hook)
    outcomes: dict[str, list[str] | str] = {}
    for name, task in TASKS.items():
        try:
            outcomes[name] = task(Path(sys.argv[1]))
        except Exception:
            outcomes[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main()

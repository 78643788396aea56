"""What people call a checkpoint: paths, and names on the hub that the cache knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantload.checkpoint import open_checkpoint, resolve_source
from quantload.errors import CheckpointError

COMMIT = "c" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache with one repository at one commit, known as main and as v1."""
    repository = tmp_path / "cache" / "models--owner--tiny"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot / "sub"):
        folder.mkdir(parents=True)
    for reference in ("main", "v1"):
        (repository / "refs" / reference).write_text(COMMIT)
    save_file({"w": torch.ones(3)}, repository / "blobs" / "weights")
    (repository / "blobs" / "config").write_text('{"model_type": "tiny"}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    (snapshot / "config.json").symlink_to("../../blobs/config")
    (snapshot / "sub" / "model.safetensors").symlink_to("../../../blobs/weights")
    return tmp_path / "cache"


def test_files_and_folders_are_themselves(tmp_path, demo_model, monkeypatch):
    assert resolve_source(demo_model) == demo_model
    assert resolve_source(str(demo_model)) == demo_model
    file = demo_model / "model.safetensors"
    assert resolve_source(str(file), revision="ignored", token="ignored") == file
    monkeypatch.chdir(demo_model.parent)
    assert resolve_source(demo_model.name) == Path(demo_model.name)
    monkeypatch.setenv("HOME", str(demo_model.parent))
    assert resolve_source(f"~/{demo_model.name}") == demo_model


def test_a_subfolder_of_a_folder(tmp_path):
    (tmp_path / "m" / "sub").mkdir(parents=True)
    assert resolve_source(tmp_path / "m", subfolder="sub") == tmp_path / "m" / "sub"
    for wrong in ("absent", "../m", str(tmp_path)):
        with pytest.raises(CheckpointError, match="no subfolder"):
            resolve_source(tmp_path / "m", subfolder=wrong)


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
@pytest.mark.parametrize("local_files_only", [True, False])
def test_a_hub_id_is_found_in_the_cache(cache, revision, local_files_only):
    found = resolve_source(
        "owner/tiny", revision=revision, cache_dir=cache, local_files_only=local_files_only
    )
    with open_checkpoint(found) as opened:
        assert opened.read("w").tolist() == [1, 1, 1]
        assert opened.config() == {"model_type": "tiny"}


def test_a_subfolder_of_a_repository(cache):
    found = resolve_source("owner/tiny", subfolder="sub", cache_dir=cache, local_files_only=True)
    with open_checkpoint(found) as opened:
        assert list(opened) == ["w"]
    with pytest.raises(CheckpointError, match="no subfolder 'other'"):
        resolve_source("owner/tiny", subfolder="other", cache_dir=cache, local_files_only=True)


@pytest.mark.parametrize("name", ["owner/absent", "absent", "owner/tiny@x"])
def test_what_is_neither_here_nor_in_the_cache_is_one_readable_error(cache, name):
    with pytest.raises(CheckpointError) as caught:
        resolve_source(name, cache_dir=cache, local_files_only=True)
    message = str(caught.value)
    assert repr(name) in message
    assert len(message) < 400
    assert "Traceback" not in message


@pytest.mark.parametrize("revision", ["v2", "../snapshots/" + COMMIT, "..", "/"])
def test_a_revision_that_the_cache_lacks(cache, revision):
    with pytest.raises(CheckpointError, match="is neither a file or folder"):
        resolve_source("owner/tiny", revision=revision, cache_dir=cache, local_files_only=True)


def test_offline_mode_names_itself(tmp_path):
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE") as caught:
        resolve_source("owner/absent", cache_dir=tmp_path)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "name",
    [
        "./x",
        "../x/y",
        "/x/y",
        "a/b/c",
        "C:\\x",
        "x.safetensors",
        "owner/model.gguf",
        "",
        " ",
        "a b",
        "~/x",
        "-x",
        "a//b",
    ],
)
def test_what_cannot_be_a_hub_id_is_a_path_that_is_not_there(name):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        resolve_source(name)


def test_a_path_object_is_never_a_hub_id(cache):
    with pytest.raises(CheckpointError, match="given as a str"):
        resolve_source(Path("owner/tiny"), cache_dir=cache)


def test_a_local_path_never_imports_the_hub(demo_model):
    code = (
        "import sys; from quantload.checkpoint import resolve_source\n"
        "resolve_source(sys.argv[1])\n"
        "try: resolve_source('./absent')\n"
        "except ValueError: pass\n"
        "assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, demo_model], check=True)

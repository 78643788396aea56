"""Which files of a folder are the checkpoint, and how index, shards and links must agree."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantload.checkpoint import open_checkpoint, save_checkpoint
from quantload.errors import CheckpointError


def refused(path: Path, *parts: str, **options: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def put(path: Path, **values: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.full((4,), value) for name, value in values.items()}, path)
    return path


def index(folder: Path, weight_map: object, name: str = "model.safetensors.index.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def values(path: Path, **options: object) -> dict[str, float]:
    with open_checkpoint(path, **options) as opened:
        return {name: float(opened.read(name)[0]) for name in opened}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    put(tmp_path / "m" / "model-00001-of-00002.safetensors", b=2, a=1)
    put(tmp_path / "m" / "model-00002-of-00002.safetensors", c=3)
    index(
        tmp_path / "m",
        {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    )
    return tmp_path / "m"


# --- which files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "gptq_model-4bit-128g.safetensors",
    ],
)
def test_a_folder_with_one_safetensors_file_opens_it(tmp_path, name):
    put(tmp_path / name, w=1)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert values(tmp_path) == {"w": 1}
    assert values(tmp_path / name) == {"w": 1}


def test_a_sharded_folder_opens_in_file_order(sharded):
    assert list(values(sharded)) == ["a", "b", "c"]
    assert (
        values(sharded)
        == values(sharded / "model.safetensors.index.json")
        == {"a": 1, "b": 2, "c": 3}
    )
    with open_checkpoint(sharded) as opened:
        assert [path.name[:11] for path in opened.files] == ["model-00001", "model-00002"]
        assert opened.info("c").file == sharded / "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    "name",
    ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"],
)
def test_a_variant_is_found_as_one_file_or_index(sharded, name):
    put(sharded / "model.fp8.safetensors", w=8)
    put(sharded / "model.fp16-00001-of-00001.safetensors", h=16)
    index(sharded, {"h": "model.fp16-00001-of-00001.safetensors"}, name)
    assert values(sharded, variant="fp8") == {"w": 8}
    assert values(sharded, variant="fp16") == {"h": 16}
    assert values(sharded) == {"a": 1, "b": 2, "c": 3}


def test_a_variant_or_base_name_that_is_not_there_is_never_replaced_by_another(sharded):
    refused(sharded, "model.int8.safetensors", "model-00001-of-00002.safetensors", variant="int8")
    refused(sharded, "expected other.safetensors", base_name="other")


def test_several_files_of_other_names_are_listed_and_can_be_chosen_from(tmp_path):
    put(tmp_path / "gptq_model-4bit-128g.safetensors", w=1)
    put(tmp_path / "gptq_model-8bit-128g.safetensors", w=2)
    refused(
        tmp_path,
        "gptq_model-4bit-128g.safetensors",
        "gptq_model-8bit-128g.safetensors",
        "base_name=",
    )
    assert values(tmp_path, base_name="gptq_model-8bit-128g") == {"w": 2}
    assert values(tmp_path, base_name="gptq_model-8bit-128g.safetensors") == {"w": 2}
    assert values(tmp_path, files=["gptq_model-4bit-128g.safetensors"]) == {"w": 1}


def test_an_index_of_another_name_can_be_chosen(sharded):
    put(sharded / "x.safetensors", x=9)
    index(sharded, {"x": "x.safetensors"}, "other.index.json")
    assert values(sharded, index_name="other.index.json") == {"x": 9}
    refused(sharded, "../other.index.json", index_name="../other.index.json")


def test_shards_without_an_index_are_refused_unless_named(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    refused(sharded, "without an index", "model.safetensors.index.json", "files=")
    names = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert values(sharded, files=names) == {"a": 1, "b": 2, "c": 3}
    refused(sharded, "no such file", files=[*names, "model-00003-of-00003.safetensors"])
    put(sharded / names[1], a=5)
    refused(sharded, "'a' is in two files", files=names)


def test_a_place_without_weights_says_what_there_is(tmp_path):
    refused(tmp_path / "absent", "no such file or folder")
    refused(tmp_path, "no weights here", "Found nothing")
    (tmp_path / "flax_model.msgpack").write_bytes(b"")
    refused(tmp_path, "TensorFlow, Flax", "flax_model.msgpack")
    (tmp_path / "weights").write_bytes(b"")
    refused(tmp_path / "weights", ".safetensors", "rename")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.pt",
        "model.pth",
        "consolidated.00.pth",
        "x.ckpt",
    ],
)
def test_pickles_are_refused_with_the_lines_that_convert_them(tmp_path, name):
    (tmp_path / name).write_bytes(b"{}")
    for path in (tmp_path, tmp_path / name):
        refused(path, name, "torch.load(", "weights_only=True", "save_file(", "pickle")


def test_the_lines_in_that_message_convert(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weight = torch.randn(4, 4)
    torch.save({"w": weight, "tied": weight, "t": weight.t()}, "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    exec("\n".join(lines))
    with open_checkpoint(tmp_path) as opened:
        assert torch.equal(opened.read("t"), weight.t())


# --- index and shards ----------------------------------------------------------------------


def test_a_shard_that_the_index_names_and_the_folder_lacks(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    refused(sharded, "names 2 shards, 1 of them", "model-00002-of-00002.safetensors", "download")


def test_a_tensor_that_the_index_names_and_no_shard_has(sharded):
    index(
        sharded,
        {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
            "d": "model-00002-of-00002.safetensors",
        },
    )
    refused(sharded, "'d'", "no shard")


def test_a_tensor_in_another_shard_than_the_index_says(sharded):
    index(
        sharded,
        {
            "a": "model-00002-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    )
    refused(sharded, "'a' should be in model-00002-of-00002", "found it in model-00001")


def test_a_tensor_that_a_shard_has_and_the_index_does_not_name(sharded):
    index(
        sharded, {"b": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    )
    refused(sharded, "1 tensors", "'a'", "does not name")


def test_a_tensor_in_two_shards(sharded):
    put(sharded / "model-00002-of-00002.safetensors", c=3, a=9)
    refused(sharded, "'a' is in two shards")


def test_a_shard_that_is_broken_is_named(sharded):
    os.truncate(sharded / "model-00002-of-00002.safetensors", 30)
    refused(sharded, "model-00002-of-00002.safetensors", "truncated")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"weight_map":[]}',
        '{"weight_map":{}}',
        '{"weight_map":{"a":1}}',
        '{"weight_map":{"a":"pytorch_model.bin"}}',
        '{"weight_map":{"a":["x.safetensors"]}}',
        "\xff",
    ],
)
def test_an_index_that_is_none(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    refused(sharded, "model.safetensors.index.json")


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "a/../../x.safetensors",
        "/etc/x.safetensors",
        "./x.safetensors",
        "a//x.safetensors",
        "..\\x.safetensors",
        "C:\\x.safetensors",
        "C:x.safetensors",
        "x\0.safetensors",
        "~/../x.safetensors",
    ],
)
def test_an_index_entry_that_is_no_plain_name(tmp_path, name):
    put(tmp_path / "x.safetensors", a=1)
    index(tmp_path / "m", {"a": name})
    refused(tmp_path / "m", "'a'", "plain name")


def test_shards_in_a_subfolder(tmp_path):
    put(tmp_path / "parts" / "x.safetensors", a=1)
    index(tmp_path, {"a": "parts/x.safetensors"})
    assert values(tmp_path) == {"a": 1}


def test_no_file_stays_open_after_a_refusal(sharded, open_files):
    index(
        sharded, {"b": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    )
    before = open_files()
    for _ in range(10):
        refused(sharded, "'a'")
    assert open_files() == before


# --- links ---------------------------------------------------------------------------------


def hub_cache(root: Path) -> Path:
    """A repository as `huggingface_hub` lays it out; returns its snapshot."""
    repository = root / "models--owner--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    put(repository / "blobs" / "b1", a=1)
    put(repository / "blobs" / "b2", b=2)
    (repository / "blobs" / "b3").write_text(
        json.dumps(
            {
                "weight_map": {
                    "a": "model-00001-of-00002.safetensors",
                    "b": "model-00002-of-00002.safetensors",
                }
            }
        )
    )
    (repository / "blobs" / "b4").write_text('{"model_type": "tiny"}')
    for folder, up in ((snapshot, "../.."), (snapshot / "sub", "../../..")):
        folder.mkdir(parents=True)
        for blob, name in (
            ("b1", "model-00001-of-00002.safetensors"),
            ("b2", "model-00002-of-00002.safetensors"),
            ("b3", "model.safetensors.index.json"),
            ("b4", "config.json"),
        ):
            (folder / name).symlink_to(f"{up}/blobs/{blob}")
    return snapshot


def test_a_snapshot_of_the_hub_cache_loads(tmp_path):
    snapshot = hub_cache(tmp_path / "cache")
    (tmp_path / "link").symlink_to(snapshot)
    for path in (
        snapshot,
        snapshot / "sub",
        tmp_path / "link",
        snapshot / "model.safetensors.index.json",
    ):
        assert values(path) == {"a": 1, "b": 2}
        with open_checkpoint(path) as opened:
            assert opened.config() == {"model_type": "tiny"}
            assert list(opened.companions()) == ["config.json"]


@pytest.mark.parametrize(
    "elsewhere", ["blobs", "../models--owner--other/blobs", "refs", "..", "snapshots/b"]
)
def test_a_link_out_of_a_snapshot_leads_only_to_the_blobs_of_its_repository(tmp_path, elsewhere):
    snapshot = hub_cache(tmp_path)
    put(snapshot / "../.." / elsewhere / "file", a=1)
    shard = snapshot / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(f"../../{elsewhere}/file")
    if elsewhere == "blobs":
        assert values(snapshot) == {"a": 1, "b": 2}
    else:
        refused(snapshot, "leaves the checkpoint folder", str(shard))


def test_blobs_beside_any_other_folder_are_no_excuse(tmp_path):
    snapshot = hub_cache(tmp_path)
    (tmp_path / "models--owner--name").rename(tmp_path / "ordinary")
    refused(tmp_path / "ordinary" / "snapshots" / snapshot.name, "leaves the checkpoint folder")


def test_links_inside_the_folder_are_followed_and_links_out_of_it_refused(tmp_path, sharded):
    real = sharded / "real"
    real.mkdir()
    shard = sharded / "model-00002-of-00002.safetensors"
    shard.rename(real / "x")
    shard.symlink_to("real/x")
    assert values(sharded)["c"] == 3
    outside = put(tmp_path / "outside.safetensors", c=3)
    shard.unlink()
    shard.symlink_to(outside)
    refused(sharded, str(shard), str(outside), "leaves the checkpoint folder")
    shard.unlink()
    shard.symlink_to(shard.name)
    refused(sharded, str(shard), "cannot be reached")
    shard.unlink()
    shard.symlink_to("absent")
    refused(sharded, str(shard), "no such file")


def test_a_folder_that_is_a_link_to_the_checkpoint_opens(tmp_path, sharded):
    (tmp_path / "latest").symlink_to(sharded)
    assert values(tmp_path / "latest") == {"a": 1, "b": 2, "c": 3}


def test_a_file_that_is_named_itself_may_be_a_link(tmp_path):
    put(tmp_path / "here" / "x.safetensors", a=1)
    (tmp_path / "link.safetensors").symlink_to("here/x.safetensors")
    assert values(tmp_path / "link.safetensors") == {"a": 1}


# --- what lies beside the tensors ----------------------------------------------------------


def test_configs_are_those_of_the_time_of_opening(tmp_path):
    folder = save_checkpoint(
        tmp_path / "m", {"w": torch.ones(1)}, companions={"config.json": '{"v": 1}'}
    )
    with open_checkpoint(folder) as opened:
        save_checkpoint(folder, {"w": torch.zeros(1)}, companions={"config.json": '{"v": 2}'})
        assert opened.config() == {"v": 1}
        assert opened.generation_config() == {}
        assert opened.read("w") == 1
    with open_checkpoint(folder) as opened:
        assert opened.config() == {"v": 2}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "\xff", "[" * 100_000, '{"a": ' + "9" * 10_000 + "}"]
)
def test_a_broken_config_matters_only_when_it_is_asked_for(tmp_path, text):
    put(tmp_path / "model.safetensors", w=1)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with open_checkpoint(tmp_path) as opened:
        assert opened.read("w").numel() == 4
        with pytest.raises(CheckpointError, match=r"config\.json"):
            opened.config()


def test_a_config_that_links_out_of_the_folder_is_refused_when_asked_for(tmp_path):
    put(tmp_path / "m" / "model.safetensors", w=1)
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "m" / "config.json").symlink_to(tmp_path / "secret")
    with open_checkpoint(tmp_path / "m") as opened:
        with pytest.raises(CheckpointError, match="leaves"):
            opened.config()
        with pytest.raises(CheckpointError, match="leaves"):
            opened.companions()


def test_metadata_of_all_shards_is_merged_and_the_first_wins(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"format": "pt", "a": "1"})
    save_file({"b": torch.ones(1)}, tmp_path / "y.safetensors", metadata={"format": "np", "b": "2"})
    index(tmp_path, {"a": "x.safetensors", "b": "y.safetensors"})
    with open_checkpoint(tmp_path) as opened:
        assert dict(opened.metadata) == {"format": "pt", "a": "1", "b": "2"}

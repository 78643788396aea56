"""`load_model` chooses one `.gguf` file of a folder or of a repository on a hub."""

import sys
from pathlib import Path

import pytest
import torch

import quantload
from quantload import GgufConfig, load_model, save_model
from quantload.errors import CheckpointError
from quantload_gguf import load_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "support"))
from fake_hub import fake_hub

IDS = torch.arange(5, 25).unsqueeze(0)


@pytest.fixture(scope="module")
def repository(demo_model, tmp_path_factory):
    """Three precisions, one of them in parts in a folder, and a projector beside them."""
    folder = tmp_path_factory.mktemp("repository")
    for kind in ("Q8_0", "Q4_0"):
        config = GgufConfig(type=kind)
        model = load_model(demo_model, quantization_config=config)
        save_model(model, folder / f"demo-{kind}.gguf", sync=False)
    parts = folder / "Q5_0" / "demo-Q5_0.gguf"
    model = load_model(demo_model, quantization_config=GgufConfig(type="Q5_0"))
    save_model(model, parts, max_shard_size="2MB", sync=False)
    (folder / "mmproj-demo.gguf").write_bytes(b"GGUF")
    (folder / "README.md").write_text("#")
    return folder


def kinds(model) -> set[str]:
    return {h.weight.ggml_type.name for _, h in quantload.modules.hosts_of(model)}


def test_a_folder_of_several_files_asks_which(repository):
    with pytest.raises(CheckpointError, match=r"several .*demo-Q4_0\.gguf, demo-Q8_0\.gguf; choo"):
        load_model(repository)


def test_a_folder_with_a_tag_or_a_name(repository):
    assert kinds(load_model(f"{repository}:Q4_0")) == {"Q4_0"}
    assert kinds(load_model(repository, gguf_file="demo-Q8_0.gguf")) == {"Q8_0"}


def test_a_tokenizer_is_found_in_the_same_ways(repository, demo_model):
    ids = load_tokenizer(repository / "demo-Q8_0.gguf")("x = 1").input_ids
    assert load_tokenizer(f"{repository}:Q4_0")("x = 1").input_ids == ids
    with pytest.raises(CheckpointError, match=r"several .*demo-Q4_0\.gguf"):
        load_tokenizer(repository)
    with pytest.raises(CheckpointError, match=r"expected a \.gguf file, found other weights"):
        load_tokenizer(demo_model)


def test_a_repository_with_a_tag_or_a_name(repository, tmp_path, monkeypatch):
    from huggingface_hub import constants

    with fake_hub(repository, "owner/demo") as (endpoint, fetched):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + TEMPLATE)
        model = load_model("owner/demo:Q4_0", cache_dir=tmp_path)
        assert kinds(model) == {"Q4_0"}
        assert {name for name, _ in fetched} == {"demo-Q4_0.gguf"}
        again = load_model("owner/demo", gguf_file="demo-Q8_0.gguf", cache_dir=tmp_path)
        assert kinds(again) == {"Q8_0"}
        fetched.clear()
        split = load_model("owner/demo:Q5_0", cache_dir=tmp_path)
        parts = sorted(path.name for path in (repository / "Q5_0").iterdir())
        assert len(parts) > 2
        assert sorted({name for name, _ in fetched}) == parts
        assert kinds(split) == {"Q5_0"}
        fetched.clear()
        named = load_model("owner/demo", gguf_file=f"Q5_0/{parts[1]}", cache_dir=tmp_path)
        assert kinds(named) == {"Q5_0"}
        assert not fetched
        assert load_tokenizer(repository / "Q5_0" / parts[-1])("x").input_ids
        with pytest.raises(CheckpointError, match=r"owner/demo: several .*owner/demo:TAG"):
            load_model("owner/demo", cache_dir=tmp_path)
    # Without the hub, the cache serves.
    cached = load_model("owner/demo:q4_0", cache_dir=tmp_path, local_files_only=True)
    assert torch.equal(cached(IDS).logits, model(IDS).logits)


TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"

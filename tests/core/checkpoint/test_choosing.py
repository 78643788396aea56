"""Choosing one file where each is a model of its own: here, in a folder, by tag or by name."""

import pytest

from quantload.checkpoint import resolve_source
from quantload.checkpoint.choosing import choose_file, models_in, parts_of, split_tag
from quantload.errors import CheckpointError

NAMES = [
    "README.md",
    "model-Q4_K_M.gguf",
    "model-Q4_K_S.gguf",
    "model.Q8_0.gguf",
    "model_f16.GGUF",
    "mmproj-model-f16.gguf",
    "model.imatrix.gguf",
    "Q6_K/model-Q6_K-00001-of-00002.gguf",
    "Q6_K/model-Q6_K-00002-of-00002.gguf",
    "UD/model-UD-Q2_K_XL.gguf",
]


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("Q4_K_M", "model-Q4_K_M.gguf"),
        ("q4_k_s", "model-Q4_K_S.gguf"),
        ("Q8_0", "model.Q8_0.gguf"),
        ("F16", "model_f16.GGUF"),
        ("Q6_K", "Q6_K/model-Q6_K-00001-of-00002.gguf"),
        ("Q2_K_XL", "UD/model-UD-Q2_K_XL.gguf"),
        ("UD", "UD/model-UD-Q2_K_XL.gguf"),
    ],
)
def test_a_tag_is_the_end_of_a_name(tag, name):
    assert choose_file(NAMES, "here", file=None, tag=tag) == name


@pytest.mark.parametrize("tag", ["Q4_K", "Q4", "Q5_0", "mmproj", "K_M.gguf"])
def test_a_tag_that_no_name_has_lists_the_names(tag):
    with pytest.raises(CheckpointError, match=r"here: no file with the tag .*model-Q4_K_M\.gguf"):
        choose_file(NAMES, "here", file=None, tag=tag)


def test_a_tag_of_several_files_is_refused():
    with pytest.raises(CheckpointError, match=r"tag of several files: a-Q8_0\.gguf, b-Q8_0\.gguf"):
        choose_file(["a-Q8_0.gguf", "b-Q8_0.gguf"], "here", file=None, tag="Q8_0")


def test_a_name_is_taken_as_it_is():
    assert choose_file(NAMES, "here", file="mmproj-model-f16.gguf", tag=None)
    with pytest.raises(CheckpointError, match=r"here: no file x\.gguf; there are"):
        choose_file(NAMES, "here", file="x.gguf", tag=None)
    with pytest.raises(CheckpointError):
        choose_file(NAMES, "here", file="../x.gguf", tag=None)


def test_later_parts_and_what_is_no_model_are_not_models_of_their_own():
    assert models_in(NAMES) == [
        "Q6_K/model-Q6_K-00001-of-00002.gguf",
        "UD/model-UD-Q2_K_XL.gguf",
        "model-Q4_K_M.gguf",
        "model-Q4_K_S.gguf",
        "model.Q8_0.gguf",
        "model_f16.GGUF",
    ]
    assert parts_of(NAMES[7], NAMES) == NAMES[7:9]
    assert parts_of(NAMES[1], NAMES) == [NAMES[1]]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("owner/model:Q4_K_M", ("owner/model", "Q4_K_M")),
        ("model:q8_0", ("model", "q8_0")),
        ("owner/model", ("owner/model", None)),
        ("C:models", ("C:models", None)),
        ("a/b:c/d", ("a/b:c/d", None)),
        ("a:", ("a:", None)),
    ],
)
def test_names_with_a_tag(name, split):
    assert split_tag(name) == split


def test_a_folder_takes_tags_and_names(tmp_path):
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert resolve_source(f"{tmp_path}:Q8_0") == tmp_path / "model.Q8_0.gguf"
    assert resolve_source(tmp_path, file="model_f16.GGUF") == tmp_path / "model_f16.GGUF"
    found = resolve_source(f"{tmp_path}:Q6_K")
    assert found == tmp_path / "Q6_K" / "model-Q6_K-00001-of-00002.gguf"
    with pytest.raises(CheckpointError, match="no file with the tag 'Q5_0'"):
        resolve_source(f"{tmp_path}:Q5_0")
    with pytest.raises(CheckpointError, match="is a file; there is nothing to choose"):
        resolve_source(tmp_path / "README.md", file="x.gguf")


def test_a_path_that_exists_has_no_tag(tmp_path):
    odd = tmp_path / "a:Q8_0"
    odd.mkdir()
    assert resolve_source(str(odd)) == odd

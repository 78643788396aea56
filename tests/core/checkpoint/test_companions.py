"""Which files belong to a model beside its tensors, and reading the small ones."""

from __future__ import annotations

import pytest

from quantload.checkpoint import companion_files, read_json
from quantload.checkpoint import jsonfile as jsonfile_module
from quantload.checkpoint.companions import companion_names
from quantload.errors import CheckpointError

CARRIED = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "additional_chat_templates/tool_use.jinja",
    "qwen.tiktoken",
    "tokenizer.model.v3",
]
LEFT = [
    "README.md",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "optimizer.pt",
    "trainer_state.json",
    "training_args.bin",
    "runs/config.json",
    "checkpoint-500/config.json",
    "onnx/tokenizer.json",
    "original/tokenizer.model",
    ".gitattributes",
    "requirements.txt",
]


def test_companions_are_told_from_everything_else(tmp_path):
    for name in (*CARRIED, *LEFT, "modeling_x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = companion_files(tmp_path)
    assert sorted(found) == sorted(CARRIED)
    assert all(path.read_text() == name for name, path in found.items())
    assert set(companion_files(tmp_path, code=True)) - set(found) == {"modeling_x.py"}
    assert companion_names([*CARRIED, *LEFT]) == sorted(CARRIED)


def test_every_companion_of_a_real_processor_and_tokenizer_is_carried(demo_model, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path)
    written = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) > 3
    assert sorted(companion_files(tmp_path)) == sorted(written)


def test_a_folder_that_is_not_there_has_none(tmp_path):
    assert companion_files(tmp_path / "absent") == {}


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "m" / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="leaves"):
        companion_files(tmp_path / "m")


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1,\n "b": }', "line 2 column 7"),
        (b"\xff\xfe", "UTF-8"),
        (b"[1]", "expected a JSON object, found list"),
        (b"[" * 200_000, "not a usable JSON file"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a.json"),
    ],
)
def test_what_is_no_json_object_is_an_error_that_says_where(tmp_path, raw, said):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value)


def test_files_that_cannot_be_read_as_json(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path)
    monkeypatch.setattr(jsonfile_module, "MAX_JSON_BYTES", 10)
    (tmp_path / "a.json").write_text('{"a": "0123456789"}')
    with pytest.raises(CheckpointError, match="at most 10 bytes, found 19"):
        read_json(tmp_path / "a.json")

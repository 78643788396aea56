"""Files of other formats, which plugins read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quantload import register
from quantload.checkpoint import open_checkpoint
from quantload.errors import (
    CheckpointError,
    MissingRequirementError,
    PluginLoadError,
    UnknownMethodError,
)
from quantload.plugin import API, FormatPlugin

READER = '''
from pathlib import Path
from quantload.checkpoint import Checkpoint, TensorInfo
from quantload.checkpoint.rawfile import RawFile


class Plain(Checkpoint):
    """A file that is one tensor of bytes, named after the file."""

    metadata = {}

    def __init__(self, path, mmap):
        super().__init__(path, mmap=mmap)
        self.raw = RawFile(path)
        self.info_ = TensorInfo(path.stem, "U8", (self.raw.size,), self.raw.size, path, 0)

    @classmethod
    def open(cls, path, *, mmap=True):
        return cls(Path(path), mmap)

    @property
    def tensors(self):
        return {self.info_.name: self.info_}

    @property
    def files(self):
        return (self.path,)

    def raw_file(self, info):
        return self.raw

    def close(self):
        self.raw.close()
'''


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "plain_reader.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights.plain").write_bytes(b"0123456789")
    (tmp_path / "m" / "config.json").write_text('{"a": 1}')
    with register("plain", FormatPlugin(api=API, reader="plain_reader:Plain")):
        yield tmp_path / "m"


@pytest.mark.parametrize("mmap", [True, False])
def test_a_format_plugin_reads_its_files_with_all_that_a_checkpoint_can_do(plain, mmap):
    for path in (plain, plain / "weights.plain"):
        with open_checkpoint(path, mmap=mmap) as opened:
            assert bytes(opened.read("weights")) == b"0123456789"
            assert bytes(opened.read("weights", rows=slice(2, 4))) == b"23"
            buffer = torch.empty(64, dtype=torch.uint8)
            assert bytes(opened.read_into("weights", buffer, rows=slice(5, None))) == b"56789"
            assert bytes(opened.read_raw("weights")) == b"0123456789"
            assert opened.config() == {"a": 1}
            assert opened.nbytes == 10


def test_safetensors_in_the_same_folder_come_first(plain, demo_model):
    (plain / "model.safetensors").write_bytes((demo_model / "model.safetensors").read_bytes())
    with open_checkpoint(plain) as opened:
        assert len(opened) == 38


def test_several_files_of_a_format_are_listed_and_a_split_one_is_one(plain):
    (plain / "weights.plain").rename(plain / "w-00001-of-00002.plain")
    (plain / "w-00002-of-00002.plain").write_bytes(b"x")
    with open_checkpoint(plain) as opened:
        assert list(opened) == ["w-00001-of-00002"]
    (plain / "other.plain").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"other\.plain, w-00001-of-00002\.plain; choose one"):
        open_checkpoint(plain)


def test_a_format_that_nobody_reads_says_what_to_install(tmp_path):
    path = tmp_path / "model.onnxish"
    path.write_bytes(b"")
    with pytest.raises(UnknownMethodError, match="checkpoint format 'onnxish'"):
        open_checkpoint(path)


def test_a_plugin_with_an_unmet_requirement_says_which(plain):
    plugin = FormatPlugin(api=API, reader="plain_reader:Plain", requires=("no-such-thing>=3",))
    (plain / "x.needy").write_bytes(b"")
    with register("needy", plugin), pytest.raises(MissingRequirementError, match="no-such-thing"):
        open_checkpoint(plain / "x.needy")


def test_a_reader_that_is_none_is_a_fault_of_the_plugin(plain):
    (plain / "x.wrong").write_bytes(b"")
    plugin = FormatPlugin(api=API, reader="plain_reader:RawFile")
    with register("wrong", plugin), pytest.raises(PluginLoadError, match="subclass of Checkpoint"):
        open_checkpoint(plain / "x.wrong")

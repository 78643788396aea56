"""`Origin`: what a model that came from a GGUF file keeps of it for being saved again."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantload.errors import QuantloadError
from quantload_gguf.container import Field, Header, kept_fields

if TYPE_CHECKING:
    from quantload_gguf.container.cursor import ByteOrder

logger = logging.getLogger("quantload.gguf")

_TYPES = ("general.file_type",)


@dataclass(frozen=True)
class Origin:
    """The metadata of a file, as compact as it stands there.

    Attributes:
        path: the file.
        architecture: `general.architecture`.
        kinds: the names of the types of its tensors.
        raw: the metadata's bytes.
        order: of its numbers.
        count: of its entries.
    """

    path: Path
    architecture: str
    kinds: frozenset[str]
    raw: bytes
    order: ByteOrder
    count: int

    @classmethod
    def of(cls, path: Path, header: Header, architecture: str, kinds: frozenset[str]) -> Origin:
        """Of a file with its header."""
        raw, order = header.raw_fields, header.order
        return cls(path, architecture, kinds, raw, order, len(header.fields))

    def fields(self) -> dict[str, Field]:
        """The metadata, read again."""
        return kept_fields(self.path, self.raw, self.order, self.count)

    def types(self) -> dict[str, Field]:
        """What the metadata says of the types."""
        return {key: field for key, field in self.fields().items() if key in _TYPES}

    def file_name(self) -> str:
        """A name for the file in another folder: without the number of a part."""
        from quantload_gguf.container.split import base_name

        return base_name(self.path.name)

    def companions(self) -> dict[str, bytes]:
        """The tokenizer as the files that folders have; none where the file has none."""
        from quantload_gguf.saving.draft import Draft
        from quantload_gguf.vocabulary import tokenizer_files

        fields = self.fields()
        if "tokenizer.ggml.tokens" not in fields:
            return {}
        try:
            with tempfile.TemporaryDirectory() as folder:
                tokenizer_files(Draft(self.path, fields), Path(folder))
                return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
        except QuantloadError as error:
            logger.warning("no tokenizer files are written: %s", error)
            return {}

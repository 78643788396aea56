"""Models written as GGUF files: what reading does, the other way."""

from __future__ import annotations

from quantload_gguf.saving.model import write_model, write_parts

__all__ = ["write_model", "write_parts"]

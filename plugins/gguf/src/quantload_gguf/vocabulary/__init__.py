"""Tokenizers from the metadata of GGUF files."""

from __future__ import annotations

from quantload_gguf.vocabulary.loading import load_tokenizer, tokenizer_files

__all__ = ["load_tokenizer", "tokenizer_files"]

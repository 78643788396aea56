"""Codes in blocks: a scale, and perhaps an offset, for every 16 or 32 columns."""

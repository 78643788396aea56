"""Walking a JSON object member by member, with bounded memory however hostile it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from quantload.checkpoint.paths import show

MAX_ENTRY_CHARACTERS = 10_000

_space = re.compile(r"[ \t\n\r]*").match
# Nearly every key and every comma is of this form; whatever is not takes the slow way.
_plain_key = re.compile(r'[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_separator = re.compile(r"[ \t\n\r]*([,}])").match


class FormError(Exception):
    """The text is not of the expected form; `args[0]` says what was expected and found."""


def walk(text: str, at: int, member: Callable[[str, int], int]) -> int:
    """Walk the object at `at`; `member(key, start)` takes each value and gives its end.

    Returns:
        The position after the object.

    Raises:
        FormError, ValueError: it is no well-formed object.
    """
    at = skip(text, expect(text, at, "{"))
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        plain = _plain_key(text, at)
        if plain is not None:
            key, at = plain[1], plain.end()
        else:
            key, at = string(text, skip(text, at))
            at = skip(text, expect(text, skip(text, at), ":"))
        at = member(key, at)
        mark = _separator(text, at)
        if mark is None:
            raise FormError(f"expected ',' or '}}' at character {at}, found {text[at : at + 1]!r}")
        at = mark.end()
        if mark[1] == "}":
            return at


def skip(text: str, at: int) -> int:
    """The position after any white space."""
    match = _space(text, at)
    return match.end() if match else at


def expect(text: str, at: int, character: str) -> int:
    """The position after a character that has to be there."""
    if text[at : at + 1] != character:
        found = repr(text[at : at + 1]) if at < len(text) else "the end"
        raise FormError(f"expected {character!r} at character {at}, found {found}")
    return at + 1


def string(text: str, at: int) -> tuple[str, int]:
    """The string at `at` and the position after it."""
    expect(text, at, '"')
    value, end = _decode(text, at)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise FormError(f"expected text at character {at}, found half a surrogate pair") from None
    return value, end


def flat_object(text: str, at: int) -> tuple[dict[str, Any], int]:
    """The object at `at`, which has no object or brace inside, and the position after it."""
    expect(text, at, "{")
    end = text.find("}", at, at + MAX_ENTRY_CHARACTERS) + 1
    if not end:
        raise FormError(f"expected '}}' within {MAX_ENTRY_CHARACTERS} characters of {at}")
    return _decode_flat(text[at:end]), end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise FormError(f"expected each key once, found {show(twice)} twice")
    return found


_decode = json.JSONDecoder().raw_decode
_decode_flat = json.JSONDecoder(object_pairs_hook=_unique).decode

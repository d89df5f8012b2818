"""Words of pipeline text: option values that stand without quotes."""

from __future__ import annotations

import re
from typing import Any

WORD = re.compile(r"[A-Za-z0-9_.+\-*/]+")
_CONSTANTS = {"none": None, "true": True, "false": False}


def value_of(word: str) -> Any:
    """What a word is: none, true, false, a number, else itself."""
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def needs_quotes(text: str) -> bool:
    """Whether a string would not be read as itself without quotes, or looks like a constant."""
    plain = text.replace("_", "").replace(".", "").replace("-", "").isalnum() and WORD.fullmatch(text)
    return not plain or text.lower() in _CONSTANTS or value_of(text) is not text

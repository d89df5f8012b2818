"""Numbers that users give: those of numpy and others as Python's."""

from __future__ import annotations

import numbers
from operator import index
from typing import Any


def real_number(value: Any) -> Any:
    """Python's number for one of another kind; what is no real number, as it is."""
    if isinstance(value, int) or not isinstance(value, numbers.Real):
        return value
    return float(value)


def whole_number(value: Any) -> Any:
    """Python's int for a whole number of another kind; what is none, a bool among others, as it is."""
    if isinstance(value, bool):
        return value
    try:
        return index(value)
    except TypeError:
        return value

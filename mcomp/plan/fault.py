"""Faults of mcomp's own, in words: where they are, and the calls that led there."""

from __future__ import annotations

import traceback
from pathlib import Path
from traceback import FrameSummary

_PACKAGE = Path(__file__).parents[1]


def place_of(error: BaseException) -> str:
    """The innermost place in mcomp that an exception went through: file, function and line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(_PACKAGE)]
    return _place((own or frames)[-1])


def calls_of(error: BaseException) -> str:
    """The traceback of an exception. Files are named as in mcomp; of others their own folder is, and no folder above."""
    lines = [f"{_place(f)}: {f.line}" for f in traceback.extract_tb(error.__traceback__)]
    return "\n".join([*lines, f"{type(error).__name__}: {error}"])


def _place(frame: FrameSummary) -> str:
    path = Path(frame.filename)
    file = path.relative_to(_PACKAGE.parent) if path.is_relative_to(_PACKAGE) else Path(*path.parts[-2:])
    return f"{file.as_posix()}, {frame.name}, line {frame.lineno}"

"""The characters of IR text: tokens, numbers, lists, and errors with a caret."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from mcomp.errors import ParseError

SPACE = re.compile(r"(?:\s|//[^\n]*)*")
NAME = re.compile(r"[A-Za-z0-9_.\-]+")
IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPNAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
VALUE = re.compile(r"%([A-Za-z0-9_]+)")
STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
FLOAT = re.compile(r"-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf\b|nan\b)")
INT = re.compile(r"\d+")
DIGEST = re.compile(r"#([A-Za-z0-9=.+\-]+)")
MAX_DEPTH = 100
MAX_DIGITS = 40

_T = TypeVar("_T")


class Scanner:
    """Reads a text from left to right. Comments and white space may stand between tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.depth = 0

    # characters

    def space(self) -> None:
        match = SPACE.match(self.text, self.pos)
        self.pos = match.end() if match else self.pos

    def peek(self, token: str) -> bool:
        self.space()
        return self.text.startswith(token, self.pos)

    def take(self, token: str) -> bool:
        if not self.peek(token):
            return False
        self.pos += len(token)
        return True

    def word(self, token: str) -> bool:
        """Take a whole identifier."""
        self.space()
        match = IDENT.match(self.text, self.pos)
        if match is None or match.group() != token:
            return False
        self.pos = match.end()
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self.error(f"expected `{token}`")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.space()
        match = pattern.match(self.text, self.pos)
        if match is None:
            return None
        self.pos = match.end()
        return match.group(match.lastindex or 0)

    def need(self, pattern: re.Pattern[str], what: str) -> str:
        found = self.match(pattern)
        if found is None:
            raise self.error(f"expected {what}")
        return found

    def error(self, message: str, at: int | None = None) -> ParseError:
        pos = min(self.pos if at is None else at, len(self.text))
        start = self.text.rfind("\n", 0, pos) + 1
        end = self.text.find("\n", pos)
        line = self.text[start:] if end < 0 else self.text[start:end]
        column = pos - start
        if len(line) > 160:
            cut = max(0, column - 80)
            line, column = line[cut : cut + 160], column - cut
        number = self.text.count("\n", 0, pos) + 1
        return ParseError(f"line {number}: {message}", ir=f"{line}\n{' ' * column}^")

    def nested(self, rule: Callable[[], _T]) -> _T:
        """Apply a rule that may contain itself; too deep a text is an error, not the end of the stack."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error("nested too deep")
        found = rule()
        self.depth -= 1
        return found

    def integer(self, what: str = "a number") -> int:
        at = self.pos
        text = self.need(INT, what)
        if len(text) > MAX_DIGITS:
            raise self.error("the number is too large", at)
        return int(text)

    def items(self, close: str, item: Callable[[], _T]) -> list[_T]:
        found: list[_T] = []
        if self.take(close):
            return found
        found.append(item())
        while self.take(","):
            found.append(item())
        self.expect(close)
        return found

    # graph

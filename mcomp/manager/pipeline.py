"""Pipelines as text: `fold,cse,prune{ratio=0.5},fixpoint(simplify,dce),quantize{bits=8}`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mcomp.errors import ParseError, PassError
from mcomp.manager.passes import Pass, pass_named
from mcomp.manager.words import WORD, value_of

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class Fixpoint:
    """A group of passes repeated until none changes the graph, `limit` times at most. As text: `fixpoint(fold,dce)`, or
    `fixpoint(fold,dce){limit=3}` where the limit is not the usual one."""

    items: tuple[Step, ...]
    limit: int = 10

    def __str__(self) -> str:
        limit = "" if self.limit == type(self).limit else f"{{limit={self.limit}}}"
        return f"fixpoint({pipeline_text(self.items)}){limit}"


Step = Pass | Fixpoint


def pipeline_text(steps: Sequence[Step]) -> str:
    """A pipeline as text; `parse_pipeline` reads it back."""
    return ",".join(str(s) for s in steps)


def parse_pipeline(given: str | Pass | Fixpoint | Iterable[Any]) -> tuple[Step, ...]:
    """A pipeline from text, from passes, or from a mixture of both.

    Raises ParseError for bad text, PassError for unknown passes and options.
    """
    if isinstance(given, str):
        return _Reader(given).pipeline()
    if isinstance(given, (Pass, Fixpoint)):
        return (given,)
    if not isinstance(given, Iterable):
        raise _no_step(given)
    steps: list[Step] = []
    for item in given:
        if isinstance(item, type) and issubclass(item, Pass):
            _check_given(item, ())
            steps.append(item())
        elif isinstance(item, (str, Pass, Fixpoint)):
            steps.extend(parse_pipeline(item))
        else:
            raise _no_step(item)
    return tuple(steps)


def passes_of(steps: Sequence[Step]) -> Iterator[Pass]:
    """The passes of a pipeline, in order; those of groups once."""
    for step in steps:
        if isinstance(step, Fixpoint):
            yield from passes_of(step.items)
        else:
            yield step


_PassType = TypeVar("_PassType", bound=Pass)


def with_options(given: _PassType, options: Mapping[str, Any]) -> _PassType:
    """A pass with other values, given from Python, for some of its options. Raises PassError for values of another kind
    than the option's."""
    hints = typing.get_type_hints(type(given))
    for name, value in options.items():
        kind = misfit(type(given), name, value)
        if kind is not None:
            raise PassError(f"{given.name}: option {name} is {value!r}, not {kind}", code="MC0202",
                            help=f"use {_allowed_text(hints[name])}")
    values = {name: _convert(_plain(v), hints[name]) for name, v in options.items()}
    return dataclasses.replace(given, **values)  # type: ignore[type-var]


def misfit(cls: type[Pass], name: str, value: Any) -> str | None:
    """What an option of a pass must be, where a value given from Python is not; None where it is."""
    hint = typing.get_type_hints(cls)[name]
    return _hint_text(hint) if _convert(_plain(value), hint) is _MISFIT else None


def _plain(value: Any) -> Any:
    """A value as a pipeline's text gives it: tuples for lists, Python's numbers for numpy's."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _check_given(cls: type[Pass], given: Iterable[str], ir: str | None = None) -> None:
    """Raise PassError for options without a default that were not given."""
    missing = [
        f.name for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.init and f.name not in given and f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise PassError(f"{cls.name} needs its option {missing[0]}", code="MC0202", ir=ir,
                        help=f"write {cls.name}{{{', '.join(f'{name}=...' for name in missing)}}}")


def _no_step(item: Any) -> PassError:
    return PassError(
        f"{item!r} in a pipeline is neither a pass nor text", code="MC0202",
        help="give text such as 'fold,dce', or instances of mcomp.manager.Pass",
    )


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def pipeline(self) -> tuple[Step, ...]:
        if not self.text.strip():
            return ()
        steps = self.steps()
        self.space()
        if self.pos != len(self.text):
            raise self.error("expected `,` or the end")
        return steps

    def steps(self) -> tuple[Step, ...]:
        found = [self.step()]
        while self.take(","):
            found.append(self.step())
        return tuple(found)

    def step(self) -> Step:
        self.space()
        at = self.pos
        name = self.match(_IDENT)
        if name is None:
            raise self.error("expected a pass")
        if name == "fixpoint":
            if not self.take("("):
                raise self.error("expected `(`")
            items = self.steps()
            if not self.take(")"):
                raise self.error("expected `)`")
            return Fixpoint(items, self.limit()) if self.take("{") else Fixpoint(items)
        try:
            cls = pass_named(name)
        except PassError as e:
            raise PassError(e.message, code=e.code, ir=self.caret(at), help=e.help) from e
        options: dict[str, Any] = {}
        if self.take("{"):
            while not self.take("}"):
                if options and not self.take(","):
                    raise self.error("expected `,` or `}`")
                self.space()
                place = self.pos
                key, value = self.option(cls)
                if key in options:
                    raise PassError(f"{cls.name}: option {key} is given twice", code="MC0202", ir=self.caret(place),
                                    help="leave one of them out")
                options[key] = value
        _check_given(cls, options, self.caret(at))
        return cls(**options)

    def limit(self) -> int:
        self.space()
        at = self.pos
        key = self.match(_IDENT)
        if key is None:
            raise self.error("expected an option")
        if key != "limit":
            raise PassError(f"fixpoint has no option {key}", code="MC0202", ir=self.caret(at), help="its options: limit")
        if not self.take("="):
            raise self.error("expected `=`")
        self.space()
        at = self.pos
        value = self.value()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PassError(
                f"fixpoint: option limit is {value!r}, not a positive int", code="MC0202", ir=self.caret(at),
                help="write how often the passes may run, such as limit=3",
            )
        if not self.take("}"):
            raise self.error("expected `}`")
        return value

    def option(self, cls: type[Pass]) -> tuple[str, Any]:
        self.space()
        at = self.pos
        key = self.match(_IDENT)
        if key is None:
            raise self.error("expected an option")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            raise PassError(
                f"{cls.name} has no option {key}", code="MC0202", ir=self.caret(at),
                help=f"did you mean {close[0]}?" if close else f"its options: {', '.join(fields) or 'none'}",
            )
        if not self.take("="):
            raise self.error("expected `=`")
        self.space()
        at = self.pos
        value = self.value()
        hint = typing.get_type_hints(cls)[key]
        converted = _convert(value, hint)
        if converted is _MISFIT:
            raise PassError(
                f"{cls.name}: option {key} is {value!r}, not {_hint_text(hint)}", code="MC0202", ir=self.caret(at),
                help=f"use {_allowed_text(hint)}",
            )
        return key, converted

    def value(self) -> Any:
        if self.take("["):
            items: list[Any] = []
            while not self.take("]"):
                if items and not self.take(","):
                    raise self.error("expected `,` or `]`")
                items.append(self.value())
            return tuple(items)
        self.space()
        at = self.pos
        text = self.match(_STRING)
        if text is not None:
            try:
                return json.loads(text)
            except ValueError as e:
                raise self.error("this is no string", at) from e
        word = self.match(WORD)
        if word is None:
            raise self.error("expected a value")
        return value_of(word)

    def space(self) -> None:
        while self.pos < len(self.text) and self.text[self.pos].isspace():
            self.pos += 1

    def take(self, token: str) -> bool:
        self.space()
        if not self.text.startswith(token, self.pos):
            return False
        self.pos += len(token)
        return True

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.space()
        found = pattern.match(self.text, self.pos)
        if found is None:
            return None
        self.pos = found.end()
        return found.group()

    def caret(self, at: int) -> str:
        return f"{self.text}\n{' ' * at}^"

    def error(self, message: str, at: int | None = None) -> ParseError:
        return ParseError(f"pipeline: {message}", ir=self.caret(self.pos if at is None else at))


_MISFIT = object()


def _convert(value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            converted = _convert(value, option)
            if converted is not _MISFIT:
                return converted
        return _MISFIT
    if origin is typing.Literal:
        value = "none" if value is None else value
        return value if value in typing.get_args(hint) else _MISFIT
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, tuple):
            return _MISFIT
        items = tuple(_convert(v, inner) for v in value)
        return _MISFIT if _MISFIT in items else items
    if hint in (type(None), None):
        return None if value is None else _MISFIT
    if hint is bool:
        return value if isinstance(value, bool) else _MISFIT
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _MISFIT
    if hint is float:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _MISFIT
    if hint is str:
        return value if isinstance(value, str) else _MISFIT
    return value


def _hint_text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none"}


def _allowed_text(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(map(_allowed_text, typing.get_args(hint)))
    if origin is typing.Literal:
        values = [str(value) for value in typing.get_args(hint)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if origin is tuple:
        return f"a list, each item {_allowed_text(typing.get_args(hint)[0])}"
    return _WORDS.get(hint, _hint_text(hint))

"""What a pass is, and the registry of passes."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mcomp.errors import PassError
from mcomp.ir.graph import Graph
from mcomp.manager.analysis import Analysis
from mcomp.manager.words import needs_quotes

if TYPE_CHECKING:
    from mcomp.manager.context import Context


class PassEffect(Enum):
    """What a pass may do to numbers. exact: same bits. rounding: within the operators' tolerance. approximate: more; such
    passes write the ledger and run only against a budget or when asked for by name."""

    EXACT = "exact"
    ROUNDING = "rounding"
    APPROXIMATE = "approximate"


NONE: frozenset[str] = frozenset()
"""No analysis is preserved."""
ALL: None = None
"""Every analysis is preserved."""


@dataclass(frozen=True)
class PassResult:
    """What a pass did: whether the graph changed, the names of analyses still valid (`ALL`: every one), and counts for
    the statistics (`{"merged": 3}`)."""

    changed: bool
    preserved: frozenset[str] | None = NONE
    statistics: dict[str, int] = dataclasses.field(default_factory=dict)


class Pass(ABC):
    """A transformation of a graph. A subclass is a frozen dataclass: its fields are its options and its text form.

    >>> @register_pass
    ... @dataclass(frozen=True)
    ... class Prune(Pass):
    ...     name = "prune"
    ...     effect = PassEffect.APPROXIMATE
    ...     ratio: float = 0.5
    ...     def run(self, graph, context): ...
    """

    name: ClassVar[str]
    effect: ClassVar[PassEffect] = PassEffect.EXACT
    requires: ClassVar[tuple[Analysis, ...]] = ()
    """Analyses computed before the pass runs."""
    required: ClassVar[bool] = False
    """Whether later stages need it, so that bisecting must not skip it (lowering)."""

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> PassResult:
        """Change the graph, through `graph.edit(...)` only."""

    def check(self, graph: Graph, context: Context) -> None:  # noqa: B027
        """Raise PassError when the options cannot be met on this graph. Called for all passes before any runs."""

    def text(self) -> str:
        """The pass as pipeline text: name and the options that differ from their defaults."""
        options = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.default is dataclasses.MISSING or value != f.default:
                options.append(named_option(type(self), f.name, value))
        return self.name + (f"{{{','.join(options)}}}" if options else "")

    def __str__(self) -> str:
        return self.text()


def named_option(cls: type[Pass], name: str, value: Any) -> str:
    """An option of a pass and its value as pipeline text. The word `none` stands without quotes where it is one that the
    option has."""
    if value == "none":
        hint = typing.get_type_hints(cls)[name]
        if typing.get_origin(hint) is typing.Literal and value in typing.get_args(hint):
            return f"{name}=none"
    return f"{name}={option_text(value)}"


def option_text(value: Any) -> str:
    """An option value as pipeline text. Strings that would be read as something else without quotes have them."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(option_text(v) for v in value) + "]"
    if isinstance(value, str) and needs_quotes(value):
        return json.dumps(value)
    return str(value)


_PASSES: dict[str, type[Pass]] = {}
_PassClass = TypeVar("_PassClass", bound=type[Pass])


def register_pass(cls: _PassClass) -> _PassClass:
    """Class decorator: make a pass known by its name. Raises ValueError when another has the name."""
    known = _PASSES.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"there is a pass {cls.name} already: {known.__module__}.{known.__qualname__}")
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a frozen dataclass: its fields are its options")
    _PASSES[cls.name] = cls
    return cls


def registered_passes() -> dict[str, type[Pass]]:
    """All known passes by name, those of plug-ins included."""
    from mcomp.plugins import load_plugins

    load_plugins()
    return dict(_PASSES)


def pass_named(name: str) -> type[Pass]:
    """The pass class of this name. Raises PassError with suggestions."""
    known = registered_passes()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        raise PassError(
            f"no pass is called {name}", code="MC0201",
            help=f"did you mean {' or '.join(close)}?" if close else f"known passes: {', '.join(sorted(known))}",
        )
    return known[name]

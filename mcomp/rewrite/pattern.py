"""Patterns: what part of a graph a rule looks for.

    x = var("x")
    op("mul", x, op("sigmoid", x))                      # x * sigmoid(x), in either order
    op("add|sub", x, number("c"))                       # an alternative of operators, a known number
    op("linear", x, const("w"), None)                   # a constant; an operand that must be absent
    op("softmax", x, attrs={"axis": lambda a: a == 3})  # an attribute, by value or predicate

A pattern matches a value, from the value backwards through the nodes that made it. Equal names must match the same
value, or the same number.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Node, Value
from mcomp.rewrite.facts import Number, as_held, number_of

COMMUTATIVE = frozenset({
    "add", "mul", "eq", "ne", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
})
"""Operators of two operands whose order does not matter, bit for bit."""

Bound = Value | Node | Number | None


@dataclass(frozen=True, slots=True)
class Found:
    """What has matched so far: bindings by name, and the nodes matched, root first."""

    bindings: Mapping[str, Bound] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def bind(self, name: str, to: Bound) -> Found | None:
        """With one more binding; None when the name is bound to something else. An empty name binds nothing."""
        if not name:
            return self
        if name in self.bindings:
            return self if _same(self.bindings[name], to) else None
        return Found({**self.bindings, name: to}, self.nodes)

    def visit(self, node: Node) -> Found:
        """With one more matched node."""
        return self if node in self.nodes else Found(self.bindings, (*self.nodes, node))


def _same(a: Bound, b: Bound) -> bool:
    if isinstance(a, (Value, Node)) or isinstance(b, (Value, Node)) or a is None or b is None:
        return a is b
    return a == b or (a != a and b != b)


class Pattern(ABC):
    """Matches a value, in as many ways as there are."""

    @abstractmethod
    def match(self, value: Value | None, found: Found) -> Iterator[Found]:
        """Every way to match `value` (None: an absent operand), given what is found already."""

    def __or__(self, other: Pattern) -> Pattern:
        return either(self, other)


@dataclass(frozen=True)
class Var(Pattern):
    """Any present value, if `where` holds for it."""

    name: str
    where: Callable[[Value], bool] | None = None

    def match(self, value: Value | None, found: Found) -> Iterator[Found]:
        if value is None or (self.where is not None and not self.where(value)):
            return
        bound = found.bind(self.name, value)
        if bound is not None:
            yield bound


@dataclass(frozen=True)
class MaybeVar(Pattern):
    """Any value or an absent operand; binds the value or None."""

    name: str

    def match(self, value: Value | None, found: Found) -> Iterator[Found]:
        bound = found.bind(self.name, value)
        if bound is not None:
            yield bound


@dataclass(frozen=True)
class NumberPattern(Pattern):
    """A value all of whose elements are one number known now; binds the number."""

    name: str = ""
    value: float | None = None
    tolerance: float = 0.0
    where: Callable[[Number], bool] | None = None

    def match(self, value: Value | None, found: Found) -> Iterator[Found]:
        known = None if value is None else number_of(value)
        if value is None or known is None or not self._accepts(known, value.tensor.dtype):
            return
        bound = found.bind(self.name, known)
        if bound is not None:
            yield bound

    def _accepts(self, known: Number, dtype: DType) -> bool:
        if self.value is not None:
            wanted = as_held(self.value, dtype)
            if isinstance(known, complex) or isinstance(wanted, complex):
                return False
            if not math.isclose(known, wanted, rel_tol=self.tolerance, abs_tol=0.0):
                return False
        return self.where is None or self.where(known)


@dataclass(frozen=True)
class OpPattern(Pattern):
    """The result of a node: operator (one of `names`), operands, attributes.

    `operands`: one pattern each, None for an operand that must be absent; operands beyond those given may be anything
    if `rest`, and must be absent otherwise. Two operands of a commutative operator match in either order. `bind` names
    the node. `index`: which result of the node.
    """

    names: tuple[str, ...]
    operands: tuple[Pattern | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    where: Callable[[Node], bool] | None = None
    bind: str = ""
    rest: bool = False
    index: int | None = 0

    def match(self, value: Value | None, found: Found) -> Iterator[Found]:
        if value is None or value.producer is None:
            return
        if self.index is not None and value.index != self.index:
            return
        yield from self.match_node(value.producer, found)

    def match_node(self, node: Node, found: Found) -> Iterator[Found]:
        """Every way to match a node."""
        if node.op.name not in self.names or not self._attributes_fit(node):
            return
        if self.where is not None and not self.where(node):
            return
        bound = found.visit(node).bind(self.bind, node)
        if bound is None:
            return
        given = node.operands
        if not self.rest and any(v is not None for v in given[len(self.operands):]):
            return
        yield from self._operands(given, self.operands, bound)
        if len(self.operands) == 2 and node.op.name in COMMUTATIVE and given[0] is not given[1]:
            yield from self._operands(given, (self.operands[1], self.operands[0]), bound)

    def _attributes_fit(self, node: Node) -> bool:
        for name, wanted in self.attrs.items():
            actual = node.attrs.get(name)
            if not (wanted(actual) if callable(wanted) else wanted == actual):
                return False
        return True

    def _operands(
        self, given: tuple[Value | None, ...], patterns: tuple[Pattern | None, ...], found: Found
    ) -> Iterator[Found]:
        if not patterns:
            yield found
            return
        at = len(self.operands) - len(patterns)
        value = given[at] if at < len(given) else None
        first = patterns[0]
        if first is None:
            if value is None:
                yield from self._operands(given, patterns[1:], found)
            return
        for next_found in first.match(value, found):
            yield from self._operands(given, patterns[1:], next_found)


@dataclass(frozen=True)
class Either(Pattern):
    """The first, or the second, ... : all ways of each."""

    options: tuple[Pattern, ...]

    def match(self, value: Value | None, found: Found) -> Iterator[Found]:
        for option in self.options:
            yield from option.match(value, found)


@dataclass(frozen=True)
class Through(Pattern):
    """What `inner` matches, or a chain of operators of one operand each, from `names`, over it."""

    names: tuple[str, ...]
    inner: Pattern
    at_most: int = 8

    def match(self, value: Value | None, found: Found) -> Iterator[Found]:
        yield from self.inner.match(value, found)
        for _ in range(self.at_most):
            if value is None or value.producer is None or value.producer.op.name not in self.names:
                return
            found = found.visit(value.producer)
            value = value.producer.operands[0]
            yield from self.inner.match(value, found)


def var(name: str, where: Callable[[Value], bool] | None = None) -> Pattern:
    """Any value."""
    return Var(name, where)


def anything() -> Pattern:
    """Any value or none, not bound."""
    return MaybeVar("")


def maybe(name: str) -> Pattern:
    """An optional operand: binds the value, or None where it is absent."""
    return MaybeVar(name)


def const(name: str, where: Callable[[Value], bool] | None = None) -> Pattern:
    """A constant of the weight store."""
    return Var(name, lambda v: v.is_const and (where is None or where(v)))


def number(
    value_or_name: float | str = "", *, name: str = "", tolerance: float = 0.0,
    where: Callable[[Number], bool] | None = None,
) -> Pattern:
    """A number known now: a given one (as the operand's element type holds it, within a relative tolerance), or any,
    bound to a name."""
    if isinstance(value_or_name, str):
        return NumberPattern(value_or_name or name, None, tolerance, where)
    return NumberPattern(name, value_or_name, tolerance, where)


def op(
    names: str, *operands: Pattern | None, attrs: Mapping[str, Any] | None = None,
    where: Callable[[Node], bool] | None = None, bind: str = "", rest: bool = False, index: int | None = 0,
) -> OpPattern:
    """The result of a node. `names`: operators, separated by `|`. See `OpPattern`."""
    return OpPattern(tuple(names.split("|")), operands, dict(attrs or {}), where, bind, rest, index)


def either(*options: Pattern) -> Pattern:
    """Any of several patterns."""
    return Either(options)


def through(names: str, inner: Pattern, at_most: int = 8) -> Pattern:
    """`inner`, possibly under operators of one operand (`names`, separated by `|`), such as casts."""
    return Through(tuple(names.split("|")), inner, at_most)

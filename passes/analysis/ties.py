"""Ties: which elements along which axes of which values must stay or go together, stated op by op.

Every axis of static size n of every value has n units. An operator's rule ties units of its operands and results, or
freezes them with a reason. Rules are found by the operator's name, so that others can add theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mcomp.ir.dims import Dim
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.base import Op
from mcomp.ops.elementwise import ElementWise


class Kept(Protocol):
    """What is left of axes once units are removed."""

    def size(self, value: Value, axis: int) -> Dim:
        """The size of an axis afterwards."""

    def below(self, value: Value, axis: int, stop: int) -> int:
        """How many of the elements before `stop` stay."""


@dataclass(frozen=True)
class AxisRule:
    """`tie(node, ties)` ties or freezes the axes of a node. `attrs(node, kept)` gives the attributes that change when
    units are removed. `frozen` says why no axis of the operator can shrink; empty where some can."""

    tie: Callable[[Node, Ties], None]
    attrs: Callable[[Node, Kept], dict[str, Any]] | None = None
    frozen: str = ""


_RULES: dict[str, AxisRule] = {}


def axis_rule(
    *names: str, attrs: Callable[[Node, Kept], dict[str, Any]] | None = None
) -> Callable[[Callable[[Node, Ties], None]], Callable[[Node, Ties], None]]:
    """Decorator: the function ties the axes of the operators of these names. Raises ValueError for a name that has one."""

    def add(tie: Callable[[Node, Ties], None]) -> Callable[[Node, Ties], None]:
        _add(names, AxisRule(tie, attrs))
        return tie

    return add


def freeze_ops(reason: str, *names: str) -> None:
    """No axis of the operators of these names can shrink."""
    _add(names, AxisRule(lambda node, ties: ties.freeze_node(node, reason), None, reason))


def _add(names: Sequence[str], rule: AxisRule) -> None:
    for name in names:
        if name in _RULES:
            raise ValueError(f"there is an axis rule for {name} already")
        _RULES[name] = rule


def axis_rule_of(op: Op) -> AxisRule | None:
    """The rule of an operator: its own, or the one of all element-wise operators; None when it has none."""
    from mcomp.passes.analysis import tie_moves, tie_products  # noqa: F401

    if op.name in _RULES:
        return _RULES[op.name]
    return _RULES["elementwise"] if isinstance(op, ElementWise) else None


@dataclass(frozen=True)
class Contraction:
    """A product that sums over an axis of `operand`; its constant `weight` has the matching axis `weight_axis`. Element i
    of the operand's axis meets index i % size of the weight's axis (its own group of a grouped convolution)."""

    node: Node
    operand: int
    axis: int
    weight: int
    weight_axis: int


class Ties:
    """The units of a graph under construction."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ids: dict[tuple[Value, int], np.ndarray] = {}
        self.count = 0
        self.contractions: list[Contraction] = []
        self.heads: list[tuple[Value, int]] = []
        self.sums: list[tuple[Value, int]] = []
        self.frozen: list[tuple[np.ndarray, str]] = []
        self.inexact: list[tuple[np.ndarray, str]] = []
        self._edges: list[tuple[np.ndarray, np.ndarray]] = []
        self._choices: list[tuple[tuple[tuple[Value, int], ...], tuple[Value, int], str]] = []

    # for rules

    def units(self, value: Value, axis: int) -> np.ndarray | None:
        """The units of an axis, i64[size]; None where its size is symbolic."""
        size = value.tensor.shape[axis]
        if not isinstance(size, int):
            return None
        found = self.ids.get((value, axis))
        if found is None:
            found = self.ids[value, axis] = np.arange(self.count, self.count + size)
            self.count += size
        return found

    def link(self, a: np.ndarray | None, b: np.ndarray | None) -> None:
        """Tie units pairwise; shapes broadcast."""
        if a is not None and b is not None:
            left, right = np.broadcast_arrays(a, b)
            self._edges.append((left.reshape(-1), right.reshape(-1)))

    def same(self, a: Value, i: int, b: Value, j: int) -> None:
        """Tie axis i of a to axis j of b, element by element. A size of 1 that meets another stretches and ties nothing."""
        first, second = a.tensor.shape[i], b.tensor.shape[j]
        if isinstance(first, int) and isinstance(second, int):
            if first == second:
                self.link(self.units(a, i), self.units(b, j))
            elif first != 1 and second != 1:
                self.freeze(a, i, f"it meets an axis of {second} elements")
                self.freeze(b, j, f"it meets an axis of {first} elements")
            return
        for value, axis, size, other in ((a, i, first, second), (b, j, second, first)):
            if isinstance(size, int) and size != 1:
                self.freeze(value, axis, f"it meets an axis of varying size {other}")

    def freeze(self, value: Value, axis: int, reason: str) -> None:
        """No element of an axis can go."""
        units = self.units(value, axis)
        if units is not None:
            self.frozen.append((units, reason))

    def freeze_value(self, value: Value, reason: str) -> None:
        """No element of any axis can go."""
        if isinstance(value.type, TensorType):
            for axis in range(value.type.rank):
                self.freeze(value, axis, reason)

    def freeze_node(self, node: Node, reason: str) -> None:
        """No element of any axis of any operand or result can go."""
        for value in (*node.operands, *node.results):
            if value is not None:
                self.freeze_value(value, reason)

    def change(self, value: Value, axis: int, note: str) -> None:
        """Elements of an axis can go, but what stays then changes: a model that masks them gives other results."""
        units = self.units(value, axis)
        if units is not None:
            self.inexact.append((units, note))

    def contract(self, node: Node, operand: int, axis: int, weight: int, weight_axis: int) -> None:
        """A product that sums over an axis. Call `same` or `link` as well."""
        self.contractions.append(Contraction(node, operand, axis, weight, weight_axis))

    def stretch(self, node: Node, operands: Sequence[Value] | None = None) -> None:
        """Tie operands to the only result as broadcasting aligns them."""
        result = node.result
        given = operands if operands is not None else [v for v in node.operands if v is not None]
        for value in given:
            skip = result.tensor.rank - value.tensor.rank
            for axis in range(value.tensor.rank):
                self.same(value, axis, result, axis + skip)

    def regroup(self, parts: Sequence[tuple[Value, int]], whole: tuple[Value, int], reason: str) -> None:
        """One axis is several others in row-major order. Later one of the parts is chosen whose elements go with all that
        they hold; the other parts are frozen."""
        self._choices.append((tuple(parts), whole, reason))

    # results

    def solve(self) -> np.ndarray:
        """The class of every unit (the smallest unit tied to it), i64[count]."""
        if self._choices:
            blocked = self._blocked(components(self.count, self._edges))
            for parts, whole, reason in self._choices:
                self._choose(parts, whole, reason, blocked)
            self._choices = []
        return components(self.count, self._edges)

    def _blocked(self, roots: np.ndarray) -> np.ndarray:
        marked = np.zeros(self.count, bool)
        for units, _ in self.frozen:
            marked[roots[units]] = True
        return marked[roots]

    def _choose(
        self, parts: tuple[tuple[Value, int], ...], whole: tuple[Value, int], reason: str, blocked: np.ndarray
    ) -> None:
        found = [self.units(*part) for part in parts]
        joined = self.units(*whole)
        sizes = [len(u) for u in found if u is not None]
        if joined is None or len(sizes) != len(parts):
            for part in (*parts, whole):
                self.freeze(*part, reason)
            return
        free = [i for i, u in enumerate(found) if u is not None and not blocked[u].all()]
        carrier = free[0] if free else 0
        grid = joined.reshape(sizes)
        along = [1] * len(sizes)
        along[carrier] = sizes[carrier]
        units = found[carrier]
        assert units is not None
        self.link(grid, units.reshape(along))
        for i, part in enumerate(parts):
            if i != carrier:
                self.freeze(*part, reason)


def components(count: int, edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The smallest member of each element's connected component, i64[count]. Hooks roots to smaller ones and shortens paths
    until nothing changes (Shiloach and Vishkin 1982)."""
    parent = np.arange(count)
    if not edges:
        return parent
    left = np.concatenate([a for a, _ in edges])
    right = np.concatenate([b for _, b in edges])
    while True:
        a, b = parent[left], parent[right]
        differ = a != b
        if not differ.any():
            return parent
        left, right, a, b = left[differ], right[differ], a[differ], b[differ]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        shorter = parent[parent]
        while not np.array_equal(shorter, parent):
            parent, shorter = shorter, shorter[shorter]

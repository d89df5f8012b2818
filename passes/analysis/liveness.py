"""Liveness: from where to where each intermediate result takes memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Graph, Value
from mcomp.ir.types import TensorType
from mcomp.manager.analysis import Analysis
from mcomp.manager.context import Context


@dataclass(frozen=True, slots=True)
class Interval:
    """Memory of one result: from the node at position `start` that makes it (-1: an input of the graph) to the last
    node that uses it or a view of it at `end` (the number of nodes: returned). Both ends count. kind: input, output
    or intermediate."""

    name: str
    start: int
    end: int
    nbytes: Dim
    kind: str

    def alive(self, position: int) -> bool:
        """Whether the memory is taken while the node at `position` runs."""
        return self.start <= position <= self.end


@dataclass(frozen=True)
class Intervals:
    """The intervals by name, in order of their start. Constants have none, nor have views of something else."""

    by_name: Mapping[str, Interval]
    roots: Mapping[str, str]
    """For every view, the name of the value whose memory it shows."""
    length: int
    """Number of nodes."""
    default_symbols: Mapping[str, int]

    def peak(self, symbols: Mapping[str, int] | None = None, *, inputs: bool = False) -> tuple[int, int]:
        """Most bytes taken at once, and the position of the (first) node where they are. Symbols without a value count
        as their upper bound, or 1. `inputs`: whether the graph's inputs count."""
        known = {**self.default_symbols, **(symbols or {})}
        change = [0] * (self.length + 2)
        for interval in self.by_name.values():
            if interval.kind == "input" and not inputs:
                continue
            size = dims.evaluate(interval.nbytes, known)
            change[max(0, interval.start)] += size
            change[interval.end + 1] -= size
        best, where, now = 0, 0, 0
        for position, delta in enumerate(change):
            now += delta
            if now > best:
                best, where = now, position
        return best, where

    def alive(self, position: int) -> list[Interval]:
        """What takes memory while the node at `position` runs."""
        return [i for i in self.by_name.values() if i.alive(position)]


@dataclass(frozen=True)
class Liveness(Analysis):
    """`Intervals` of a graph. A view (reshape, slice ...) counts as its operand's memory, kept as long as either is
    used; backends that must copy take more. Nested graphs count as one node."""

    name = "liveness"

    def run(self, graph: Graph, context: Context) -> Intervals:
        """Compute the intervals."""
        length = len(graph)
        root: dict[Value, Value | None] = {}
        start: dict[Value, int] = {}
        end: dict[Value, int] = {}
        for value in graph.inputs:
            root[value], start[value], end[value] = value, -1, -1
        for position, node in enumerate(graph.nodes):
            for operand in node.operands:
                owner = None if operand is None else root[operand]
                if owner is not None:
                    end[owner] = position
            for value in node.results:
                if node.op.name == "const" or not isinstance(value.type, TensorType):
                    root[value] = None
                elif node.op.view:
                    root[value] = root[node.operand(0)]
                else:
                    root[value], start[value], end[value] = value, position, position
        returned = {root[v] for v in graph.outputs}
        for owner in returned:
            if owner is not None:
                end[owner] = length
        found = {
            v.name: Interval(v.name, start[v], end[v], v.tensor.nbytes, _kind(v, v in returned))
            for v in start if isinstance(v.type, TensorType)
        }
        views = {v.name: owner.name for v, owner in root.items() if owner is not None and owner is not v}
        return Intervals(found, views, length, assume_symbols(graph, {}))


def _kind(value: Value, returned: bool) -> str:
    if value.producer is None:
        return "input"
    return "output" if returned else "intermediate"

"""Coupling: which channels, heads and units can be removed, and what must go with each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mcomp.ir.dims import Dim
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.manager.analysis import Analysis
from mcomp.manager.context import Context
from mcomp.ops.workload import PRODUCTS
from mcomp.passes.analysis.ties import Contraction, Ties, axis_rule_of

Kind = Literal["channels", "heads", "ffn", "stream"]


@dataclass(frozen=True, eq=False)
class AxisUse:
    """An axis that a dimension takes part in. `positions`: i64[units, m], where each unit's elements lie on it."""

    value: Value
    axis: int
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class Consumer:
    """A product that sums over a dimension. `weight`: the operand that is its constant weight; None where it is computed.
    `positions`: i64[units, m] along `axis` of the operand."""

    node: Node
    operand: int
    axis: int
    weight: int | None
    weight_axis: int
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class Dimension:
    """Units that lie on the same axes: each can go without the others, and takes an element of every axis with it.

    `name` is unique and the same for every run: the first constant that makes units, the axis, and where they start on it;
    a number where that was a name before.
    kind: channels (of convolutions and all else), heads (of attention), ffn (inner units between linear layers), stream
    (of a residual stream, which additions go into). `producers`: axes of constants that make the units; `consumers`:
    products that sum over them; `axes`: all axes. `macs`, `nbytes`: multiplications for one sample (symbols at their
    assumed values) and bytes of constants that one unit takes while all others are there. `note`: why what stays changes
    when units go, empty when it does not.
    """

    index: int
    name: str
    kind: Kind
    classes: np.ndarray
    axes: tuple[AxisUse, ...]
    producers: tuple[AxisUse, ...]
    consumers: tuple[Consumer, ...]
    nodes: tuple[Node, ...]
    paths: tuple[str, ...]
    macs: int = 0
    nbytes: int = 0
    note: str = ""

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.classes)

    def __str__(self) -> str:
        return f"{self.name}: {self.size} {self.kind}, {self.macs} multiplications and {self.nbytes} bytes each"


@dataclass(frozen=True, eq=False)
class FrozenAxis:
    """The axis of what a layer gives that cannot shrink, and why."""

    node: Node
    size: int
    reason: str


@dataclass(frozen=True, eq=False)
class Coupling:
    """The dimensions of a graph, in the order of their first producers, and the outputs of layers that belong to none.

    A constant that several nodes use ties them; see `narrow.own_constants` where it is only equal by chance.
    """

    dimensions: tuple[Dimension, ...]
    frozen: tuple[FrozenAxis, ...]
    labels: Mapping[tuple[Value, int], np.ndarray] = field(repr=False)
    """The class of every element of every axis of static size."""
    classes: int = 0

    def removal(self, units: Mapping[Dimension, Sequence[int] | np.ndarray]) -> Removal:
        """What goes when these units of dimensions go."""
        gone = np.zeros(self.classes, bool)
        for dimension, chosen in units.items():
            gone[dimension.classes[np.asarray(chosen, np.int64)]] = True
        return Removal(self, gone)


@dataclass(frozen=True, eq=False)
class Removal:
    """Classes of units that go; bool[classes]."""

    coupling: Coupling
    gone: np.ndarray

    def kept(self, value: Value, axis: int) -> np.ndarray | None:
        """The indices of the elements of an axis that stay, ascending; None when all do."""
        labels = self.coupling.labels.get((value, axis))
        if labels is None or not self.gone[labels].any():
            return None
        return np.flatnonzero(~self.gone[labels])

    def size(self, value: Value, axis: int) -> Dim:
        """The size of an axis afterwards."""
        kept = self.kept(value, axis)
        return value.tensor.shape[axis] if kept is None else len(kept)

    def below(self, value: Value, axis: int, stop: int) -> int:
        """How many of the elements before `stop` stay."""
        kept = self.kept(value, axis)
        return stop if kept is None else int(np.searchsorted(kept, stop))

    def shape(self, value: Value) -> tuple[Dim, ...]:
        """The shape of a value afterwards."""
        return tuple(self.size(value, axis) for axis in range(value.tensor.rank))


@dataclass(frozen=True)
class CouplingAnalysis(Analysis):
    """The `Coupling` of a graph. Nodes of nested graphs are not looked into: what they compute with is frozen."""

    name = "coupling"

    def run(self, graph: Graph, context: Context) -> Coupling:
        """Tie all axes and read off the dimensions."""
        ties = tie_graph(graph)
        return _Reader(graph, ties).coupling()


def tie_graph(graph: Graph) -> Ties:
    """The ties of all nodes of a graph."""
    ties = Ties(graph)
    for value in graph.inputs:
        ties.freeze_value(value, "it is an input of the model")
    for node in graph.nodes:
        for value in node.results:
            if isinstance(value.type, TensorType):
                for axis in range(value.type.rank):
                    ties.units(value, axis)
        rule = axis_rule_of(node.op)
        if rule is None:
            ties.freeze_node(node, f"nothing says how {node.op.name} treats its axes")
        elif all(v is None or isinstance(v.type, TensorType) for v in (*node.operands, *node.results)):
            rule.tie(node, ties)
        else:
            ties.freeze_node(node, f"{node.op.name} computes with numbers")
    for value in graph.outputs:
        ties.freeze_value(value, "the model returns it")
    return ties


class _Reader:
    """Reads dimensions off solved ties."""

    def __init__(self, graph: Graph, ties: Ties) -> None:
        self.graph = graph
        self.ties = ties
        roots = ties.solve()
        _, flat = np.unique(roots, return_inverse=True)
        self.count = int(flat.max()) + 1 if len(flat) else 0
        self.labels = {key: flat[ids] for key, ids in ties.ids.items()}
        self.flat = flat
        self.frozen = np.zeros(self.count, bool)
        self.reasons: dict[int, str] = {}
        for ids, reason in ties.frozen:
            fresh = np.unique(flat[ids])
            fresh = fresh[~self.frozen[fresh]]
            self.frozen[fresh] = True
            self.reasons.update((int(c), reason) for c in fresh)

    def coupling(self) -> Coupling:
        owner, members = self._dimensions()
        axes: list[list[AxisUse]] = [[] for _ in members]
        for (value, axis), labels in self.labels.items():
            for d in np.unique(owner[labels]):
                if d >= 0:
                    axes[d].append(AxisUse(value, axis, _positions(labels, members[d])))
        found = [self._dimension(i, members[i], uses) for i, uses in enumerate(axes)]
        found = [d for d in found if d.producers and d.size > 1]
        found.sort(key=lambda d: min((self.graph.position(n) for n in d.nodes), default=0))
        from mcomp.passes.analysis.operations import with_costs

        labels = dict(self.labels)
        draft = Coupling(_apart(found), tuple(self._frozen_layers()), labels, self.count)
        return with_costs(self.graph, draft)

    def _dimensions(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The dimension of every class (-1: frozen), and the classes of every dimension in order of appearance."""
        rng = np.random.default_rng(0)
        signature = np.zeros(self.count, np.uint64)
        for labels in self.labels.values():
            mark = rng.integers(1, 1 << 63, dtype=np.uint64)
            np.add.at(signature, labels, mark)
        free = np.flatnonzero(~self.frozen)
        owner = np.full(self.count, -1)
        members: dict[int, list[int]] = {}
        for c in free:
            members.setdefault(int(signature[c]), []).append(int(c))
        for i, classes in enumerate(members.values()):
            owner[classes] = i
        return owner, [np.array(c) for c in members.values()]

    def _dimension(self, index: int, classes: np.ndarray, uses: list[AxisUse]) -> Dimension:
        by_axis = {(u.value, u.axis): u for u in uses}
        consumers = [
            _consumer(c, by_axis[c.node.operand(c.operand), c.axis]) for c in self.ties.contractions
            if (c.node.operand(c.operand), c.axis) in by_axis
        ]
        read = {(c.node.operand(c.weight), c.weight_axis) for c in consumers if c.weight is not None}
        producers = [u for u in uses if u.value.is_const and (u.value, u.axis) not in read]
        makers = [n for u in producers for n in u.value.users]
        nodes = tuple(dict.fromkeys([*makers, *(c.node for c in consumers)]))
        first = min(makers, key=self.graph.position, default=None)
        kind = self._kind(by_axis, makers, consumers)
        notes = [note for ids, note in self.ties.inexact if np.isin(self.flat[ids], classes).any()]
        return Dimension(
            index, _name(first, producers), kind, classes, tuple(uses), tuple(producers), tuple(consumers),
            nodes, tuple(dict.fromkeys(n.layer for n in nodes if n.loc.layer)), note=notes[0] if notes else "",
        )

    def _kind(
        self, uses: Mapping[tuple[Value, int], AxisUse], makers: Sequence[Node], consumers: Sequence[Consumer]
    ) -> Kind:
        if any(key in uses for key in self.ties.heads):
            return "heads"
        if any(key in uses for key in self.ties.sums):
            return "stream"
        products = [n for n in makers if n.op.name in PRODUCTS] + [c.node for c in consumers]
        return "ffn" if consumers and all(n.op.name == "linear" for n in products) else "channels"

    def _frozen_layers(self) -> list[FrozenAxis]:
        out = []
        for node in self.graph.nodes:
            axis = {"linear": -1, "conv": 1, "conv_transpose": 1}.get(node.op.name)
            if axis is None or node.operand(1).weight is None:
                continue
            labels = self.labels.get((node.result, axis % node.type.rank))
            if labels is not None and labels.size and self.frozen[labels].all():
                out.append(FrozenAxis(node, len(labels), self.reasons[int(labels[0])]))
        return out


def _apart(found: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Dimensions with names of their own: those that a name is given to again end in #2, #3 and so on."""
    counts: dict[str, int] = {}
    named = []
    for dimension in found:
        count = counts[dimension.name] = counts.get(dimension.name, 0) + 1
        named.append(dimension if count == 1 else replace(dimension, name=f"{dimension.name}#{count}"))
    return tuple(named)


def _name(maker: Node | None, producers: Sequence[AxisUse]) -> str:
    """`fc1.weight:0`, with `@start` where the units do not start at 0."""
    own = [u for u in producers if maker is not None and maker in u.value.users]
    use = max(own, key=lambda u: u.value.tensor.rank, default=None)
    if use is None or use.value.producer is None:
        return ""
    start = int(use.positions.min())
    return f"{use.value.producer.attrs['name']}:{use.axis}" + (f"@{start}" if start else "")


def _consumer(c: Contraction, use: AxisUse) -> Consumer:
    constant = c.node.operand(c.weight).is_const
    return Consumer(c.node, c.operand, c.axis, c.weight if constant else None, c.weight_axis, use.positions)


def _positions(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Where the elements of each class lie, i64[classes, m]; each class has as many."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    first = np.searchsorted(ordered, classes)
    each = int(np.searchsorted(ordered, classes[0], side="right") - first[0])
    return order[first[:, None] + np.arange(each)]


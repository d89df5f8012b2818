"""Pieces of a graph at other widths: what a layer takes once units of dimensions are gone, without cutting its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.graph import Graph, Node
from mcomp.ir.store import WeightStore
from mcomp.passes.analysis.coupling import Coupling, Dimension, Removal
from mcomp.passes.analysis.ties import axis_rule_of
from mcomp.passes.compress.factors import rank_step
from mcomp.passes.compress.sequences import sequence_piece
from mcomp.passes.compress.treatment import Treatment, gives_bytes, part_type, piece, untouched_parts

Units = Mapping[Dimension, np.ndarray]


class Shapes:
    """Shapes of a graph's nodes when units of dimensions go."""

    def __init__(self, graph: Graph, coupling: Coupling) -> None:
        self.graph, self.coupling = graph, coupling
        self.symbols = assume_symbols(graph, {})
        self._removals: dict[tuple[tuple[str, int], ...], Removal] = {}

    def removal(self, units: Units) -> Removal:
        """What goes with units; the units of a dimension always go in the same order."""
        key = tuple((d.name, len(u)) for d, u in units.items())
        if key not in self._removals:
            self._removals[key] = self.coupling.removal(units)
        return self._removals[key]

    def weight_shape(self, node: Node, units: Units) -> tuple[int, ...]:
        """The shape of a layer's weight afterwards."""
        weight = node.operand(1)
        if not units:
            return weight.tensor.static_shape
        return tuple(dims.evaluate(d, {}) for d in self.removal(units).shape(weight))

    def nbytes(self, node: Node, units: Units, treatment: Treatment) -> int:
        """Bytes of the weights of a linear or conv afterwards."""
        shape = self.weight_shape(node, units)
        parts = untouched_parts(shape, self._attrs(node, units), scaled(treatment, node, shape), node.op.name == "conv")
        precision = (treatment.bits, treatment.activations)
        return sum(dims.evaluate(part_type(node, part, precision).nbytes, {}) for part in parts)

    def operations(self, node: Node, units: Units) -> float:
        """Operations of a node afterwards, sizes that are symbols at their bounds, or 1."""
        removal = self.removal(units)
        types = [None if v is None else v.tensor.with_shape(removal.shape(v)) for v in node.operands]
        results = [v.tensor.with_shape(removal.shape(v)) for v in node.results]
        return float(dims.evaluate(node.op.cost(types, results, self._attrs(node, units)).flops, self.symbols))

    def piece(self, node: Node, units: Units, treatment: Treatment) -> Graph:
        """A graph that takes the time that the node takes afterwards."""
        small = self._narrowed(node, units) if units else node
        if node.op.name not in ("linear", "conv"):
            return sequence_piece(small, treatment)
        fitting = scaled(treatment, node, small.operand(1).tensor.static_shape)
        return piece(small, fitting, bytes_behind=gives_bytes(node))

    def _attrs(self, node: Node, units: Units) -> dict[str, object]:
        rule = axis_rule_of(node.op)
        changed = rule.attrs(node, self.removal(units)) if units and rule is not None and rule.attrs is not None else None
        return {**node.attrs, **(changed or {})}

    def _narrowed(self, node: Node, units: Units) -> Node:
        """The node in a graph of its own, with narrower operands."""
        removal = self.removal(units)
        graph = Graph("piece", WeightStore())
        graph.symbols = dict(self.graph.symbols)
        values = {}
        for value in dict.fromkeys(v for v in node.operands if v is not None and not v.is_const):
            values[value] = graph.add_input(value.name, value.tensor.with_shape(removal.shape(value)))
        with graph.edit("piece") as editor:
            for value in dict.fromkeys(v for v in node.operands if v is not None and v.is_const):
                shape = tuple(dims.evaluate(d, {}) for d in removal.shape(value))
                values[value] = editor.const(np.zeros(shape, value.tensor.dtype.numpy), name=value.name)
            small = editor.add(
                node.op, [None if v is None else values[v] for v in node.operands], self._attrs(node, units), loc=node.loc,
            )
        graph.set_outputs(list(small.results))
        return small


def scaled(treatment: Treatment, node: Node, shape: Sequence[int]) -> Treatment:
    """A treatment of a layer for a weight of another shape: factors that leave the same share of it, and blocks where they
    fit."""
    old = node.operand(1).tensor.static_shape
    if treatment.block is not None and any(size % each for size, each in zip(shape, treatment.block)):
        return replace(treatment, block=None, gone=0.0)
    if treatment.scheme in (None, "table") or tuple(shape) == old:
        return treatment
    outputs, inputs = shape[0] / old[0], shape[1] / old[1]
    factors = (inputs, outputs) if treatment.scheme == "tucker" else (_breadth(shape) / _breadth(old),)
    ranks = tuple(_stepped(rank * factor) for rank, factor in zip(treatment.ranks, factors))
    return replace(treatment, ranks=ranks)


def _stepped(rank: float) -> int:
    """The nearest rank in the steps that fit its size."""
    step = rank_step(round(rank))
    return max(1, round(rank / step) * step)


def _breadth(shape: Sequence[int]) -> float:
    """What the rank of a factorization that leaves a certain share of a weight is in proportion to."""
    rows, columns = shape[0], prod(shape[1:])
    return rows * columns / (rows + columns)

"""Operations of a graph as a function of how many units its dimensions keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.encoding import Affine, Scaled
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.workload import PRODUCTS
from mcomp.passes.analysis.coupling import Coupling


class Operations:
    """Floating-point operations of a graph's products when dimension i keeps `counts[i]` of its units.

    Sizes that are symbols count as their upper bound, or 1.
    """

    def __init__(self, graph: Graph, coupling: Coupling) -> None:
        self.symbols = assume_symbols(graph, {})
        self.sizes = np.array([d.size for d in coupling.dimensions], np.int64)
        self._lost: dict[Value, dict[int, list[tuple[int, int]]]] = {}
        for i, dimension in enumerate(coupling.dimensions):
            for use in dimension.axes:
                axes = self._lost.setdefault(use.value, {})
                axes.setdefault(use.axis, []).append((i, use.positions.shape[1]))
        self.nodes = [n for n in graph.nodes if n.op.name in PRODUCTS]
        self._of: list[list[int]] = [[] for _ in coupling.dimensions]
        for at, node in enumerate(self.nodes):
            for i in sorted(self._touching(node)):
                self._of[i].append(at)
        self._constants = [n.result for n in graph.nodes if n.op.name == "const"]

    def total(self, counts: Sequence[int] | np.ndarray | None = None) -> int:
        """Operations of all products."""
        left = self.sizes if counts is None else np.asarray(counts)
        return sum(self._flops(n, left) for n in self.nodes)

    def saved(self, counts: np.ndarray, dimension: int, fewer: int) -> int:
        """Operations saved when one dimension loses `fewer` more units."""
        less = counts.copy()
        less[dimension] -= fewer
        return sum(self._flops(self.nodes[at], counts) - self._flops(self.nodes[at], less) for at in self._of[dimension])

    def nbytes(self, counts: Sequence[int] | np.ndarray | None = None) -> int:
        """Bytes of all constants."""
        left = self.sizes if counts is None else np.asarray(counts)
        return sum(dims.evaluate(self._type(v, left, True).nbytes, self.symbols) for v in self._constants)

    def _touching(self, node: Node) -> set[int]:
        return {
            i for v in (*node.operands, *node.results) if v is not None
            for uses in self._lost.get(v, {}).values() for i, _ in uses
        }

    def _type(self, value: Value, counts: np.ndarray, encoded: bool = False) -> TensorType:
        type = value.tensor
        lost = self._lost.get(value)
        plain = type.encoding if encoded and isinstance(type.encoding, (Affine, Scaled)) else type.dense().encoding
        if not lost:
            return type if encoded else replace(type, encoding=plain)
        shape = list(type.shape)
        for axis, uses in lost.items():
            shape[axis] = dims.add(shape[axis], -sum(int(self.sizes[i] - counts[i]) * each for i, each in uses))
        return TensorType(tuple(shape), type.dtype, plain)

    def _flops(self, node: Node, counts: np.ndarray) -> int:
        types = [None if v is None else self._type(v, counts) for v in node.operands]
        results = [self._type(v, counts) for v in node.results]
        return dims.evaluate(node.op.cost(types, results, node.attrs).flops, self.symbols)


def with_costs(graph: Graph, coupling: Coupling) -> Coupling:
    """The coupling with the multiplications and bytes of one unit of each dimension."""
    operations = Operations(graph, coupling)
    full = operations.sizes
    nbytes = operations.nbytes()
    costed = []
    for i, dimension in enumerate(coupling.dimensions):
        less = full.copy()
        less[i] -= 1
        costed.append(replace(
            dimension, index=i, macs=operations.saved(full, i, 1) // 2, nbytes=nbytes - operations.nbytes(less),
        ))
    return replace(coupling, dimensions=tuple(costed))

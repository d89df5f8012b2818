"""The work of a node in numbers: operations by the kind of unit that does them, and bytes by what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.encoding import NM, Affine, BlockSparse, Encoding, Scaled
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.base import total_bytes

PRODUCTS = frozenset({
    "linear", "matmul", "grouped_matmul", "bilinear", "conv", "conv_transpose", "attention", "lstm", "gru", "rnn",
})
"""Operators whose work is matrix products."""


@dataclass(frozen=True)
class Workload:
    """One execution of a node. `work`: operations by kind (`f32`, `bf16`, `f64`, `i8` for matrix products, `scalar` for
    the rest). `read`, `write`: bytes in all; `weights`: how many of the bytes read are constants."""

    work: Mapping[str, int] = field(default_factory=dict)
    read: int = 0
    write: int = 0
    weights: int = 0

    @property
    def flops(self) -> int:
        """Operations of all kinds."""
        return sum(self.work.values())

    @property
    def compute(self) -> str:
        """The kind of most of the matrix products; f32 when there are none."""
        products = {kind: n for kind, n in self.work.items() if kind != "scalar"}
        return max(products, key=lambda kind: products[kind]) if products else "f32"


def workload(node: Node, symbols: Mapping[str, int]) -> Workload:
    """The work of a node for given symbol values. Views and constants do none. Raises KeyError for unknown symbols."""
    if node.op.view or node.op.name in ("const", "return"):
        return Workload()
    cost = node.op.node_cost(node)
    read, write = dims.evaluate(cost.read, symbols), dims.evaluate(cost.write, symbols)
    weights = _weight_bytes(node, symbols)
    if not node.bodies:
        return Workload({_kind(node): dims.evaluate(cost.flops, symbols)}, read, write, min(weights, read))
    bodies = node.bodies
    if node.op.name == "cond":
        bodies = (max(bodies, key=lambda body: sum(workload(n, symbols).flops for n in body.nodes)),)
    inside = [n for body in bodies for n in body.nodes]
    constants = {v for n in inside for v in n.operands if v is not None and v.is_const}
    work: dict[str, int] = {}
    for inner in inside:
        for kind, flops in workload(inner, symbols).work.items():
            work[kind] = work.get(kind, 0) + flops
    own = dims.evaluate(total_bytes([v.tensor for v in constants]), symbols)
    return Workload(work, read + own, write, min(weights, read) + own)


def operations(graph: Graph, sizes: Mapping[str, int] = MappingProxyType({})) -> int:
    """Operations of a call of a graph: all but views, symbolic sizes as in `sizes`, or at their bounds, or 1."""
    known = {**assume_symbols(graph, {}), **sizes}
    return sum(workload(n, known).flops for n in graph.nodes)


def compute_kind(node: Node) -> str:
    """The element type of a product node's arithmetic: `i8` when all of its first two operands are integers of at most
    8 bits, `f8e4m3` when both are scaled floats of 8, else the logical type of the first."""
    first = node.operand(0).tensor
    second = node.maybe(1)
    if second is not None and isinstance(first.encoding, Scaled) and isinstance(second.tensor.encoding, Scaled):
        return first.encoding.dtype.name
    if second is not None and _is_integer(first.encoding) and _is_integer(second.tensor.encoding):
        return "i8"
    return first.dtype.name


def _kind(node: Node) -> str:
    return compute_kind(node) if node.op.name in PRODUCTS else "scalar"


def _is_integer(encoding: Encoding) -> bool:
    if isinstance(encoding, (NM, BlockSparse)):
        return _is_integer(encoding.inner)
    return isinstance(encoding, Affine)


def _weight_bytes(node: Node, symbols: Mapping[str, int]) -> int:
    types = [v.type for v in dict.fromkeys(node.operands) if v is not None and _is_weight(v)]
    return dims.evaluate(total_bytes([t for t in types if isinstance(t, TensorType)]), symbols)


def _is_weight(value: Value | None) -> bool:
    """Whether a value is a constant, or a view or decoding of one."""
    while value is not None and value.producer is not None and not value.is_const:
        if not value.producer.op.view:
            return False
        value = value.producer.maybe(0)
    return value is not None and value.is_const

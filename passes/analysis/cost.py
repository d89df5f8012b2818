"""Cost: what each node and the whole graph take in operations, bytes and, by a device profile, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Encoding, Scaled
from mcomp.ir.graph import Graph, Node
from mcomp.ir.types import TensorType
from mcomp.manager.analysis import Analysis
from mcomp.manager.context import Context
from mcomp.ops.workload import Workload, workload
from mcomp.passes.analysis.liveness import Intervals, Liveness
from mcomp.plan.profile import DeviceProfile


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One node: operations, bytes read, written and read from constants, and predicted microseconds (None without a
    profile)."""

    name: str
    op: str
    layer: str
    flops: int
    read: int
    write: int
    weights: int
    time_us: float | None


@dataclass(frozen=True)
class GraphCost:
    """The whole graph. Numbers are for `symbols`; `symbolic_flops` holds for all sizes."""

    nodes: tuple[NodeCost, ...]
    symbols: Mapping[str, int]
    symbolic_flops: Dim
    weight_bytes: Mapping[str, int]
    """Bytes of the constants by encoding (`f32`, `i8`, `i8 nm`, `f32 blocksparse` ...); each constant once."""
    peak_activation_bytes: int
    """Most bytes of intermediate results and outputs at once."""
    peak_node: str
    """Where that is."""

    @property
    def flops(self) -> int:
        return sum(n.flops for n in self.nodes)

    @property
    def read(self) -> int:
        """Bytes read by all nodes."""
        return sum(n.read for n in self.nodes)

    @property
    def write(self) -> int:
        """Bytes written by all nodes."""
        return sum(n.write for n in self.nodes)

    @property
    def total_weight_bytes(self) -> int:
        return sum(self.weight_bytes.values())

    @property
    def time_us(self) -> float | None:
        """Predicted microseconds of all nodes; None without a profile."""
        times = [n.time_us for n in self.nodes if n.time_us is not None]
        return sum(times) if len(times) == len(self.nodes) else None

    def node(self, name: str) -> NodeCost:
        """The cost of the node that makes the value of this name. Raises KeyError."""
        for n in self.nodes:
            if n.name == name:
                return n
        raise KeyError(name)


@dataclass(frozen=True)
class Cost(Analysis):
    """`GraphCost` of a graph. `symbols`: (name, value) pairs for symbolic sizes; others count as their upper bound, or
    1. `profile`: predict times for this device; views take none, every other node at least one kernel call."""

    name = "cost"
    symbols: tuple[tuple[str, int], ...] = ()
    profile: DeviceProfile | None = None

    def run(self, graph: Graph, context: Context) -> GraphCost:
        """Compute the costs."""
        known = assume_symbols(graph, dict(self.symbols))
        weights = weight_bytes(graph)
        footprint = sum(weights.values())
        rows = tuple(
            self._node(node, workload(node, known), footprint) for node in graph.nodes if node.op.name != "const"
        )
        symbolic: Dim = 0
        for node in graph.nodes:
            if not node.op.view:
                symbolic = dims.add(symbolic, node.op.node_cost(node).flops)
        intervals: Intervals = context.analyze(graph, Liveness())
        peak, where = intervals.peak(known)
        names = [n.name for n in graph.nodes]
        return GraphCost(rows, known, symbolic, weights, peak, names[where] if where < len(names) else "return")

    def _node(self, node: Node, load: Workload, footprint: int) -> NodeCost:
        time_us: float | None = None
        if self.profile is not None:
            moved = float(load.read + load.write - load.weights)
            time_us = 0.0 if node.op.view else self.profile.predict_us(
                load.work, moved, weights=load.weights, all_weights=footprint
            )
        return NodeCost(
            node.name, node.op.name, node.layer, load.flops, load.read, load.write, load.weights, time_us
        )


def weight_bytes(graph: Graph) -> dict[str, int]:
    """Bytes of the constants of a graph and its nested graphs by encoding; equal constants count once."""
    seen: dict[str, TensorType] = {
        node.attrs["digest"]: node.type for node in graph.walk() if node.op.name == "const"
    }
    found: dict[str, int] = {}
    for type in seen.values():
        key = _family(type, type.encoding)
        found[key] = found.get(key, 0) + dims.evaluate(type.nbytes, {})
    return found


def _family(type: TensorType, encoding: Encoding) -> str:
    if isinstance(encoding, (Affine, Scaled)):
        return encoding.dtype.name
    if isinstance(encoding, NM):
        return f"{_family(type, encoding.inner)} nm"
    if isinstance(encoding, BlockSparse):
        return f"{_family(type, encoding.inner)} blocksparse"
    return type.dtype.name if encoding == DENSE else str(encoding)

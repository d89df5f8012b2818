"""Finding regions of a graph that can be computed as one kernel.

Every region runs where its last node stands. Two facts make that right, and keep the graph free of cycles: what a region
reads is defined before its last node, and nobody outside of it reads one of its values before its last node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mcomp.ir.dims import Dim, Expr
from mcomp.ir.encoding import DENSE, Affine, Scaled
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.linear import multiplies_rows

MATRIX_ANCHORS = frozenset({"linear", "matmul", "grouped_matmul", "conv", "conv_transpose", "attention"})
NORM_ANCHORS = frozenset({"layer_norm", "rms_norm", "group_norm", "batch_norm", "softmax", "log_softmax"})
ROW_ANCHORS = frozenset({"layer_norm", "rms_norm", "softmax", "log_softmax"})
"""Norms that are computed row by row where they go along the last axes."""
REDUCTIONS = frozenset({
    "sum", "mean", "amax", "amin", "prod", "all", "any", "logsumexp", "var", "std", "norm", "softmax", "log_softmax",
    "layer_norm", "rms_norm",
})
"""Operators that read their first operand in rows, so that it can be computed on the way."""
_UNFUSED_TYPES = frozenset({"complex64", "f8e4m3", "f8e5m2", "i4", "i3", "i2", "u4"})


@dataclass(eq=False)
class Region:
    """Nodes for one kernel, in order. kind: elementwise; epilogue: the first node is the anchor; inputs: a linear is, with
    pointwise nodes before it; reduction: the last node is; rotary: an attention is, with a rope before queries or keys;
    rows: a norm among them is; pair: two products, the first node and the one that reads its result."""

    kind: str
    nodes: list[Node] = field(default_factory=list)


def is_pointwise(node: Node) -> bool:
    """Whether a node computes each element from the operands' elements at that place, in types that kernels know, and
    somebody uses it."""
    from mcomp.ops.elementwise import ElementWise

    if not isinstance(node.op, ElementWise) or not node.results[0].uses:
        return False
    return all(_plain(v) for v in (*node.operands, *node.results) if v is not None)


def _plain(value: Value) -> bool:
    type = value.type
    return isinstance(type, TensorType) and type.encoding == DENSE and type.dtype.name not in _UNFUSED_TYPES


def is_static_quantize(node: Node) -> bool:
    """Whether a node quantizes with a scale known when compiling: it may end a kernel."""
    return node.op.name == "quantize" and node.attrs["scale"] is not None and bool(node.results[0].uses)


def is_row_quantize(node: Node, norm: Node) -> bool:
    """Whether a node quantizes to bytes, or floats of 8 bits, with scales that a kernel over the rows of a norm has at
    hand."""
    encoding = node.results[0].tensor.encoding if node.op.name == "quantize" else None
    if not isinstance(encoding, (Affine, Scaled)) or encoding.dtype.bits != 8 or not node.results[0].uses:
        return False
    rows = tuple(range(norm.results[0].tensor.rank - 1))
    return encoding.scale is not None or (encoding.axis == rows and norm.attrs.get("axes_count", 1) == 1)


def second_of_pair(first: Node) -> list[Node]:
    """The product that alone reads the narrow result of a first one, behind the quantize between them if there is one;
    empty when there is no such product. Both multiply rows by constants, either of floats or both of bytes."""
    if not multiplies_rows(first) or not first.operand(1).is_const or first.type.dtype.name in _UNFUSED_TYPES:
        return []
    between: list[Node] = []
    last = first
    while len(users := set(last.results[0].users)) == 1:
        (last,) = users
        if last.op is first.op:
            break
        if between or not _is_byte_quantize(last, first):
            return []
        between = [last]
    else:
        return []
    if not multiplies_rows(last) or not last.operand(1).is_const:
        return []
    inner, outer = first.operand(1).tensor, last.operand(1).tensor
    rank, narrow = inner.shape[0], (inner.shape[1], outer.shape[0])
    if not isinstance(rank, int) or any(not isinstance(size, int) or rank >= size for size in narrow):
        return []
    stored = (first.operand(0).tensor, inner, outer)
    fits = all(isinstance(t.encoding, Affine) for t in stored) if between else all(t.encoding == DENSE for t in stored)
    return [*between, last] if fits else []


def _is_byte_quantize(node: Node, first: Node) -> bool:
    encoding = node.results[0].tensor.encoding if node.op.name == "quantize" else None
    if not isinstance(encoding, Affine) or encoding.dtype.bits != 8:
        return False
    rows = tuple(range(first.results[0].tensor.rank - 1))
    return encoding.scale is not None or (encoding.axis == rows and first.op.name == "linear")


def goes_along_rows(node: Node) -> bool:
    """Whether a node normalizes the last axes of what it reads."""
    if node.op.name in ("softmax", "log_softmax"):
        return bool(node.attrs["axis"] == node.results[0].tensor.rank - 1)
    return node.op.name in ROW_ANCHORS and node.attrs["axes_count"] > 0


def goes_inside(value: Value) -> bool:
    """Whether a value is a number that a kernel holds itself: `full` of a number, or a constant of one element."""
    node = value.producer
    if node is None or not isinstance(value.type, TensorType):
        return False
    if node.op.name == "full":
        return not isinstance(node.attrs["value"], Expr) and value.tensor.dtype.name not in _UNFUSED_TYPES
    return node.op.name == "const" and value.tensor.encoding == DENSE and all(d == 1 for d in value.tensor.shape)


class Planner:
    """Plans regions of one graph, which must not change meanwhile."""

    def __init__(self, graph: Graph, max_size: int) -> None:
        self.graph = graph
        self.max_size = max_size
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.order[graph.returns] = len(self.order)
        self.owner: dict[Node, Region] = {}

    def plan(
        self, epilogues: bool, reductions: bool, elementwise: bool, pairs: bool, inputs: bool = False
    ) -> list[Region]:
        """Regions of at least two nodes, in order of their last nodes."""
        if pairs:
            self._pairs(epilogues)
        if epilogues:
            self._anchored(MATRIX_ANCHORS, epilogues=True, reductions=False)
        if epilogues and reductions:
            self._rows()
        self._anchored(NORM_ANCHORS | REDUCTIONS, epilogues=epilogues, reductions=reductions)
        if inputs:
            self._inputs()
        if elementwise:
            self._elementwise()
        found = {id(r): r for r in self.owner.values() if len(r.nodes) > 1}
        return sorted(found.values(), key=lambda r: self.order[r.nodes[-1]])

    def _anchored(self, anchors: frozenset[str], *, epilogues: bool, reductions: bool) -> None:
        for node in self.graph.nodes:
            if node.op.name not in anchors or node in self.owner or not node.results[0].uses:
                continue
            if node.results[0].tensor.dtype.name in _UNFUSED_TYPES:
                continue
            behind = self.epilogue(node) if epilogues and node.op.name not in REDUCTIONS - NORM_ANCHORS else [node]
            before = self.prologue(node) if reductions and node.op.name in REDUCTIONS else [node]
            ropes = self.ropes(node) if epilogues and node.op.name == "attention" else []
            if ropes:
                self._claim(Region("rotary", [*ropes, *behind]))
            elif len(before) > len(behind):
                self._claim(Region("reduction", before))
            elif len(behind) > 1:
                self._claim(Region("epilogue", behind))

    def _inputs(self) -> None:
        for node in self.graph.nodes:
            region = self.owner.get(node, Region("", [node]))
            if node.op.name != "linear" or region.nodes[0] is not node or region.kind not in ("", "epilogue"):
                continue
            before = self.prologue(node)[:-1]
            plain = node.results[0].uses and node.operand(0).tensor.dtype.name not in _UNFUSED_TYPES
            if before and plain and len(before) + len(region.nodes) <= self.max_size:
                self._claim(Region("inputs", [*before, *region.nodes]))

    def _pairs(self, epilogues: bool) -> None:
        for node in self.graph.nodes:
            behind = second_of_pair(node)
            if behind and not any(n in self.owner for n in (node, *behind)) and behind[-1].results[0].uses:
                last = self.epilogue(behind[-1]) if epilogues else behind[-1:]
                self._claim(Region("pair", [node, *behind[:-1], *last]))

    def _rows(self) -> None:
        for node in self.graph.nodes:
            if node in self.owner or not goes_along_rows(node) or not node.results[0].uses:
                continue
            if node.results[0].tensor.dtype.name in _UNFUSED_TYPES:
                continue
            nodes = self.rows(node)
            if len(nodes) > 1:
                self._claim(Region("rows", nodes))

    def rows(self, norm: Node) -> list[Node]:
        """A norm, the pointwise nodes before it that nobody else needs, and the pointwise and quantizing nodes behind it
        that can run where the last of them stands."""
        shape = norm.results[0].tensor.shape
        nodes = self.prologue(norm)
        grown = True
        while grown and len(nodes) < self.max_size:
            grown = False
            inside = set(nodes)
            users = {u for n in nodes for v in n.results for u in v.users if u not in inside}
            for user in sorted(users, key=self.order.__getitem__):
                quantizes = is_row_quantize(user, norm) and user not in self.owner
                if not quantizes and not self._free(user, shape):
                    continue
                if user.results[0].tensor.shape != shape:
                    continue
                together = sorted({*nodes, user}, key=self.order.__getitem__)
                if self._runs_last(together):
                    nodes, grown = together, True
                    break
        return nodes

    def _runs_last(self, nodes: list[Node]) -> bool:
        """Whether nodes may all run where the last of them stands."""
        inside, position = set(nodes), self.order[nodes[-1]]
        return all(self._seen_after(n, inside, position) for n in nodes[:-1])

    def _claim(self, region: Region) -> None:
        for node in region.nodes:
            self.owner[node] = region

    def _free(self, node: Node, shape: tuple[Dim, ...]) -> bool:
        return node not in self.owner and is_pointwise(node) and node.results[0].tensor.shape == shape

    def epilogue(self, anchor: Node) -> list[Node]:
        """The anchor and the pointwise nodes behind it that only depend on its region: the longest such run of which only
        the last node is seen outside; and a quantize of that one, which others may read as it is."""
        shape = anchor.results[0].tensor.shape
        nodes, best = [anchor], 1
        inside = {anchor}
        while len(nodes) < self.max_size:
            follower = self._first_user(nodes, inside)
            if follower is None or follower.op is self.graph.returns.op:
                break
            ends = is_static_quantize(follower) and follower not in self.owner
            if not ends and not self._free(follower, shape):
                break
            nodes.append(follower)
            inside.add(follower)
            if self._only_last_seen(nodes, inside):
                best = len(nodes)
            if ends:
                break
        nodes = nodes[:best]
        coded = next((u for u in nodes[-1].results[0].users if is_static_quantize(u) and u not in self.owner), None)
        if coded is not None and self._runs_last([*nodes, coded]):
            nodes.append(coded)
        return nodes

    def _first_user(self, nodes: Iterable[Node], inside: set[Node]) -> Node | None:
        users = [u for n in nodes for v in n.results for u in v.users if u not in inside]
        return min(users, key=self.order.__getitem__, default=None)

    def _only_last_seen(self, nodes: list[Node], inside: set[Node]) -> bool:
        return not any(u not in inside for n in nodes[:-1] for v in n.results for u in v.users)

    def prologue(self, anchor: Node) -> list[Node]:
        """The anchor and the pointwise nodes before its first operand that nobody else needs."""
        x = anchor.operands[0]
        if x is None:
            return [anchor]
        shape = x.tensor.shape
        inside = dict.fromkeys([anchor])
        queue = [x]
        while queue and len(inside) < self.max_size:
            value = queue.pop(0)
            node = value.producer
            if node is None or node in inside or not self._free(node, shape):
                continue
            if any(u not in inside for u in value.users):
                continue
            inside[node] = None
            queue = [v for n in inside if n is not anchor for v in n.operands if v is not None]
        if any(v is not x and v.producer in inside for v in anchor.operands if v is not None):
            return [anchor]
        return sorted(inside, key=self.order.__getitem__)

    def ropes(self, attention: Node) -> list[Node]:
        """The ropes of queries and keys that an attention alone reads. Of keys only where these are as many as the queries:
        few queries, as of a decoder with a cache, would turn all keys anew for every head that reads them."""
        query, key = attention.operands[:2]
        found = []
        for value, fits in ((query, True), (key, key is not None and query is not None
                                            and key.tensor.shape[-2] == query.tensor.shape[-2])):
            rope = None if value is None else value.producer
            if rope is None or value is None or rope.op.name != "rope" or rope in self.owner or not fits:
                continue
            if value.users == (attention,) and sum(v is value for v in attention.operands) == 1:
                found.append(rope)
        return sorted(found, key=self.order.__getitem__)

    def _elementwise(self) -> None:
        for node in self.graph.nodes:
            if node in self.owner:
                continue
            quantizes = is_static_quantize(node)
            if not quantizes and not is_pointwise(node):
                continue
            self._join(node, quantizes)

    def _join(self, node: Node, quantizes: bool) -> None:
        """Put a node into a region with the regions that make its operands, as far as that is right."""
        merged = Region("elementwise", [node])
        shape = node.results[0].tensor.shape
        makers = {id(r): r for v in node.operands if v is not None for r in self._region_of(v)}
        for region in makers.values():
            if region.nodes[-1].results[0].tensor.shape != shape or is_static_quantize(region.nodes[-1]):
                continue
            if len(region.nodes) + len(merged.nodes) > self.max_size:
                continue
            together = {*region.nodes, *merged.nodes}
            if all(self._seen_after(n, together, self.order[node]) for n in together if n is not node):
                merged.nodes = sorted(together, key=self.order.__getitem__)
        if quantizes and len(merged.nodes) == 1:
            return
        self._claim(merged)

    def _region_of(self, value: Value) -> tuple[Region, ...]:
        region = None if value.producer is None else self.owner.get(value.producer)
        return (region,) if region is not None and region.kind == "elementwise" else ()

    def _seen_after(self, node: Node, inside: set[Node], position: int) -> bool:
        """Whether nobody outside of a region reads a node's results before a position."""
        return all(u in inside or self.order[u] > position for v in node.results for u in v.users)

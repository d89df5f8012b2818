"""Fused nodes: a product with what follows as one kernel, a norm with what surrounds it as one kernel, runs of element-wise
nodes as one kernel, the rest alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.expressions import is_scalar
from mcomp.backends.triton.lower.attention import attention
from mcomp.backends.triton.lower.computed import run_before
from mcomp.backends.triton.lower.conv import conv
from mcomp.backends.triton.lower.elementwise import is_static_quantize, lower_region
from mcomp.backends.triton.lower.pair import lower_pair, pair_at
from mcomp.backends.triton.lower.products import linear, matmul
from mcomp.backends.triton.lower.reduce import OTHER, SIMPLE, reduction
from mcomp.backends.triton.lower.rows import batch_norm, lower_rows, norm_with_tail, row_region
from mcomp.backends.triton.lower.tail import Tail
from mcomp.ir.graph import Node
from mcomp.lowering.fused import body_nodes, part_of, run_at, seen_outside, with_tail

Anchor = Callable[[Node, Tail, Builder], "Declined | None"]
ANCHORS: dict[str, Anchor] = {
    "linear": linear, "matmul": matmul, "conv": conv, "conv_transpose": conv, "attention": attention,
    "batch_norm": batch_norm,
    "group_norm": norm_with_tail,
}
"""Operators whose kernels compute a tail, by name."""


@lowers("fused", target=TARGET)
def lower_fused(node: Node, b: Builder) -> Declined | None:
    """The body, in as few kernels as there are for it."""
    nodes = body_nodes(node, b)
    at = 0
    while at < len(nodes):
        at += _piece(nodes, at, b)
    return None


def _piece(nodes: Sequence[Node], at: int, b: Builder) -> int:
    """Lower the nodes that the next kernel takes; returns how many."""

    first = nodes[at]
    pair = pair_at(nodes[at:], b)
    if pair:
        taken = _with_tail(nodes, at, pair, lambda tail: lower_pair(pair, tail, b), b, alone=True)
        if taken:
            return taken
    found = run_before(nodes[at:])
    if found is not None:
        run, product = found
        taken = _with_tail(nodes, at, (*run, product), lambda tail: linear(product, tail, b, run), b, alone=True)
        if taken:
            return taken
    if first.op.name in ANCHORS:
        taken = _with_tail(nodes, at, (first,), lambda tail: ANCHORS[first.op.name](first, tail, b), b)
        if taken:
            return taken
    region = row_region(nodes[at:])
    if region is not None:
        refused = b.attempt(lambda: lower_rows(region, b), part_of(nodes, region.nodes))
        if refused is None:
            return len(region.nodes)
        b.context.missed("lower", region.norm, f"{region.norm.op.name} with what surrounds it: {refused.reason}",
                         refused.remedy)
    reduced = _reduction_at(nodes[at:])
    if reduced is not None:
        *before, last = reduced
        if b.attempt(lambda: reduction(last, before, b), part_of(nodes, reduced)) is None:
            return len(reduced)
    if is_scalar(first):
        run = run_at(nodes, at, None, _follows)
        outputs = seen_outside(run)
        if len(run) > 1 and b.attempt(lambda: lower_region(run, outputs, outputs, b), part_of(nodes, run)) is None:
            return len(run)
    b.lower(first)
    return 1


def _reduction_at(nodes: Sequence[Node]) -> list[Node] | None:
    """Element-wise nodes, with which a run starts, and the reduction behind them that alone reads them."""
    for i, node in enumerate(nodes):
        if node.op.name in (*SIMPLE, *OTHER):
            taken = list(nodes[: i + 1])
            inside = set(taken)
            alone = all(u in inside for n in taken[:-1] for v in n.results for u in v.users)
            shape = node.operand(0).tensor.shape
            return taken if i and alone and all(n.type.shape == shape for n in taken[:-1]) else None
        if not is_scalar(node):
            return None
    return None


def _with_tail(
    nodes: Sequence[Node], at: int, head: Sequence[Node], rule: Callable[[Tail], Declined | None], b: Builder, *,
    alone: bool = False,
) -> int:
    return with_tail(nodes, at, head, rule, Tail, _follows, b, alone=alone)


def _follows(node: Node) -> bool:
    return is_scalar(node) or is_static_quantize(node)

"""Fused nodes: a product or a pair of them with what follows as one kernel, a norm with what surrounds it as one kernel,
a reduction with what precedes it as one kernel, runs of element-wise nodes as one kernel, the rest alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.builder import TARGET, Builder
from mcomp.backends.cpu.epilogue import Tail
from mcomp.backends.cpu.expressions import is_scalar
from mcomp.backends.cpu.lower.attention import attention, rotary_at
from mcomp.backends.cpu.lower.elementwise import lower_region
from mcomp.backends.cpu.lower.fused_reduce import lower_reduced, reduction_at
from mcomp.backends.cpu.lower.fused_rows import NORMS, lower_rows, row_axes, row_region
from mcomp.backends.cpu.lower.pair import lower_pair, pair_at
from mcomp.backends.cpu.lower.products import ANCHORS
from mcomp.ir.dtypes import f64
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node
from mcomp.lowering.fused import body_nodes, part_of, run_at, seen_outside, with_tail


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
    if pair is not None:
        taken = _with_tail(nodes, at, pair.nodes, lambda tail: lower_pair(pair, tail, b), b, alone=True)
        if taken:
            return taken
    rotary = rotary_at(nodes[at:])
    if rotary is not None:
        ropes, node = rotary
        taken = _with_tail(nodes, at, (*ropes, node), lambda tail: attention(node, tail, b, ropes), b, alone=True)
        if taken:
            return taken
    if first.op.name in ANCHORS and not _along_rows(first):
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
    reduced = reduction_at(nodes[at:])
    if reduced is not None:
        *before, last = reduced
        if b.attempt(lambda: lower_reduced(before, last, b), part_of(nodes, reduced)) is None:
            return len(reduced)
    if is_scalar(first):
        run = run_at(nodes, at, None, _follows)
        outputs = seen_outside(run)
        if len(run) > 1 and b.attempt(lambda: lower_region(run, outputs, outputs, b), part_of(nodes, run)) is None:
            return len(run)
    b.lower(first)
    return 1


def _along_rows(node: Node) -> bool:
    """Whether a node normalizes rows, which go together with what surrounds them."""
    return node.op.name in NORMS and row_axes(node) > 0


def _with_tail(
    nodes: Sequence[Node], at: int, head: Sequence[Node], rule: Callable[[Tail], Declined | None], b: Builder, *,
    alone: bool = False,
) -> int:
    return with_tail(nodes, at, head, rule, Tail, _follows, b, alone=alone)


def _follows(node: Node) -> bool:
    return is_scalar(node) or _is_static(node)


def _is_static(node: Node) -> bool:
    encoding = node.results[0].tensor.encoding if node.op.name == "quantize" else None
    if not isinstance(encoding, Affine) or node.operand(0).tensor.dtype is f64:
        return False
    return encoding.scale is not None and encoding.dtype.bits == 8

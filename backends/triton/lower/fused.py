"""Fused nodes: a product with what follows as one kernel, a norm with what surrounds it as one kernel, runs of element-wise
nodes as one kernel, the rest alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.expressions import is_scalar
from mcomp.backends.triton.lower.attention import attention
from mcomp.backends.triton.lower.conv import conv
from mcomp.backends.triton.lower.elementwise import is_static_quantize, lower_region
from mcomp.backends.triton.lower.pair import lower_pair, pair_at
from mcomp.backends.triton.lower.products import linear, matmul
from mcomp.backends.triton.lower.reduce import OTHER, SIMPLE, reduction
from mcomp.backends.triton.lower.rows import batch_norm, lower_rows, norm_with_tail, row_region
from mcomp.backends.triton.lower.tail import Tail
from mcomp.ir.graph import Graph, Node, Value

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
    body: Graph = node.attrs["body"]
    for inside, operand in zip(body.inputs, node.operands):
        if operand is not None:
            b.alias(inside, operand)
    for value, result in zip(body.outputs, node.results):
        b.rename(result, value)
    nodes: list[Node] = []
    for member in body.nodes:
        if member.op.name in ("const", "full"):
            b.lower(member)
        else:
            nodes.append(member)
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
    if first.op.name in ANCHORS:
        taken = _with_tail(nodes, at, (first,), lambda tail: ANCHORS[first.op.name](first, tail, b), b)
        if taken:
            return taken
    region = row_region(nodes[at:])
    if region is not None:
        refused = b.attempt(lambda: lower_rows(region, b), _part(nodes, region.nodes))
        if refused is None:
            return len(region.nodes)
        b.context.missed("lower", region.norm, f"{region.norm.op.name} with what surrounds it: {refused.reason}",
                         refused.remedy)
    reduced = _reduction_at(nodes[at:])
    if reduced is not None:
        *before, last = reduced
        if b.attempt(lambda: reduction(last, before, b), _part(nodes, reduced)) is None:
            return len(reduced)
    if is_scalar(first):
        run = _run(nodes, at, None)
        outputs = _seen_outside(run)
        if len(run) > 1 and b.attempt(lambda: lower_region(run, outputs, outputs, b), _part(nodes, run)) is None:
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
    """Lower a head, at place `at`, with as much of the run behind it as the rule takes; returns how many nodes those are, 0
    when there is no such run. `alone`: the head without any is worth trying too."""
    anchor = head[-1].result
    tail = _run(nodes, at + len(head), anchor)
    while tail or alone:
        taken = [*head, *tail]
        end = Tail(anchor, tuple(tail), tuple((v, v) for v in _seen_outside(taken)))
        refused = b.attempt(lambda end=end: rule(end), _part(nodes, taken))  # type: ignore[misc]
        if refused is None:
            return len(taken)
        name = " and ".join(n.op.name for n in head)
        b.context.missed("lower", head[0], f"{name} with its epilogue: {refused.reason}", refused.remedy)
        alone = alone and bool(tail)
        tail = tail[: len(tail) // 2]
    return 0


def _part(nodes: Sequence[Node], taken: Sequence[Node]) -> Sequence[Node]:
    """Nodes of a body that one kernel takes, as far as those are not all."""
    return taken if len(taken) < len(nodes) else ()


def _run(nodes: Sequence[Node], start: int, anchor: Value | None) -> list[Node]:
    """Nodes from `start` on that are computed element by element, all results of one shape, up to the first that
    quantizes."""
    run: list[Node] = []
    shape = None if anchor is None else anchor.tensor.shape
    for node in nodes[start:]:
        if not is_scalar(node) and not is_static_quantize(node):
            break
        if shape is not None and node.type.shape != shape:
            break
        shape = node.type.shape
        run.append(node)
        if node.op.name == "quantize":
            break
    return run


def _seen_outside(run: Sequence[Node]) -> list[Value]:
    """The values of a run that others use, or that leave the body."""
    inside = set(run)
    return [v for node in run for v in node.results if any(user not in inside for user in v.users)]

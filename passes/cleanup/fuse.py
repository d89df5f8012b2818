"""Fusion: regions that are computed as one kernel become one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.loc import fused
from mcomp.ir.types import TensorType
from mcomp.manager import ALL, Context, Pass, PassEffect, PassResult, register_pass
from mcomp.passes.cleanup.nested import in_branches
from mcomp.passes.cleanup.regions import Planner, Region, goes_inside
from mcomp.rewrite import Outcome
from mcomp.rewrite.driver import drop_dead

_ROUNDS = 8


@register_pass
@dataclass(frozen=True)
class Fuse(Pass):
    """Makes one `fused` node out of nodes that one kernel can compute.

        %h = linear %x, %w, %b : f32[B, 8]            %r = fused %x, %w, %b, %y {kind = "epilogue", body = graph ... {
        %g = gelu %h : f32[B, 8]                        %h = linear %x, %w, %b : f32[B, 8]
        %r = add %g, %y : f32[B, 8]                     %g = gelu %h : f32[B, 8]
                                                        %r = add %g, %y : f32[B, 8]
                                                        return %r
                                                      }} : f32[B, 8]

    `epilogues`: linear, matmul, conv, attention, norms and softmax, first in the body, with the pointwise nodes behind
    them; only the last node is a result. It may be a `quantize` with a known scale; then the node before it may be a
    result too. Ropes of the queries and keys of an attention, which nobody else reads, come before it (kind `rotary`).
    `reductions`: pointwise nodes before a
    reduction, softmax or norm, which comes last in the body; both together: a norm or softmax along the last axes with
    pointwise nodes before it, and pointwise and quantizing nodes behind it, with one or more results (kind `rows`).
    `elementwise`: pointwise nodes of one shape, with one or more results. `pairs`: two products by constants in a row, the
    first of which gives fewer features than it takes and the second makes, such as the factors of a layer; perhaps with a
    quantize between them, and with an epilogue behind them. `inputs`: pointwise nodes before a linear that alone reads what
    they come to, and its epilogue (kind `inputs`), for targets whose products can compute what they multiply. Numbers
    (`full`) go into the body. A body has at most `max_size` nodes besides them.
    """

    name = "fuse"
    effect = PassEffect.EXACT
    epilogues: bool = True
    reductions: bool = True
    elementwise: bool = True
    pairs: bool = True
    inputs: bool = False
    max_size: int = 64

    def run(self, graph: Graph, context: Context) -> PassResult:
        outcome = Outcome()

        def fuse(g: Graph) -> bool:
            rounds = 0
            while rounds < _ROUNDS and self._round(g, context, outcome):
                rounds += 1
            return rounds > 0

        changed = in_branches(graph, self.name, fuse) | fuse(graph)
        return PassResult(True, statistics=outcome.applied) if changed else PassResult(False, ALL)

    def _round(self, graph: Graph, context: Context, outcome: Outcome) -> bool:
        planner = Planner(graph, self.max_size)
        regions = planner.plan(self.epilogues, self.reductions, self.elementwise, self.pairs, self.inputs)
        done = 0
        for region in regions:
            if not context.allow_rewrite(f"fuse.{region.kind}"):
                break
            _replace(graph, region)
            outcome.count(region.kind)
            done += 1
        return done > 0


def _replace(graph: Graph, region: Region) -> None:
    nodes = region.nodes
    inside = set(nodes)
    inputs = list(dict.fromkeys(
        v for n in nodes for v in n.operands
        if v is not None and v.producer not in inside and not goes_inside(v)
    ))
    outputs = [v for n in nodes for v in n.results if any(u not in inside for u in v.users)]
    numbers = list(dict.fromkeys(
        v.producer for n in nodes for v in n.operands if v is not None and v.producer is not None and goes_inside(v)
    ))
    body = make_body(graph, nodes, numbers, inputs, outputs)
    place = fused("fuse", *(n.loc for n in nodes))
    with graph.edit("fuse", place) as editor:
        node = editor.add(
            "fused", inputs, {"kind": region.kind, "body": body}, name=[v.name for v in outputs], before=nodes[-1]
        )
        for old, new in zip(outputs, node.results):
            editor.replace(old, new)
        for n in reversed(nodes):
            editor.erase(n)
        drop_dead(editor, numbers)


def make_body(
    graph: Graph, nodes: Sequence[Node], numbers: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value]
) -> Graph:
    """A graph of copies of nodes of another graph, numbers first; `inputs` become its inputs."""
    body = Graph(outputs[-1].name, graph.store)
    mapping: dict[Value, Value] = {v: body.add_input(v.name, v.type) for v in inputs}
    with body.edit("fuse") as editor:
        for node in (*numbers, *nodes):
            copy = editor.add(
                node.op, [None if v is None else mapping[v] for v in node.operands], node.attrs,
                name=[v.name for v in node.results], loc=node.loc, types=[v.type for v in node.results],
            )
            mapping.update(zip(node.results, copy.results))
    body.set_outputs([mapping[v] for v in outputs])
    used = set().union(*(v.type.symbols for v in mapping if isinstance(v.type, TensorType)))
    body.symbols = {name: bounds for name, bounds in graph.symbols.items() if name in used}
    body.journal.clear()
    return body

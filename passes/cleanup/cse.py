"""Common subexpression elimination."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager import ALL, Context, Pass, PassEffect, PassResult, register_pass
from mcomp.ops.base import Effect
from mcomp.passes.cleanup.nested import in_branches
from mcomp.rewrite.pattern import COMMUTATIVE


@register_pass
@dataclass(frozen=True)
class Cse(Pass):
    """Computes equal things once: pure nodes of one operator, operands and attributes; constants of equal content.

        %a = exp %x : f32[4]                          %a = exp %x : f32[4]
        %b = exp %x : f32[4]                          %c = add %a, %a : f32[4]
        %c = add %a, %b : f32[4]

    Random and effectful nodes stay apart.
    """

    name = "cse"
    effect = PassEffect.EXACT

    def run(self, graph: Graph, context: Context) -> PassResult:
        count = [0]

        def merge(g: Graph) -> bool:
            merged = _merge(g, context)
            count[0] += merged
            return merged > 0

        changed = in_branches(graph, self.name, merge) | merge(graph)
        return PassResult(True, statistics={"merged": count[0]}) if changed else PassResult(False, ALL)


def _merge(graph: Graph, context: Context) -> int:
    first: dict[Hashable, Node] = {}
    merged = 0
    for node in graph.nodes:
        if node.effect is not Effect.PURE or not node.results:
            continue
        kept = first.setdefault(node_key(node), node)
        if kept is node:
            continue
        if not context.allow_rewrite("cse"):
            break
        place = fused("cse", kept.loc, node.loc)
        with graph.edit("cse", place) as editor:
            editor.replace_node(node, kept.results)
            if kept.operands and node.loc and node.loc != kept.loc:
                editor.set_loc(kept, place)
        merged += 1
    return merged


def node_key(node: Node) -> Hashable:
    """Equal for nodes that compute the same; names and locations do not count."""
    if node.op.name == "const":
        return ("const", node.attrs["digest"], node.type)
    given: list[Value | None] = list(node.operands)
    while given and given[-1] is None:
        given.pop()
    if node.op.name in COMMUTATIVE and len(given) == 2:
        given.sort(key=id)
    attrs = tuple((k, attr_key(v)) for k, v in node.attrs.items())
    return (node.op.name, tuple(given), attrs, tuple(v.type for v in node.results))


def attr_key(value: Any) -> Hashable:
    """Equal for attributes that are the same, bit for bit: 1, 1.0 and true differ, as 0.0 and -0.0; NaN equals NaN."""
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    if isinstance(value, complex):
        return ("complex", struct.pack("<dd", value.real, value.imag))
    if isinstance(value, tuple):
        return tuple(attr_key(v) for v in value)
    if isinstance(value, Graph):
        return body_key(value)
    return (type(value).__name__, value)


def body_key(graph: Graph) -> Hashable:
    """Equal for nested graphs that compute the same; names and locations do not count."""
    numbers: dict[Value, int] = {v: i for i, v in enumerate(graph.inputs)}
    lines: list[Hashable] = [tuple(v.type for v in graph.inputs)]
    for node in graph.nodes:
        given = tuple(None if v is None else numbers[v] for v in node.operands)
        shown = {k: v for k, v in node.attrs.items() if node.op.name != "const" or k == "digest"}
        attrs = tuple((k, attr_key(v)) for k, v in shown.items())
        lines.append((node.op.name, given, attrs, tuple(v.type for v in node.results)))
        for v in node.results:
            numbers[v] = len(numbers)
    lines.append(tuple(numbers[v] for v in graph.outputs))
    return tuple(lines)

"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.ir import dims
from mcomp.ir.graph import Graph, Node
from mcomp.ir.types import TensorType
from mcomp.manager import ALL, Context, Pass, PassEffect, PassResult, register_pass
from mcomp.ops.base import Effect
from mcomp.passes.cleanup.nested import in_branches


@register_pass
@dataclass(frozen=True)
class Dce(Pass):
    """Drops nodes whose results nobody uses. Effectful nodes stay, and those that give a size its value; so do inputs.

        graph @g(%x: f32[4]) -> (f32[4]) {            graph @g(%x: f32[4]) -> (f32[4]) {
          %a = exp %x : f32[4]                          %c = neg %x : f32[4]
          %b = rand {shape = [4]} : f32[4]              return %c
          %c = neg %x : f32[4]                        }
          return %c
        }
    """

    name = "dce"
    effect = PassEffect.EXACT

    def run(self, graph: Graph, context: Context) -> PassResult:
        count = [0]

        def sweep(g: Graph) -> bool:
            dropped = _sweep(g, context)
            count[0] += dropped
            return dropped > 0

        changed = in_branches(graph, self.name, sweep) | sweep(graph)
        return PassResult(True, statistics={"dropped": count[0]}) if changed else PassResult(False, ALL)


def _sweep(graph: Graph, context: Context) -> int:
    needed = _defining(graph)
    dead: dict[Node, None] = {}
    for node in graph.reversed_nodes():
        if node.effect is Effect.EFFECTFUL or node in needed:
            continue
        if all(user in dead for value in node.results for user in value.users):
            dead[node] = None
    if not dead or not context.allow_rewrite("dce"):
        return 0
    with graph.edit("dce") as editor:
        for node in dead:
            editor.erase(node)
    return len(dead)


def _defining(graph: Graph) -> set[Node]:
    """The nodes that are the first to carry a size that no input has, if another node or type depends on it."""
    known = set().union(*(v.type.symbols for v in graph.inputs if isinstance(v.type, TensorType)))
    if graph.symbols.keys() <= known:
        return set()
    defining: dict[str, Node] = {}
    needed: set[Node] = set()
    for node in graph.nodes:
        used = _symbols(node) | {s for body in node.bodies for n in body.walk() for s in _symbols(n) & graph.symbols.keys()}
        declared = node.attrs.get("symbol")
        for symbol in used | ({declared} if isinstance(declared, str) else set()):
            if symbol in known:
                continue
            first = defining.setdefault(symbol, node)
            if first is not node:
                needed.add(first)
    return needed


def _symbols(node: Node) -> set[str]:
    """The sizes that a node's own attributes and the types of its results are written with."""
    return set().union(
        *(v.type.symbols for v in node.results if isinstance(v.type, TensorType)),
        *(dims.symbols_in(a) for a in node.attrs.values()),
    )

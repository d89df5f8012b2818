"""Products for which a pass, or the target, has nothing: no layer is passed over without a word."""

from __future__ import annotations

from collections.abc import Collection

from mcomp.backend import backend_named
from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.ops.workload import PRODUCTS


def tell_untouched(
    rule: str, graph: Graph, context: Context, handled: Collection[str], lacks: str, remedy: str
) -> None:
    """Leave a remark for every product with a constant weight whose operator is not among those `handled`. `lacks`: what its
    operator has not."""
    for node in graph.nodes:
        passed = node.op.name in PRODUCTS and node.op.name not in handled and _has_weight(node)
        if passed and not context.excluded(rule, node):
            context.missed(rule, node, f"{node.op.name} has no {lacks}", remedy)


def multiplies_floats(rule: str, node: Node, context: Context) -> bool:
    """Whether the target has a product's integer operands decoded at every call, and multiplies floats; a remark if so."""
    if backend_named(context.target).multiplies_bytes(node.op.name):
        return False
    context.missed(rule, node, f"{node.op.name} multiplies floats on {context.target}: integers would be decoded in front of "
                   "it, which takes longer", "nothing need be done: it stays in float")
    return True


def _has_weight(node: Node) -> bool:
    """Whether a product multiplies by a constant matrix of floats; masks of attention are none."""
    operands = node.operands[:3] if node.op.name == "attention" else node.operands
    return any(v is not None and v.is_const and v.tensor.rank > 1 and v.tensor.dtype.is_float for v in operands)

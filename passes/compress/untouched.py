"""Products for which a pass, or the target, has nothing, or which a pass does not see: no layer is passed over without a
word."""

from __future__ import annotations

from collections.abc import Collection

from mcomp.backend import backend_named
from mcomp.ir.graph import Graph, Node, Value
from mcomp.manager.context import Context
from mcomp.ops.workload import PRODUCTS


def tell_untouched(
    rule: str, graph: Graph, context: Context, handled: Collection[str], lacks: str, remedy: str
) -> None:
    """Leave a remark for every product with a constant weight whose operator is not among those `handled`, and for those in
    nested graphs. `lacks`: what its operator has not."""
    for node in graph.nodes:
        passed = node.op.name in PRODUCTS and node.op.name not in handled and _has_weight(node)
        if passed and not context.excluded(rule, node):
            context.missed(rule, node, f"{node.op.name} has no {lacks}", remedy)
    tell_nested(rule, graph, context)


def multiplies_floats(rule: str, node: Node, context: Context) -> bool:
    """Whether the target has a product's integer operands decoded at every call, and multiplies floats; a remark if so."""
    if backend_named(context.target).multiplies_bytes(node.op.name):
        return False
    context.missed(rule, node, f"{node.op.name} multiplies floats on {context.target}: integers would be decoded in front "
                   "of it, which takes longer", "nothing need be done: it stays in float")
    return True


def tell_nested(rule: str, graph: Graph, context: Context, known: Collection[Value] = ()) -> None:
    """Leave a remark for every product with a constant weight in a nested graph: passes do not look into those. `known`:
    inputs of the graph that are constants outside."""
    for node in graph.nodes:
        remedy = f"run {rule} before fuse" if node.op.name == "fused" else "compute it outside of the condition"
        for body in node.bodies:
            given = zip(reversed(node.operands), reversed(body.inputs))
            inside = {own for outer, own in given if outer is not None and (outer.is_const or outer in known)}
            for inner in body.nodes:
                passed = inner.op.name in PRODUCTS and _has_weight(inner, inside)
                if passed and not context.excluded(rule, inner):
                    context.missed(rule, inner, f"it is in a nested graph, of {node.op.name}", remedy)
            tell_nested(rule, body, context, inside)


def _has_weight(node: Node, known: Collection[Value] = ()) -> bool:
    """Whether a product multiplies by a constant matrix of floats; masks of attention are none."""
    operands = node.operands[:3] if node.op.name == "attention" else node.operands
    constants = (v for v in operands if v is not None and (v.is_const or v in known))
    return any(v.tensor.rank > 1 and v.tensor.dtype.is_float for v in constants)

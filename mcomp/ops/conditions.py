"""Conditions on symbolic sizes that the operators' rules leave open: they can be checked once the sizes are known.

A rule refuses what cannot be whatever the symbols are. `select %x {index=2*B}` of an axis of size `S` may be right or not:
that `2*B + 1 <= S` is a condition. Code that was generated for any size relies on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.condition import Condition, Relation
from mcomp.ir.dims import Dim, Expr
from mcomp.ir.graph import Graph, Node
from mcomp.ir.types import TensorType
from mcomp.ops.rules import noted_conditions

_AT = ("select", "slice", "select_scatter", "slice_scatter")
"""Operators whose attributes say where in a tensor they are at."""


def conditions_of(graph: Graph, *, data: bool = False) -> tuple[Condition, ...]:
    """The conditions on symbols that the shapes of the graph's inputs determine, each once; `data`: instead those in which
    a symbol is that only values tell."""
    if not graph.symbols:
        return ()
    known = {s for v in graph.inputs if isinstance(v.type, TensorType) for s in v.type.symbols}
    found: dict[tuple[Relation, Dim, Dim], Condition] = {}
    for node in _certain(graph):
        for relation, left, right in (*_open(node), *(_places(node, known) if data else ())):
            if (dims.symbols(left) | dims.symbols(right) <= known) is data or (relation, left, right) in found:
                continue
            found[relation, left, right] = Condition(relation, left, right, str(node.loc), repr(node))
    return tuple(found.values())


def _certain(graph: Graph) -> Iterator[Node]:
    """The nodes that run in every call, nested ones too; of two branches one runs, and is interpreted."""
    for node in graph.nodes:
        yield node
        for body in node.bodies if node.op.name != "cond" else ():
            yield from _certain(body)


def _places(node: Node, known: set[str]) -> list[tuple[Relation, Dim, Dim]]:
    """Sizes of inputs are never negative; what values tell may be, and no place and no size may then."""
    sizes = [d for v in node.results if isinstance(v.type, TensorType) for d in v.type.shape]
    places = [d for d in node.attrs.values() if isinstance(d, Expr)] if node.op.name in _AT else []
    return [("<=", 0, d) for d in (*sizes, *places) if not dims.symbols(d) <= known]


def _open(node: Node) -> list[tuple[Relation, Dim, Dim]]:
    """What the rule of a node leaves open, that its results have the sizes that it finds, and that none is negative."""
    with noted_conditions() as noted:
        try:
            inferred = node.op.infer_node(node)
        except IRError:
            inferred = ()
    for value, type in zip(node.results, inferred):
        if isinstance(type, TensorType) and isinstance(value.type, TensorType):
            noted += [("==", a, b) for a, b in zip(value.type.shape, type.shape) if a != b]
    for body in node.bodies:  # what is given to a nested graph has the sizes that it states
        given = node.operands[len(node.operands) - len(body.inputs) :]
        for inner, outer in zip(body.inputs, given):
            if outer is not None and isinstance(inner.type, TensorType) and isinstance(outer.type, TensorType):
                noted += [("==", a, b) for a, b in zip(inner.type.shape, outer.type.shape) if a != b]
    sizes = [d for v in node.results if isinstance(v.type, TensorType) for d in v.type.shape]
    return [*noted, *(("<=", 0, d) for d in sizes if not dims.nonnegative(d))]

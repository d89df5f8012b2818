"""A part of a graph as a graph of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType


@dataclass(frozen=True)
class Extract:
    """`graph` computes `outputs` from `inputs`, which are values of the graph it was taken from."""

    graph: Graph
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def extract(nodes: Iterable[Node], name: str = "part") -> Extract:
    """Some nodes of one graph, copied in their order, with the constants that they read. Inputs: what they use and do not
    make; outputs: what others use of theirs. The copy shares the weight store and keeps names, locations and symbols.

    Raises ValueError without nodes, and for nodes of several graphs.
    """
    wanted = set(nodes)
    graphs = {node.graph for node in wanted}
    if len(graphs) != 1:
        raise ValueError(f"the nodes are of {len(graphs)} graphs")
    source = graphs.pop()
    inside = [node for node in source.nodes if node in wanted]
    used = dict.fromkeys(v for node in inside for v in node.operands if v is not None and v.producer not in wanted)
    inputs = tuple(v for v in used if not v.is_const)
    outputs = tuple(
        v for node in inside for v in node.results
        if node.op.name != "const" and any(user not in wanted for user in v.users)
    )
    copy = Graph(name, source.store)
    copy.symbols = dict(source.symbols)
    mapping: dict[Value, Value] = {v: copy.add_input(v.name, v.type) for v in inputs}
    constants = [v.producer for v in used if v.is_const and v.producer is not None]
    with copy.edit("extract") as editor:
        for node in (*constants, *inside):
            attrs = {k: a.clone() if isinstance(a, Graph) else a for k, a in node.attrs.items()}
            new = editor.add(
                node.op, [None if v is None else mapping[v] for v in node.operands], attrs,
                name=[v.name for v in node.results], loc=node.loc, types=[v.type for v in node.results],
            )
            mapping.update(zip(node.results, new.results, strict=True))
    copy.set_outputs([mapping[v] for v in outputs])
    return Extract(copy, inputs, outputs)


def signature(graph: Graph) -> str:
    """What a graph computes with, apart from names, locations and the numbers in its weights: two graphs with the same
    signature run the same code. Block-sparse weights count with their content: it decides what is skipped."""
    from mcomp.ir.printer import attr_text

    numbers: dict[Value, int] = {v: i for i, v in enumerate(graph.inputs)}
    symbols = ", ".join(f"{s} in {b}" for s, b in graph.symbols.items())
    lines = [f"[{symbols}] ({', '.join(str(v.type) for v in graph.inputs)})"]
    for node in graph.nodes:
        types = ", ".join(str(v.type) for v in node.results)
        if node.op.name == "const":
            text = "const" + (f" {node.attrs['digest']}" if _is_sparse(node) else "")
        else:
            operands = ", ".join("_" if v is None else str(numbers[v]) for v in node.operands)
            attrs = ", ".join(
                f"{k}={signature(a) if isinstance(a, Graph) else attr_text(a)}" for k, a in sorted(node.attrs.items())
            )
            text = f"{node.op.name} {operands} {{{attrs}}}"
        lines.append(f"{text} : {types}")
        for value in node.results:
            numbers[value] = len(numbers)
    lines.append("return " + ", ".join(str(numbers[v]) for v in graph.outputs))
    return "\n".join(lines)


def _is_sparse(node: Node) -> bool:
    type = node.result.type
    return isinstance(type, TensorType) and "rows" in type.encoding.buffers(type)

"""The IR as text. `parser` reads it back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from mcomp.ir.dims import Expr
from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Graph, InputSpec, Node, OutputSpec
from mcomp.ir.types import TensorType
from mcomp.ops.base import ANY_ATTRS

_PLAIN = re.compile(r"[A-Za-z0-9_.\-]+\Z")
Annotate = Callable[[Node], str]


def graph_text(
    graph: Graph, *, digests: int = 8, locations: bool = True, annotate: Annotate | None = None, indent: str = ""
) -> str:
    """A graph as text. `digests`: hex digits printed of each weight's digest (32: all, needed where the text is all
    that is kept). `annotate` may add a comment to each node's line."""
    inner = indent + "  "
    lines = [f"{indent}{_header(graph, digests)} {{"]
    for node in graph.nodes:
        text = node_text(node, digests=digests, locations=locations, indent=inner)
        comment = annotate(node) if annotate else ""
        lines.append(f"{inner}{text}" + (f"  // {comment}" if comment else ""))
    lines.append(f"{inner}{_return_text(graph)}")
    lines.append(f"{indent}}}")
    return "\n".join(lines)


def node_text(node: Node, *, digests: int = 8, locations: bool = True, indent: str = "") -> str:
    """One node as one line of text (several for nested graphs)."""
    results = ", ".join(f"%{v.name}" for v in node.results)
    head = f"{results} = " if results else ""
    if node.op.name == "const":
        head += f"const @{name_text(node.attrs['name'])}#{node.attrs['digest'][:digests]}"
    else:
        shown = ["_" if v is None else f"%{v.name}" for v in node.operands]
        head += " ".join([node.op.name, ", ".join(shown)]).rstrip()
        attrs = _attrs_text(node, digests, locations, indent)
        head += f" {{{attrs}}}" if attrs else ""
    if node.results:
        head += " : " + ", ".join(str(v.type) for v in node.results)
    if locations and node.loc:
        head += f"  loc({node.loc})"
    return head


def _attrs_text(node: Node, digests: int, locations: bool, indent: str) -> str:
    if node.op.attrs is ANY_ATTRS:
        shown = {k: v for k, v in node.attrs.items() if k != "types"}
    else:
        defaults = {a.name: a.default for a in node.op.attrs}
        shown = {k: v for k, v in node.attrs.items() if not _same(v, defaults.get(k, ...))}
    return ", ".join(f"{k} = {attr_text(v, digests, locations, indent)}" for k, v in shown.items())


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def attr_text(value: Any, digests: int = 8, locations: bool = True, indent: str = "") -> str:
    """An attribute value as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Expr)):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, complex):
        return f"complex({value.real!r}, {value.imag!r})"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, DType):
        return f"!{value}"
    if isinstance(value, TensorType):
        return f"type({value})"
    if isinstance(value, Graph):
        return graph_text(value, digests=digests, locations=locations, indent=indent + "  ").lstrip()
    return "[" + ", ".join(attr_text(v, digests, locations, indent) for v in value) + "]"


def name_text(name: str) -> str:
    """A name after `@`; quoted unless it is plain."""
    return name if _PLAIN.match(name) else json.dumps(name)


def _header(graph: Graph, digests: int) -> str:
    symbols = ", ".join(f"{s} in {b}" for s, b in graph.symbols.items())
    inputs = ", ".join(
        f"{_input_text(spec, digests)}%{v.name}: {v.type}" for v, spec in zip(graph.inputs, graph.input_specs)
    )
    outputs = ", ".join(str(v.type) for v in graph.outputs)
    return f"graph @{name_text(graph.name)}{f'[{symbols}]' if symbols else ''}({inputs}) -> ({outputs})"


def _input_text(spec: InputSpec, digests: int) -> str:
    if spec.kind == "arg":
        return ""
    initial = f"#{spec.initial[:digests]}" if spec.initial else ""
    return f"state @{name_text(spec.target)}{initial} "


def _return_text(graph: Graph) -> str:
    parts = [f"{_output_text(spec)}%{v.name}" for v, spec in zip(graph.outputs, graph.output_specs)]
    return ("return " + ", ".join(parts)).rstrip()


def _output_text(spec: OutputSpec) -> str:
    return "" if spec.kind == "result" else f"{spec.kind} @{name_text(spec.target)} = "

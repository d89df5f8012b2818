"""The verifier: every rule of the IR, with an error that prints the graph around the node at fault."""

from __future__ import annotations

from dataclasses import replace

from mcomp.errors import IRError, VerifyError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, InputSpec, Node, Value
from mcomp.ir.printer import node_text
from mcomp.ir.types import TensorType, Type

_CONTEXT = 3


def verify(graph: Graph) -> None:
    """Raise VerifyError when the graph breaks a rule.

    Checked: operands are defined earlier in the same graph; use lists agree with operands; names are unique; each op's
    operand count, attributes and result types (by inference; dims that cannot be compared pass); encodings are
    feasible; constants are in the store with their type; symbols are declared; states follow the arguments, have one
    input each, are dense, of fixed sizes, and start from a weight of their type; one output at most goes to a state or
    an argument, and has its type.
    """
    defined: set[Value] = set()
    names: set[str] = set()
    for value, spec in zip(graph.inputs, graph.input_specs, strict=True):
        _check_value(graph, value, None, names)
        defined.add(value)
        if spec.kind not in ("arg", "state"):
            raise VerifyError(f"input %{value.name} has the unknown kind {spec.kind}")
    _check_states(graph)
    for node in graph.nodes:
        for body in node.bodies:
            verify(body)
        _check_node(graph, node, defined)
        for value in node.results:
            if value.producer is not node:
                raise _fault(graph, node, f"%{value.name} does not know that this node makes it")
            _check_value(graph, value, node, names)
            defined.add(value)
    _check_outputs(graph, defined)


def _check_value(graph: Graph, value: Value, node: Node | None, names: set[str]) -> None:
    if value.name in names:
        raise _fault(graph, node, f"the name %{value.name} is used twice")
    names.add(value.name)
    if value.graph is not graph:
        raise _fault(graph, node, f"%{value.name} belongs to another graph")
    for user, index in value.uses:
        if not user.alive and user is not graph.returns:
            raise _fault(graph, node, f"%{value.name} is used by a node that was erased")
        if user.operands[index] is not value:
            raise _fault(graph, node, f"the use list of %{value.name} names {user.op.name}, which does not use it")
    if isinstance(value.type, TensorType):
        missing = value.type.symbols - graph.symbols.keys()
        if missing:
            raise _fault(graph, node, f"the size {sorted(missing)[0]} of %{value.name} is not declared")
        if any(isinstance(d, int) and d < 0 for d in value.type.shape):
            raise _fault(graph, node, f"%{value.name} has a negative size: {value.type}")
        layout = value.type.layout
        if layout is not None and (sorted(layout.order) != list(range(value.type.rank)) or layout.block < 1):
            raise _fault(graph, node, f"{layout} is no layout of %{value.name}, which has rank {value.type.rank}")
        reason = value.type.encoding.feasible(value.type)
        if reason is not None:
            raise _fault(graph, node, f"%{value.name} cannot be {value.type.encoding}: {reason}")


def _check_node(graph: Graph, node: Node, defined: set[Value]) -> None:
    for i, value in enumerate(node.operands):
        if value is None:
            continue
        if value not in defined:
            raise _fault(graph, node, f"%{value.name} is used before it is defined")
        if (node, i) not in value._uses:
            raise _fault(graph, node, f"%{value.name} does not list this use")
    try:
        node.op.check_operands(node.operands)
        inferred = node.op.infer_node(node)
    except IRError as e:
        raise _fault(graph, node, e.message, e.help) from e
    if len(inferred) != len(node.results):
        raise _fault(graph, node, f"{len(node.results)} results where {node.op.name} has {len(inferred)}")
    for value, type in zip(node.results, inferred):
        if not compatible(value.type, type):
            raise _fault(graph, node, f"%{value.name} is {value.type}, but {node.op.name} gives {type}")


def _check_outputs(graph: Graph, defined: set[Value]) -> None:
    for value in graph.outputs:
        if value not in defined:
            raise _fault(graph, None, f"the output %{value.name} is not defined")
    if len(graph.outputs) != len(graph.output_specs):
        raise _fault(graph, None, f"{len(graph.outputs)} outputs with {len(graph.output_specs)} specs")
    _check_targets(graph)


def _check_states(graph: Graph) -> None:
    targets: set[str] = set()
    for value, spec in zip(graph.inputs, graph.input_specs):
        if spec.kind != "state":
            if targets:
                raise _fault(graph, None, f"the argument %{value.name} follows a state; states come last")
            continue
        if spec.target in targets:
            raise _fault(graph, None, f"the state @{spec.target} has two inputs")
        targets.add(spec.target)
        _check_state(graph, value, spec)


def _check_state(graph: Graph, value: Value, spec: InputSpec) -> None:
    type = value.type
    if not isinstance(type, TensorType) or not type.is_static or type.encoding != DENSE:
        raise _fault(graph, None, f"the state @{spec.target} is {type}; a state is a dense tensor of fixed sizes")
    if not spec.initial:
        return
    try:
        initial = graph.store.get(spec.initial).type
    except KeyError as e:
        raise _fault(graph, None, f"the state @{spec.target}: {e.args[0]}") from e
    if initial != _row_major(type):
        raise _fault(graph, None, f"the state @{spec.target} is {type}, but starts from a weight that is {initial}")


def _check_targets(graph: Graph) -> None:
    """Outputs that are kept or written back."""
    states = {s.target: v for v, s in zip(graph.inputs, graph.input_specs) if s.kind == "state"}
    arguments = {v.name: v for v, s in zip(graph.inputs, graph.input_specs) if s.kind == "arg"}
    seen: set[tuple[str, str]] = set()
    for value, spec in zip(graph.outputs, graph.output_specs):
        if spec.kind == "result":
            continue
        if spec.kind not in ("state", "mutated"):
            raise _fault(graph, None, f"output %{value.name} has the unknown kind {spec.kind}")
        if spec.kind == "state" and spec.target not in states:
            raise _fault(graph, None, f"the output state @{spec.target} has no input")
        if spec.kind == "mutated" and spec.target not in arguments:
            raise _fault(graph, None, f"the mutated argument %{spec.target} is no input")
        if (spec.kind, spec.target) in seen:
            raise _fault(graph, None, f"two outputs go to @{spec.target}")
        seen.add((spec.kind, spec.target))
        _check_target(graph, value, states[spec.target] if spec.kind == "state" else arguments[spec.target])


def _check_target(graph: Graph, value: Value, target: Value) -> None:
    """A state keeps its very type; sizes of an argument may be written in another way, and are compared in each call."""
    given, kept = _row_major(value.type), _row_major(target.type)
    if given == kept or (not _is_static(kept) and compatible(given, kept)):
        return
    raise _fault(graph, None, f"%{value.name} is {value.type}, but goes to %{target.name}, which is {target.type}")


def _row_major(type: Type) -> Type:
    return replace(type, layout=None) if isinstance(type, TensorType) else type


def _is_static(type: Type) -> bool:
    return not isinstance(type, TensorType) or type.is_static


def compatible(a: Type, b: Type) -> bool:
    """Whether two types may be the same: layouts aside, dims that differ by a constant are different."""
    if not isinstance(a, TensorType) or not isinstance(b, TensorType):
        return a == b
    if a.dtype != b.dtype or a.encoding != b.encoding or a.rank != b.rank:
        return False
    return all(_may_equal(x, y) for x, y in zip(a.shape, b.shape))


def _may_equal(a: Dim, b: Dim) -> bool:
    difference = dims.add(a, dims.mul(b, -1))
    return not isinstance(difference, int) or difference == 0


def _fault(graph: Graph, node: Node | None, message: str, help: str | None = None) -> VerifyError:
    if node is None:
        return VerifyError(message, where=f"graph @{graph.name}", help=help)
    nodes = list(graph.nodes)
    at = next((i for i, n in enumerate(nodes) if n is node), 0)
    lines = []
    for i in range(max(0, at - _CONTEXT), min(len(nodes), at + _CONTEXT + 1)):
        mark = "->" if i == at else "  "
        lines.append(f"{mark} {node_text(nodes[i], locations=False)}")
    return VerifyError(message, where=str(node.loc) or f"graph @{graph.name}", ir="\n".join(lines), help=help)

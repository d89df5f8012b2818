"""Running nodes and graphs by their reference meaning, op by op, in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from mcomp.errors import BackendError, IRError, McompError
from mcomp.ir import dims
from mcomp.ir.binding import bind_inputs, bind_symbols
from mcomp.ir.dims import Dim, Expr
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.encoded import Encoded, decoded, weight_tensor

__all__ = ["Observe", "bind_inputs", "bind_symbols", "constant", "evaluate_attrs", "run_graph", "run_node"]

Observe = Callable[[Node, tuple[Any, ...]], None]
"""Called after each node with its results: torch tensors, `Encoded`, or Python numbers. Must not change them."""

Constants = Callable[[Node], Any]


def constant(node: Node) -> Any:
    """The value of a `const` node: a tensor, or an `Encoded`; shares memory with the weight store."""
    return weight_tensor(node.graph.store.get(node.attrs["digest"]))


def evaluate_attrs(attrs: Mapping[str, Any], symbols: Mapping[str, int]) -> dict[str, Any]:
    """Attributes with every symbolic dim, nested ones too, as its value. Raises KeyError for unknown symbols."""
    return {name: _evaluated(value, symbols) for name, value in attrs.items()}


def _evaluated(value: Any, symbols: Mapping[str, int]) -> Any:
    if isinstance(value, Expr):
        return dims.evaluate(value, symbols)
    if isinstance(value, tuple):
        return tuple(_evaluated(v, symbols) for v in value)
    return value


def run_node(
    node: Node, inputs: Sequence[Any], symbols: MutableMapping[str, int], *, observe: Observe | None = None,
    constants: Constants = constant,
) -> tuple[Any, ...]:
    """The results of one node for given operands (None: absent; encoded ones are decoded unless the op takes them).

    Symbols that the node's results declare (sizes that depend on data) are added to `symbols`. `observe` and
    `constants` serve nested graphs. Raises IRError when the node has a symbol without a value or a result does not have
    the type that the graph states, and BackendError when the operator fails on its operands (an index out of range, a
    matrix without inverse ...).
    """
    name = node.op.name
    if name == "const":
        return (constants(node),)
    if name == "fused":
        return tuple(run_graph(node.attrs["body"], inputs, symbols, observe=observe, constants=constants))
    if name == "cond":
        taken = "then" if bool(decoded(inputs[0])) else "else"
        return tuple(run_graph(node.attrs[taken], inputs[1:], symbols, observe=observe, constants=constants))
    given = list(inputs) if node.op.accepts_encoded else [decoded(x) for x in inputs]
    try:
        attrs = evaluate_attrs(node.attrs, symbols)
    except KeyError as e:
        raise IRError(f"{name}: the size {e.args[0]} has no value", where=str(node.loc) or None, ir=repr(node)) from e
    try:
        out = node.op.reference(given, attrs)
    except McompError as e:
        raise type(e)(
            e.message, code=e.code, where=e.where or str(node.loc) or None, ir=e.ir or repr(node), help=e.help
        ) from e
    except (RuntimeError, ValueError, TypeError, IndexError) as e:
        raise BackendError(
            f"{name} failed on {_describe(given)}: {e}", code="MC0610", where=str(node.loc) or None, ir=repr(node),
            help="check the values that the model is given, such as indices, against what the operator takes",
        ) from e
    results = tuple(out) if isinstance(out, (tuple, list)) else (out,)
    if name == "item":
        symbols[attrs["symbol"]] = int(given[0])
    _check_results(node, results, symbols)
    return results


def run_graph(
    graph: Graph, inputs: Sequence[Any], symbols: Mapping[str, int] | None = None, *, observe: Observe | None = None,
    constants: Constants = constant,
) -> list[Any]:
    """The outputs of a graph, in order; outputs may alias inputs, constants and each other.

    `inputs`: torch tensors (or numbers, or `Encoded`) in the order of `graph.inputs`. Without `symbols`, they are found
    from the inputs, which are checked (CallError). Results are freed after their last use. `constants` gives the value
    of a `const` node.
    """
    known = dict(symbols) if symbols is not None else bind_inputs(graph, inputs)
    last = _last_uses(graph)
    values: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        operands = [None if v is None else values[v] for v in node.operands]
        results = run_node(node, operands, known, observe=observe, constants=constants)
        del operands
        if observe is not None:
            observe(node, results)
        values.update(zip(node.results, results))
        del results
        for value in last.get(node, ()):
            values.pop(value, None)
    return [values[v] for v in graph.outputs]


def _last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For each node the values that nobody needs after it."""
    kept = set(graph.outputs)
    last: dict[Value, Node] = {}
    for node in graph.nodes:
        for value in (*node.operands, *node.results):
            if value is not None and value not in kept:
                last[value] = node
    dead: dict[Node, list[Value]] = {}
    for value, node in last.items():
        dead.setdefault(node, []).append(value)
    return dead


def _check_results(node: Node, results: tuple[Any, ...], symbols: MutableMapping[str, int]) -> None:
    """Compare results with the node's types; a result's size that is a symbol without a value declares it."""
    if len(results) < len(node.results):
        raise _mismatch(node, f"{len(results)} results, but the graph states {len(node.results)}")
    for value, result in zip(node.results, results):
        if not isinstance(value.type, TensorType):
            continue
        shape = tuple(result.shape)
        if len(shape) != value.type.rank:
            raise _mismatch(node, f"%{value.name} has rank {len(shape)}, but the graph states {value.type}")
        for axis, (dim, size) in enumerate(zip(value.type.shape, shape)):
            if _expected(dim, size, symbols) != size:
                raise _mismatch(node, f"%{value.name} has {size} along axis {axis}, but the graph states {value.type}")
        _check_element(node, value, value.type, result)


def _expected(dim: Dim, size: int, symbols: MutableMapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dims.symbols(dim) <= symbols.keys():
        return dims.evaluate(dim, symbols)
    try:
        found = dims.solve(dim, size, symbols)
    except ValueError:
        return -1
    if found is not None:
        symbols[found[0]] = found[1]
    return size


def _check_element(node: Node, value: Value, type: TensorType, result: Any) -> None:
    from mcomp.ir.dtypes import to_torch

    if isinstance(result, Encoded):
        if result.type.encoding != type.encoding:
            raise _mismatch(node, f"%{value.name} is {result.type.encoding}, but the graph states {type}")
    elif result.dtype != to_torch(type.dtype):
        raise _mismatch(node, f"%{value.name} has elements {result.dtype}, but the graph states {type}")


def _mismatch(node: Node, message: str) -> IRError:
    return IRError(f"{node.op.name}: {message}", code="MC0104", where=str(node.loc) or None, ir=repr(node))


def _describe(inputs: Sequence[Any]) -> str:
    texts = [
        "none" if x is None else f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" if hasattr(x, "dtype") else
        str(x.type) if isinstance(x, Encoded) else repr(x)
        for x in inputs
    ]
    return ", ".join(texts) or "nothing"

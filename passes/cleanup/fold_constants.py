"""Evaluating nodes whose operands are known when compiling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mcomp.ir import dims
from mcomp.ir.dims import Dim, Expr
from mcomp.ir.edit import Editor
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.loc import fused
from mcomp.ir.types import TensorType
from mcomp.manager import Context
from mcomp.ops.base import Effect
from mcomp.rewrite import Outcome
from mcomp.rewrite.driver import drop_dead
from mcomp.rewrite.facts import Number, number_of

_LABEL = "fold_constants"
_SMALL = 1 << 16
"""A view of a constant that repeats elements is folded up to so many bytes, where that lets more be folded."""
_MOVES = frozenset({
    "reshape", "permute", "expand", "squeeze", "unsqueeze", "contiguous", "slice", "select", "flip", "repeat",
    "repeat_interleave", "roll",
})
"""Operators that give the same number everywhere when their operand is one number everywhere."""


def fold_constants(graph: Graph, context: Context, max_bytes: int) -> Outcome:
    """Replace nodes of known operands by constants or `full`, in one sweep (operands come before their users)."""
    outcome = Outcome()
    for node in graph.nodes:
        if node.op.name == "const":
            foldable = _is_scalar_constant(node)
        else:
            foldable = _is_candidate(node)
        if not foldable:
            continue
        uniform = _uniform_result(node)
        if uniform is None and not _fits(node, context, max_bytes):
            continue
        if not context.allow_rewrite(f"fold.{_LABEL}"):
            break
        with graph.edit(_LABEL, fused(_LABEL, *_locs(node))) as editor:
            values = [uniform_full(editor, node, uniform)] if uniform is not None else _evaluate(editor, node)
            editor.replace_node(node, values)
            drop_dead(editor, [v.producer for v in node.operands if v is not None and v.producer is not None])
        outcome.count(_LABEL)
    return outcome


def _locs(node: Node) -> Iterator[Any]:
    for value in node.operands:
        if value is not None and value.producer is not None:
            yield value.producer.loc
    yield node.loc


def _is_scalar_constant(node: Node) -> bool:
    return node.type.rank == 0 and node.type.encoding == DENSE and number_of(node.result) is not None


def _is_candidate(node: Node) -> bool:
    return _is_pure(node) and all(v is None or _is_known(v) for v in node.operands)


def _is_pure(node: Node) -> bool:
    """Whether a node computes something that may be computed now."""
    name = node.op.name
    return node.op.effect is Effect.PURE and bool(node.results) and "." not in name and name not in (
        "full", "fused", "cond"
    )


def _is_known(value: Value) -> bool:
    if value.producer is None or not isinstance(value.type, TensorType) or value.type.encoding != DENSE:
        return False
    if value.is_const:
        return True
    return value.producer.op.name == "full" and not isinstance(value.producer.attrs["value"], Expr)


def _uniform_result(node: Node) -> Number | None:
    """The number that every element of the only result is, where operands that are `full` show it and `full` takes the
    element type."""
    from mcomp.ops.elementwise import ElementWise
    from mcomp.ops.rules import ALL

    if len(node.results) != 1 or node.type.dtype not in ALL:
        return None
    if node.op.name == "const":
        return number_of(node.result)
    given = [v for v in node.operands if v is not None]
    if not given or any(v.is_const and v.tensor.rank for v in given):
        return None
    numbers = [number_of(v) for v in given]
    if any(n is None for n in numbers):
        return None
    if node.op.name in _MOVES:
        return numbers[0]
    if not isinstance(node.op, ElementWise) or node.type.dtype.is_complex:
        return None
    return _apply_to_scalars(node)


def _apply_to_scalars(node: Node) -> Number | None:
    import torch

    from mcomp.ir import dtypes

    inputs = []
    for value in node.operands:
        wanted: Any = None if value is None else dtypes.to_torch(value.tensor.dtype)
        inputs.append(None if value is None else torch.tensor(number_of(value), dtype=wanted))
    result: Number = node.op.reference(inputs, node.attrs).item()
    return result


def uniform_full(editor: Editor, node: Node, number: Number) -> Value:
    """A `full` of a number in place of the only result of a node."""
    type = node.type
    attrs = {"value": number, "shape": type.shape, "dtype": type.dtype}
    return editor.add("full", (), attrs, before=node).result


def _fits(node: Node, context: Context, max_bytes: int) -> bool:
    if node.op.name == "const" or not all(_is_plain(v) for v in node.results):
        return False
    if any(isinstance(d, Expr) for a in node.attrs.values() for d in _leaves(a)):
        return False
    if any(v is not None and not v.tensor.is_static for v in node.operands):
        return False
    result = sum(_bytes(v) for v in node.results)
    constants = {v for v in node.operands if v is not None and v.is_const}
    given = sum(_bytes(v) for v in constants)
    if node.op.view and result > given and not (result <= _SMALL and _feeds_known(node)):
        return False
    if result <= max_bytes or (result <= given and all(len(v.uses) == 1 for v in constants)):
        return True
    if not node.op.view:
        context.missed(
            f"fold.{_LABEL}", node, f"the result of {node.op.name} would take {result} bytes, its operands {given}",
            f"fold with max_bytes={result}",
        )
    return False


def _feeds_known(node: Node) -> bool:
    """Whether some user has nothing but known operands, once this one is known."""
    return any(
        _is_pure(user) and all(v is None or v.producer is node or _is_known(v) for v in user.operands)
        for value in node.results for user in value.users
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for v in value:
            yield from _leaves(v)
    else:
        yield value


def _is_plain(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.is_static and value.type.encoding == DENSE


def _bytes(value: Value) -> int:
    size: Dim = value.tensor.nbytes
    return dims.evaluate(size, {})


def _evaluate(editor: Editor, node: Node) -> list[Value]:
    from mcomp.ops.encoded import array_of
    from mcomp.ops.evaluate import run_node

    inputs = [
        None if v is None or v.producer is None else run_node(v.producer, [], {})[0] for v in node.operands
    ]
    made = run_node(node, inputs, {})
    values = []
    for value, tensor in zip(node.results, made):
        array = array_of(tensor.contiguous())
        values.append(editor.const(array, type=value.tensor, name=_name(node, value), before=node))
    return values


def _name(node: Node, value: Value) -> str:
    """The name of the weight it is made from, if there is just one, else the value's."""
    names = {str(v.producer.attrs["name"]) for v in node.operands if v is not None and v.is_const and v.producer}
    return names.pop() if len(names) == 1 and len(node.results) == 1 else value.name

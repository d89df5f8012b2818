"""Control: a choice between two graphs, assertions, and sizes that come from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.types import ScalarType, TensorType, Type
from mcomp.ops.base import Attr, Cost, Effect, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.rules import BOOL, INTS, present, require_dtype

if TYPE_CHECKING:
    from mcomp.ir.graph import Graph


@register
class Cond(Op):
    """The results of the graph `then` where pred (a bool scalar) holds, else those of `else`; both take the operands.

    Its work is counted as that of the costlier graph where that is known, else of `then`.
    """

    name = "cond"
    operands = operands("pred", "operands*")
    attrs = (Attr("then", "graph"), Attr("else", "graph"))
    accepts_encoded = True

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        pred = present(types)
        require_dtype(pred, BOOL, "pred")
        if pred.rank:
            raise IRError(f"pred {pred} must be a scalar")
        for name in ("then", "else"):
            _check_inputs(attrs[name], types[1:], name)
        then, other = (tuple(v.type for v in attrs[name].outputs) for name in ("then", "else"))
        if len(then) != len(other) or not all(_fits(a, b) for a, b in zip(then, other)):
            raise IRError(f"`then` gives ({_types_text(then)}), `else` ({_types_text(other)})")
        return then

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        then, other = graph_flops(attrs["then"]), graph_flops(attrs["else"])
        difference = dims.add(other, dims.mul(then, -1))
        flops = other if isinstance(difference, int) and difference > 0 else then
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        raise IRError("the reference backend interprets the chosen graph")


def graph_flops(graph: Graph) -> dims.Dim:
    """Operations of one execution of all nodes of a graph."""
    total: dims.Dim = 0
    for node in graph.nodes:
        total = dims.add(total, node.op.node_cost(node).flops)
    return total


def _check_inputs(body: Graph, types: Sequence[TensorType | None], name: str) -> None:
    if len(types) != len(body.inputs):
        raise IRError(f"{len(types)} operands for `{name}`, which has {len(body.inputs)} inputs")
    for value, type in zip(body.inputs, types):
        if type is None or not _fits(value.type, type):
            raise IRError(f"operand of type {type} for the input %{value.name}: {value.type} of `{name}`")


def _fits(a: Type, b: Type) -> bool:
    from mcomp.ir.verifier import compatible

    return compatible(a, b)


def _types_text(types: Sequence[Type]) -> str:
    return ", ".join(map(str, types))


@register
class Assert(Op):
    """Stops the run with `message` unless every element of x (bool) holds."""

    name = "assert_"
    operands = operands("x")
    attrs = (Attr("message", "str", ""),)
    effect = Effect.EFFECTFUL
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        require_dtype(present(types), BOOL)
        return ()

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(present(types).numel, total_bytes(types), 0)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        if not bool(inputs[0].all()):
            raise IRError(attrs["message"] or "an assertion of the model failed")
        return ()


@register
class Item(Op):
    """The number in a tensor of one integer, as a size: gives `symbol`, which the graph declares, its value.

    Effectful, for the symbol may be used where the result is not.
    """

    name = "item"
    operands = operands("x")
    attrs = (Attr("symbol", "str"),)
    effect = Effect.EFFECTFUL
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, INTS | BOOL)
        if x.rank:
            raise IRError(f"{x} must have rank 0")
        return (ScalarType(dtypes.i64),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost()

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return int(inputs[0].item())

"""Operators that hold the graph together: return, const, full, fused, opaque calls are in `opaque`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.errors import IRError
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Effect, Op, Tolerance, operands, register, total_bytes

if TYPE_CHECKING:
    from mcomp.ir.graph import Node


@register
class Return(Op):
    """The end of a graph; its operands are the results."""

    name = "return"
    operands = operands("values*")
    effect = Effect.EFFECTFUL
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        return ()

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return ()


@register
class Const(Op):
    """A weight of the store, by digest."""

    name = "const"
    attrs = (Attr("name", "str"), Attr("digest", "str"))
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        raise IRError("the type of a constant comes from the weight store")

    def infer_node(self, node: Node) -> tuple[Type, ...]:
        try:
            return (node.graph.store.get(node.attrs["digest"]).type,)
        except KeyError as e:
            raise IRError(f"const @{node.attrs['name']}: {e.args[0]}") from e

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost()

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        raise IRError("the reference backend reads constants from the store")


@register
class Fused(Op):
    """A region computed as one kernel: the body's inputs are the operands, its outputs the results."""

    name = "fused"
    operands = operands("inputs*")
    attrs = (Attr("kind", "str", ""), Attr("body", "graph"))
    accepts_encoded = True

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        body = attrs["body"]
        if len(types) != len(body.inputs):
            raise IRError(f"{len(types)} operands for a body with {len(body.inputs)} inputs")
        for value, type in zip(body.inputs, types):
            if value.type != type:
                raise IRError(f"operand of type {type} for the body's input %{value.name}: {value.type}")
        return tuple(v.type for v in body.outputs)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        from mcomp.ir import dims

        flops: dims.Dim = 0
        for node in attrs["body"].nodes:
            flops = dims.add(flops, node.op.node_cost(node).flops)
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        raise IRError("the reference backend interprets the body")


@register
class Decode(Op):
    """The dense tensor that an encoded one means."""

    name = "decode"
    operands = operands("x")
    tolerance = Tolerance.ROUNDING

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        assert types[0] is not None
        return (types[0].dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0]

"""Sorting and the largest elements. NaN counts as larger than every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.index import search_steps
from mcomp.ops.rules import BOOL, NUMBERS, check_axis, exceeds, present, require_dtype


@register
class Sort(Op):
    """The elements along an axis in order, and where they were: (values, indices i64). With `stable`, equal elements
    keep their order."""

    name = "sort"
    operands = operands("x")
    attrs = (Attr("axis", "int"), Attr("descending", "bool", False), Attr("stable", "bool", True))
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, NUMBERS | BOOL)
        check_axis(attrs["axis"], x.rank)
        return x.dense(), TensorType(x.shape, dtypes.i64)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        x = present(types)
        steps = search_steps(x.shape[attrs["axis"]])
        return Cost(dims.mul(x.numel, steps), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return tuple(torch.sort(inputs[0], dim=attrs["axis"], descending=attrs["descending"], stable=attrs["stable"]))


@register
class Topk(Op):
    """The k largest (or smallest) elements along an axis and where they were: (values, indices i64). In order with
    `sorted`, largest (or smallest) first; which of equal elements come is open."""

    name = "topk"
    operands = operands("x")
    attrs = (Attr("k", "dim"), Attr("axis", "int"), Attr("largest", "bool", True), Attr("sorted", "bool", True))
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, k = present(types), attrs["k"]
        require_dtype(x, NUMBERS)
        axis = check_axis(attrs["axis"], x.rank)
        if exceeds(0, k) or exceeds(k, x.shape[axis]):
            raise IRError(f"cannot take {k} of {x.shape[axis]} elements along axis {axis}")
        shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
        return TensorType(shape, x.dtype), TensorType(shape, dtypes.i64)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(dims.mul(present(types).numel, search_steps(attrs["k"])), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return tuple(torch.topk(inputs[0], attrs["k"], attrs["axis"], attrs["largest"], attrs["sorted"]))

"""Scaled dot-product attention and rotary position embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.checks import broadcast, differ, need_dim, need_float, need_rank, present, same_dtype
from mcomp.ops.rules import broadcasts_to, optional

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]


@register
class Attention(Op):
    """softmax(query @ keyᵀ * scale + mask) @ value, over query[..., H, L, D], key[..., Hk, S, D] and
    value[..., Hk, S, Dv]: [..., H, L, Dv].

    `mask` broadcasts to [..., H, L, S]: bool keeps where true, float is added. `causal` also keeps only keys whose
    place is not after the query's, both counted from 0. A row with nothing kept gives zeros. `scale` none is
    1/sqrt(D). `grouped`: H is a multiple of Hk, and consecutive query heads share a key head.
    """

    name = "attention"
    operands = operands("query", "key", "value", "mask?")
    attrs = (Attr("causal", "bool", False), Attr("scale", "float?", None), Attr("grouped", "bool", False))
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        query, key, value = present(types, 0, "query"), present(types, 1, "key"), present(types, 2, "value")
        mask = optional(types, 3)
        least = 3 if attrs["grouped"] else 2
        for type, name in ((query, "query"), (key, "key"), (value, "value")):
            need_rank(type, name, least, -1)
            need_float(type, name)
        same_dtype({"query": query, "key": key, "value": value})
        need_dim(key, "key", -1, query.shape[-1], "the last axis of query")
        need_dim(value, "value", -2, key.shape[-2], "the sequence length of key")
        shapes = {"query": query.shape[:-2], "key": key.shape[:-2], "value": value.shape[:-2]}
        if attrs["grouped"]:
            heads = query.shape[-3]
            for type, name in ((key, "key"), (value, "value")):
                if differ(dims.mod(heads, type.shape[-3]), 0):
                    raise IRError(f"{heads} query heads are no multiple of the {type.shape[-3]} heads of {name}")
            shapes = {name: (*shape[:-1], heads) for name, shape in shapes.items()}
        lead = broadcast(shapes)
        if mask is not None:
            if mask.dtype != dtypes.bool_ and mask.dtype != query.dtype:
                raise IRError(f"mask is {mask.dtype}; it must be bool or {query.dtype}")
            scores = (*lead, query.shape[-2], key.shape[-2])
            if not broadcasts_to(mask.shape, scores):
                raise IRError(f"mask {list(mask.shape)} does not broadcast to the scores {list(scores)}")
        return (TensorType((*lead, query.shape[-2], value.shape[-1]), query.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        """Both products and ten operations per score for the softmax; masked scores count too."""
        query, value = present(types, 0, "query"), present(types, 2, "value")
        scores = dims.mul(dims.product(results[0].shape[:-1]), value.shape[-2])
        each = dims.add(dims.mul(2, dims.add(query.shape[-1], value.shape[-1])), 10)
        return Cost(dims.mul(scores, each), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        query, key, value = inputs[:3]
        mask = inputs[3] if len(inputs) > 3 else None
        causal = attrs["causal"]
        if causal and mask is not None:
            kept = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
            mask = mask & kept if mask.dtype == torch.bool else mask.masked_fill(~kept, float("-inf"))
            causal = False
        return scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=attrs["scale"], enable_gqa=attrs["grouped"]
        )


@register
class Rope(Op):
    """Rotary position embedding of x[B, H, L, D]: x * cos + rotate(x) * sin, with cos and sin broadcast to x.

    rotate(x) swaps the halves of the last axis and negates the second half: (-x2, x1). `interleaved`: the same for each
    pair of neighbours. D is even.
    """

    name = "rope"
    operands = operands("x", "cos", "sin")
    attrs = (Attr("interleaved", "bool", False),)

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, cos, sin = present(types, 0, "x"), present(types, 1, "cos"), present(types, 2, "sin")
        need_rank(x, "x", 1, -1)
        same_dtype({"x": x, "cos": cos, "sin": sin})
        need_float(x, "x")
        if differ(dims.mod(x.shape[-1], 2), 0):
            raise IRError(f"the last axis of x is {x.shape[-1]}, which is odd")
        for type, name in ((cos, "cos"), (sin, "sin")):
            if not broadcasts_to(type.shape, x.shape):
                raise IRError(f"{name} {list(type.shape)} does not broadcast to x {list(x.shape)}")
        return (TensorType(x.shape, x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return Cost(dims.mul(4, results[0].numel), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch

        x, cos, sin = inputs
        if attrs["interleaved"]:
            rotated = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        else:
            half = x.shape[-1] // 2
            rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * cos + rotated * sin

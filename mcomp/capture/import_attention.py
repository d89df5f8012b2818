"""Importers of attention."""

from __future__ import annotations

from mcomp.capture.importing import Call, Decline, imports
from mcomp.ir.graph import Value


@imports("aten.scaled_dot_product_attention.default")
def attention(call: Call) -> Value:
    if call["dropout_p"]:
        raise Decline("it draws random numbers")
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    mask, scale = call.maybe("attn_mask"), call["scale"]
    if scale is not None and not isinstance(scale, int | float):
        raise Decline("its scale is computed at run time")
    if mask is not None and mask.tensor.dtype.kind != "bool":
        mask = call.cast(mask, query.tensor.dtype)
    grouped = bool(call["enable_gqa"]) and query.tensor.rank > 2 and key.tensor.shape[-3] != query.tensor.shape[-3]
    return call.emit(
        "attention", [query, key, value, mask], causal=bool(call["is_causal"]),
        scale=None if scale is None else float(scale), grouped=grouped,
    )


@imports("aten._scaled_dot_product_flash_attention_for_cpu.default",
         "aten._scaled_dot_product_efficient_attention.default", "aten._scaled_dot_product_flash_attention.default")
def attention_kernel(call: Call) -> list[Value | None]:
    if call["dropout_p"]:
        raise Decline("it draws random numbers")
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    mask = call.get("attn_mask", call.get("attn_bias"))
    scale = call.get("scale")
    made = call.emit(
        "attention", [query, key, value, mask], causal=bool(call["is_causal"]),
        scale=None if scale is None else float(scale), grouped=key.tensor.shape[-3] != query.tensor.shape[-3],
    )
    return [made, *([None] * 8)]

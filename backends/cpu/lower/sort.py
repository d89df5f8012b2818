"""Sorting, the largest k, binary search."""

from __future__ import annotations

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.builder import TARGET, Builder
from mcomp.backends.cpu.lower.norm import around
from mcomp.ir import dims
from mcomp.ir.graph import Node

HEADERS = ("sort.hpp",)


@lowers("sort", "topk", target=TARGET)
def lower_sort(node: Node, b: Builder) -> Declined | None:
    """Values in order with where they were; `topk` the first k of them."""
    x, a = b.contiguous(node.operand(0)), node.attrs
    if x.dtype.is_complex or x.rank == 0:
        return Declined(f"{x.dtype} of rank {x.rank} has no kernel")
    outs = {"values": b.write(node.results[0]), "indices": b.write(node.results[1])}
    numbers = dict(around(x, a["axis"]))
    if node.op.name == "sort":
        text = f"sort(w, x, values, indices, outer, n, inner, {_bool(a['descending'])});"
    else:
        numbers["k"] = a["k"]
        text = f"topk(w, x, values, indices, outer, n, inner, k, {_bool(a['largest'])}, {_bool(a['sorted'])});"
    b.call(node.op.name, text, outs=outs, ins={"x": x}, numbers=numbers, headers=HEADERS)
    return None


@lowers("searchsorted", target=TARGET)
def lower_searchsorted(node: Node, b: Builder) -> Declined | None:
    """Where elements would be inserted."""
    edges, x = b.contiguous(node.operand(0)), b.contiguous(node.operand(1))
    out = b.write(node.result)
    shared = edges.rank == 1
    rows = 1 if shared else dims.product(x.shape[:-1])
    b.call("searchsorted", f"searchsorted(w, edges, x, out, outer, n, m, {_bool(node.attrs['right'])}, {_bool(shared)});",
           outs={"out": out}, ins={"edges": edges, "x": x}, headers=HEADERS,
           numbers={"outer": rows, "n": edges.shape[-1], "m": x.numel if shared else x.shape[-1]})
    return None


def _bool(value: bool) -> str:
    return "true" if value else "false"

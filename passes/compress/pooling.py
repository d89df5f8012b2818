"""Moving quantization in front of max pooling, so that bytes are pooled."""

from __future__ import annotations

from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, Node
from mcomp.ir.loc import fused
from mcomp.manager.context import Context

_POOLS = ("max_pool", "adaptive_max_pool")


def pool_bytes(graph: Graph, context: Context) -> int:
    """Quantize what is pooled instead of the pooled values; returns at how many places.

        %p = max_pool %x                             %q0 = quantize %x {scale = s, zero = z}
        %q = quantize %p {scale = s, zero = z}       %d = decode %q0
                                                     %p = max_pool %d
                                                     %q = quantize %p {scale = s, zero = z}

    Rounding to a scale keeps order, so that %q is the same (except for NaN); other readers of %p get rounded values. What
    computes %x then writes bytes, and kernels that pool them keep them.
    """
    done = 0
    for node in list(graph.nodes):
        pool = _pool_before(node)
        if pool is None or context.excluded("quantize", pool) or not context.allow_rewrite("quantize.pool"):
            continue
        x = pool.operand(0)
        with graph.edit("quantize", loc=node.loc) as editor:
            loc = fused("quantize", node.loc, pool.loc)
            coded = editor.add("quantize", [x], node.attrs, loc=loc, before=pool, name=f"{x.name}_q").result
            plain = editor.add("decode", [coded], loc=loc, before=pool, name=f"{x.name}_d").result
            editor.set_operands(pool, (plain, *pool.operands[1:]))
        done += 1
    return done


def _pool_before(node: Node) -> Node | None:
    """The max pooling that alone reads floats and feeds a quantize with a known scale."""
    if node.op.name != "quantize" or node.attrs["scale"] is None:
        return None
    pool = node.operand(0).producer
    if pool is None or pool.op.name not in _POOLS or len(pool.results) != 1:
        return None
    x = pool.operand(0)
    alone = x.users == (pool,) and x.producer is not None and x.tensor.encoding == DENSE
    return pool if alone else None

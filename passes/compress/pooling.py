"""Moving quantization in front of max pooling, so that bytes are pooled."""

from __future__ import annotations

from collections.abc import Mapping

from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.passes.compress.layer import round_trip
from mcomp.passes.compress.samples import Key, Sample, error_by_row, sample_of

_POOLS = ("max_pool", "adaptive_max_pool")


def pool_bytes(graph: Graph, context: Context, samples: Mapping[Key, Sample], limit: float) -> int:
    """Quantize what is pooled instead of the pooled values; returns at how many places.

        %p = max_pool %x                             %q0 = quantize %x {scale = s, zero = z}
        %q = quantize %p {scale = s, zero = z}       %d = decode %q0
                                                     %p = max_pool %d
                                                     %q = quantize %p {scale = s, zero = z}

    Rounding to a scale keeps order, so that %q is the same (except for NaN). Other readers of %p get rounded values: where
    there are some, rounding may change %p by at most `limit` (relative L2 error, root mean square over images of the
    sample). What computes %x then writes bytes, and kernels that pool them keep them.
    """
    done = 0
    for node in list(graph.nodes):
        pool = _pool_before(node)
        if pool is None or context.excluded("quantize", pool):
            continue
        error = error_for_others(node, pool.result, samples)
        if not error <= limit:
            context.missed("quantize", pool, f"rounding what it gives would change it for others by {error:.1%}, more than "
                           f"{limit:.1%}", "raise residual")
            continue
        if not context.allow_rewrite("quantize.pool"):
            break
        x = pool.operand(0)
        with graph.edit("quantize", loc=node.loc) as editor:
            loc = fused("quantize", node.loc, pool.loc)
            coded = editor.add("quantize", [x], node.attrs, loc=loc, before=pool, name=f"{x.name}_q").result
            plain = editor.add("decode", [coded], loc=loc, before=pool, name=f"{x.name}_d").result
            editor.set_operands(pool, (plain, *pool.operands[1:]))
        if error:
            detail = f"others read it as {node.attrs['dtype']}"
            context.record(graph, LedgerEntry("quantize", pool.layer, pool.name, error=error, detail=detail))
            context.remark("applied", "quantize", pool, detail)
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
    if x.producer is None or x.producer.op.name == "decode" or x.tensor.encoding != DENSE:
        return None
    return pool if x.users == (pool,) else None


def error_for_others(node: Node, value: Value, samples: Mapping[Key, Sample]) -> float:
    """How much readers of a value besides a quantize see it change when it is rounded so; infinite where no sample tells."""
    others = [u for u in value.users if u.op is not node.op or dict(u.attrs) != dict(node.attrs)]
    if not others:
        return 0.0
    sample = sample_of(value, samples)
    if sample is None:
        return float("inf")
    rows = sample.rows()
    return error_by_row(round_trip(rows, node.attrs), rows)

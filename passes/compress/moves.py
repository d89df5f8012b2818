"""Letting values stay bytes between what makes them and what reads them."""

from __future__ import annotations

from collections.abc import Mapping

from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.passes.compress.averages import average_bytes
from mcomp.passes.compress.joins import join_bytes
from mcomp.passes.compress.pooling import pool_bytes
from mcomp.passes.compress.residual import residual_bytes
from mcomp.passes.compress.samples import Key, Sample
from mcomp.passes.compress.views import quantize_behind_makers


def move_bytes(graph: Graph, context: Context, samples: Mapping[Key, Sample], limit: float) -> dict[str, int]:
    """Pool, join, split, average, view and add bytes; returns at how many places, by kind. `limit`: how much rounding may
    change what others read, see the functions for each kind."""
    pools = pool_bytes(graph, context, samples, limit)
    joins = join_bytes(graph, context, samples, limit)
    if joins:
        pools += pool_bytes(graph, context, samples, limit)
    averages = average_bytes(graph, context, samples, limit)
    views = quantize_behind_makers(graph, context)
    residuals = residual_bytes(graph, context, samples, limit)
    return {"pools": pools, "joins": joins, "averages": averages, "views": views, "residuals": residuals}

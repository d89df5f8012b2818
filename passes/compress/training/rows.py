"""Whether rows of a batch are samples: what is computed of each does not depend on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcomp.ir.dims import Bounds, symbols
from mcomp.ir.graph import Graph, Value
from mcomp.ir.types import TensorType
from mcomp.ops.base import Effect
from mcomp.passes.compress.training.tasks import running_teacher

_ROWS = 8
"""Rows that are looked at."""
_CLOSE, _CLOSE_IN_HALVES = 1e-3, 2e-2
"""How far apart (relative L2) values of the same row may be, and where numbers of 16 bits are computed with."""


def told_apart(
    flags: list[bool] | None, graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value],
    batches: Sequence[Sequence[Any]],
) -> list[bool] | None:
    """`flags`, which say what inputs have a row for each sample (see `row_columns`), where rows are samples indeed: None
    where every second row of a batch gives other outputs alone than in the batch, because the first axis is one of time, or
    something is computed over the batch.

    `outputs` of `graph` are computed from `inputs`, values of which each of `batches` starts with. What is random, or of
    one row only, tells nothing.
    """
    if flags is None or any(n.op.effect is not Effect.PURE for n in graph.walk()):
        return flags
    first = flags.index(True)
    (symbol,) = symbols(inputs[first].tensor.shape[0])
    least = max(1, graph.symbols.get(symbol, Bounds()).low)
    batch = next((b for b in batches if b[first].shape[0] >= 2 * least), None)
    if batch is None:
        return flags
    count = min(int(batch[first].shape[0]), max(_ROWS, 2 * least))
    compute = running_teacher(graph, outputs, inputs)
    together, apart = (
        compute([x[:count:step] if own else x for x, own in zip(batch, flags)]) for step in (1, 2)
    )
    limit = _CLOSE_IN_HALVES if _has_halves(graph) else _CLOSE
    return flags if all(_alike(b, a[::2], limit) for a, b in zip(together, apart)) else None


def _alike(ours: Tensor, theirs: Tensor, limit: float) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not theirs.is_floating_point():
        return True
    finite = torch.isfinite(theirs)
    if not torch.equal(finite, torch.isfinite(ours)):
        return False
    a, b = (torch.where(finite, y, 0.0).double() for y in (ours, theirs))
    return bool((a - b).norm() <= limit * b.norm())


def _has_halves(graph: Graph) -> bool:
    types = [v.type for n in graph.walk() for v in n.results if isinstance(v.type, TensorType)]
    return any(t.dtype.is_float and t.dtype.bits == 16 for t in types)

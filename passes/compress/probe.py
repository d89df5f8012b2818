"""Probing: what removing units of one dimension does to the outputs of the model, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.passes.analysis.coupling import Consumer, Dimension
from mcomp.passes.compress.lockstep import fitted, store
from mcomp.passes.compress.moments import Moments, bias_shift, refit, weight_matrix
from mcomp.plan.quality import relative_error

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.curves import Curve

_BATCHES = 2
"""Calibration batches that are probed with."""
_SHARES = (0.2, 0.45, 0.7)
"""Shares of a dimension's units that are taken away for probing."""


def output_errors(
    graph: Graph, context: Context, chosen: Sequence[tuple[Dimension, np.ndarray]], moments: Mapping[Node, Moments]
) -> list[float | None]:
    """For each dimension, the squared relative error of the model's outputs when only these of its units are gone and the
    products that sum over them are refitted on the dense model's second moments. None where one of these cannot be."""
    import torch

    assert context.calibration is not None
    with torch.no_grad():
        expected = context.calibration.outputs(graph, limit=_BATCHES)
        found: list[float | None] = []
        for dimension, units in chosen:
            if not all(c.weight is not None and fitted(c.node) and c.node in moments for c in dimension.consumers):
                found.append(None)
                continue
            trial = graph.clone()
            with trial.edit("probe") as editor:
                for consumer in dimension.consumers:
                    node = trial.value(consumer.node.result.name).producer
                    assert node is not None
                    store(editor, node, *without(consumer, units, moments[consumer.node]))
            found.append(relative_error(context.calibration.outputs(trial, limit=_BATCHES), expected) ** 2)
    return found


def probed(
    graph: Graph, context: Context, curves: Sequence[tuple[Dimension, Curve]], moments: Mapping[Node, Moments]
) -> list[tuple[Dimension, Curve]]:
    """Curves whose errors are those of the model's outputs: measured at some points, between which the ratio of these to
    what the layers lose is interpolated. Dimensions that cannot be probed get the median ratio; they leave a remark."""
    marks = [_marks(curve) for _, curve in curves]
    trials = [(d, c.order[:k]) for (d, c), points in zip(curves, marks) for k in points]
    measured = iter(output_errors(graph, context, trials, moments))
    ratios = [[_ratio(next(measured), c.errors[k]) for k in points] for (_, c), points in zip(curves, marks)]
    known = [r for some in ratios for r in some if r is not None]
    usual = float(np.median(known)) if known else 1.0
    found = []
    for (dimension, curve), points, some in zip(curves, marks, ratios):
        given = [(k, r) for k, r in zip(points, some) if r is not None]
        if not given:
            context.remark("note", "prune", dimension.nodes[0], "what it does to the outputs cannot be probed; its layers' "
                           "errors count as those of others do on average")
            given = [(0, usual)]
        places, values = zip(*given)
        scale = np.interp(np.arange(len(curve.errors)), places, values)
        found.append((dimension, replace(curve, errors=np.maximum.accumulate(curve.errors * scale), output=True)))
    return found


def _marks(curve: Curve) -> list[int]:
    """How many units are taken away for probing."""
    wanted = (int(share * curve.size) for share in _SHARES)
    return sorted({k for k in wanted if 0 < k < len(curve.errors)})


def _ratio(measured: float | None, error: float) -> float | None:
    return None if measured is None or error <= 0.0 or not np.isfinite(measured) else measured / error


def without(consumer: Consumer, units: np.ndarray, moments: Moments) -> tuple[Tensor, Tensor]:
    """The weight [G, N, K] of a product, zero where it meets units and refitted elsewhere, and its bias [G, N]."""
    import torch

    weight = weight_matrix(consumer.node)
    window = prod(consumer.node.operand(1).tensor.static_shape[2:])
    local = weight.shape[-1] // window
    stays = np.ones((local, window), bool)
    stays[np.unique(consumer.positions[units].reshape(-1) % local)] = False
    keep = torch.from_numpy(np.flatnonzero(stays.reshape(-1)))
    small = refit(weight, moments.gram, keep, mean=moments.mean)
    full = torch.zeros_like(weight)
    full[..., keep] = small
    held = consumer.node.maybe(2)
    bias = torch.zeros(weight.shape[:2], dtype=weight.dtype)
    if held is not None and held.weight is not None:
        bias = torch.from_numpy(np.array(held.weight.decode(), np.float64)).reshape(weight.shape[:2])
    return full, bias + bias_shift(weight, small, keep, moments.mean)

"""Curves: for every dimension of a graph, in which order its units go and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from mcomp.errors import PassError
from mcomp.ir.encoding import DENSE, BlockSparse
from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.passes.analysis.coupling import Consumer, Coupling, CouplingAnalysis, Dimension
from mcomp.passes.compress.moments import Moments, collect_moments, weight_matrix
from mcomp.passes.compress.narrow import own_constants
from mcomp.passes.compress.probe import probed
from mcomp.passes.compress.sensitivity import Sensitivity, sensitivity
from mcomp.passes.compress.surgeon import Order, Reader, additive_order, refit_errors, surgeon_order

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["obs", "activation", "magnitude", "taylor"]
Weighing = Literal["output", "layer"]

MEASURED = ("linear", "conv")
"""Products whose inputs have second moments."""
_PIECES = 128
"""Units of a dimension go in at least so many steps, between which inverse matrices are updated."""


@dataclass(frozen=True, eq=False)
class Curve:
    """How one dimension shrinks. `key`: its name. `order`: the units as they go. `errors[k]`: the squared error once the
    first k are gone and weights are refitted: relative to what the layers that read the units give, summed over these, or
    with `output`, relative to what the model gives. `macs`, `nbytes`: what one unit takes."""

    key: str
    kind: str
    size: int
    order: np.ndarray
    errors: np.ndarray
    macs: int
    nbytes: int
    output: bool = False


def prune_curves(
    graph: Graph, context: Context, *, what: Sequence[str] = ("channels", "ffn", "heads"), score: Score = "obs",
    weighing: Weighing = "layer", limit: int = 128,
) -> list[Curve]:
    """Curves of all dimensions of these kinds that can shrink; the graph stays. Others leave remarks."""
    graph = graph.clone()
    with graph.edit("prune") as editor:
        own_constants(graph, editor)
    coupling: Coupling = context.analyze(graph, CouplingAnalysis())
    dimensions = candidates(graph, context, coupling, what, score)
    moments = reader_moments(graph, context, dimensions, limit)
    found = curves_of(graph, context, dimensions, moments, score=score, weighing=weighing)
    return [curve for _, curve in found]


def reader_moments(
    graph: Graph, context: Context, dimensions: Sequence[Dimension], limit: int
) -> Mapping[Node, Moments]:
    """Second moments of what the products that read dimensions are given. Raises PassError without calibration data."""
    if context.calibration is None:
        raise PassError("prune: errors are measured on calibration data, and there is none", code="MC0205",
                        help="pass calibration=[...] or example inputs")
    return collect_moments(graph, context.calibration, _judged(dimensions), limit)


def _judged(dimensions: Sequence[Dimension]) -> list[Node]:
    return list(dict.fromkeys(c.node for d in dimensions for c in d.consumers if _has_moments(c)))


def _has_moments(consumer: Consumer) -> bool:
    return consumer.weight is not None and consumer.node.op.name in MEASURED


def candidates(
    graph: Graph, context: Context, coupling: Coupling, what: Sequence[str], score: Score
) -> list[Dimension]:
    """Dimensions that may shrink: of the wanted kinds, not excluded, with products that the score can judge."""
    for frozen in coupling.frozen:
        context.missed("prune", frozen.node, f"all {frozen.size} of its outputs stay: {frozen.reason}")
    found = []
    for dimension in coupling.dimensions:
        if dimension.kind not in what or dimension.size < 2:
            continue
        if any(context.excluded("prune", node) for node in dimension.nodes):
            continue
        reason = _refusal(dimension, score)
        if reason is None:
            found.append(dimension)
        else:
            context.missed("prune", dimension.nodes[0] if dimension.nodes else dimension.name, *reason)
    return found


def _refusal(dimension: Dimension, score: Score) -> tuple[str, str] | None:
    if dimension.note and dimension.kind != "stream":
        return f"what stays of its {dimension.size} units would change: {dimension.note}", "use what=[stream] to allow it"
    for use in dimension.producers:
        if isinstance(use.value.tensor.encoding, BlockSparse):
            return f"its weight is {use.value.tensor.encoding} already", "prune before storing blocks"
    judged = [c for c in dimension.consumers if _has_moments(c)]
    if score != "magnitude" and not judged:
        ops = ", ".join(sorted({c.node.op.name for c in dimension.consumers})) or "nothing that has weights"
        return f"its {dimension.size} units are read by {ops}, whose inputs have no second moments", "use score=magnitude"
    if any(c.node.operand(1).tensor.encoding != DENSE for c in judged):
        return "a layer that reads it is compressed already", "prune first"
    return None


def curves_of(
    graph: Graph, context: Context, dimensions: Sequence[Dimension], moments: Mapping[Node, Moments], *, score: Score,
    weighing: Weighing,
) -> list[tuple[Dimension, Curve]]:
    """The curve of each dimension that calibration data reaches, up to its last unit."""
    if score == "magnitude":
        found = [(d, _curve(d, additive_order(magnitudes(d), d.size - 1))) for d in dimensions]
        return probed(graph, context, found, moments) if weighing == "output" else found
    weights = sensitivity(graph, context, _judged(dimensions)) if score == "taylor" else {}
    found = []
    for dimension in dimensions:
        readers = readers_of(dimension, moments)
        if readers is None:
            context.missed("prune", dimension.nodes[0], "calibration data never reached what reads it")
            continue
        most = dimension.size - 1
        if score == "obs":
            order = surgeon_order(readers, dimension.size, most, max(1, dimension.size // _PIECES))
        elif score == "activation":
            order = additive_order(activations(readers, dimension.size), most)
        else:
            order = additive_order(gradients(dimension, weights), most)
        found.append((dimension, _curve(dimension, order)))
    return probed(graph, context, found, moments) if weighing == "output" else found


def _curve(dimension: Dimension, order: Order) -> Curve:
    return Curve(
        dimension.name, dimension.kind, dimension.size, order.units, order.errors, dimension.macs, dimension.nbytes
    )


def readers_of(dimension: Dimension, moments: Mapping[Node, Moments]) -> list[Reader] | None:
    """The products that sum over a dimension; None when one of them has no moments."""
    found: list[Reader] = []
    for consumer in dimension.consumers:
        if not _has_moments(consumer):
            continue
        if consumer.node not in moments:
            return None
        found += _readers(consumer, moments[consumer.node])
    return found


def _readers(consumer: Consumer, moments: Moments) -> list[Reader]:
    import torch

    node = consumer.node
    weight, covariance = weight_matrix(node), moments.covariance
    groups, _, width = weight.shape
    window = prod(node.operand(1).tensor.static_shape[2:])
    local = width // window
    whole = float(torch.einsum("gnk,gkl,gnl->", weight, moments.gram, weight))
    found = []
    for g in range(groups):
        channels = _of_group(consumer.positions, g, local, groups)
        inputs = torch.from_numpy((channels[:, :, None] * window + np.arange(window)).reshape(len(channels), -1))
        found.append(Reader(weight[g], covariance[g], inputs, 1.0 / max(whole, 1e-30)))
    return found


def _of_group(positions: np.ndarray, group: int, local: int, groups: int) -> np.ndarray:
    """Places within a group of the channels that units have in it, i64[units, m]."""
    if groups == 1:
        return positions
    inside = positions // local == group
    return (positions[inside] % local).reshape(len(positions), -1)


def magnitudes(dimension: Dimension) -> Tensor:
    """The squared norm of what makes each unit, as a share of all, summed over the constants that do."""
    import torch

    total = torch.zeros(dimension.size, dtype=torch.float64)
    for use in dimension.producers:
        weight = use.value.weight
        if weight is None or weight.type.rank < 2:
            continue
        data = np.moveaxis(np.asarray(weight.decode(), np.float64), use.axis, 0)
        norms = np.square(data.reshape(len(data), -1)).sum(1)[use.positions].sum(1)
        total += torch.from_numpy(norms / max(norms.sum(), 1e-30))
    return total


def activations(readers: Sequence[Reader], units: int) -> Tensor:
    """The squared change of what products give when each unit stays at its mean: weights times the deviation of activations
    (in the manner of Sun et al. 2023, arXiv:2306.11695, for groups)."""
    import torch

    total = torch.zeros(units, dtype=torch.float64)
    for reader in readers:
        each = reader.weight.double().square().sum(0) * reader.gram.diagonal() * reader.scale
        total += each[reader.inputs].sum(1)
    return total


def gradients(dimension: Dimension, weights: Mapping[Node, Sensitivity]) -> Tensor:
    """The mean square of activation times gradient, summed over each unit's elements first (Molchanov et al. 2019,
    arXiv:1906.10771, with the model's own output in the place of a loss)."""
    import torch

    total = torch.zeros(dimension.size, dtype=torch.float64)
    for consumer in dimension.consumers:
        if consumer.node in weights:
            per_sample = weights[consumer.node].products
            total += per_sample[:, torch.from_numpy(consumer.positions)].sum(-1).square().mean(0)
    return total


def lost_error(dimension: Dimension, units: np.ndarray, moments: Mapping[Node, Moments], refit: bool) -> float | None:
    """The relative L2 error of what reads a dimension once units are gone from it alone, the root of the sum over the
    products that do; with `refit` after the best one. None where no such product has second moments."""
    import torch

    readers = readers_of(dimension, moments)
    if not readers:
        return None
    if refit:
        return float(refit_errors(readers, units, [len(units)])[0] ** 0.5)
    square = 0.0
    for reader in readers:
        columns = reader.inputs[torch.from_numpy(units)].reshape(-1)
        part = reader.weight[:, columns]
        square += reader.scale * float(((part @ reader.gram[columns][:, columns]) * part).sum())
    return square**0.5

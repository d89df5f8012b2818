"""Curves: for every dimension of a graph, in which order its units go and what that costs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mcomp.errors import PassError
from mcomp.ir.encoding import DENSE, BlockSparse
from mcomp.ir.graph import Graph, Node
from mcomp.ir.printer import graph_text
from mcomp.manager.context import Context
from mcomp.passes.analysis.coupling import Coupling, CouplingAnalysis, Dimension
from mcomp.passes.compress.gradients import input_products
from mcomp.passes.compress.moments import Moments, collect_moments
from mcomp.passes.compress.narrow import own_constants
from mcomp.passes.compress.probe import probed
from mcomp.passes.compress.readers import has_moments, judged, losses, portions, readers_of, sharers, too_wide
from mcomp.passes.compress.scores import activations, magnitudes, taylor
from mcomp.passes.compress.surgeon import additive_order, surgeon_order
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["obs", "activation", "magnitude", "taylor"]
Weighing = Literal["output", "layer"]

_PIECES = 128
"""Units of a dimension go in at least so many steps, between which inverse matrices are updated."""


@dataclass(frozen=True, eq=False)
class Curve:
    """How one dimension shrinks. `key`: its name. `order`: the units as they go. `lost[k]`: the squared error of the layers
    that read the units once the first k are gone and weights are refitted, relative to what these give, summed over them;
    None where no such layer has second moments. `errors[k]`: what allocation compares: `lost`, or with `output`, the
    squared error of the model's outputs relative to these. `macs`, `nbytes`: what one unit takes."""

    key: str
    kind: str
    size: int
    order: np.ndarray
    errors: np.ndarray
    lost: np.ndarray | None
    macs: int
    nbytes: int
    output: bool = False


def prune_curves(
    graph: Graph, context: Context, *, what: Sequence[str] = ("channels", "ffn", "heads"), score: Score = "obs",
    weighing: Weighing = "layer", limit: int = 128, statistics: bool = False,
) -> list[Curve]:
    """Curves of all dimensions of these kinds that can shrink; the graph stays. Others leave remarks. `statistics`: see
    `prune`."""
    graph = graph.clone()
    with graph.edit("prune") as editor:
        own_constants(graph, editor)
    coupling: Coupling = context.analyze(graph, CouplingAnalysis())
    dimensions = candidates(graph, context, coupling, what, score, statistics)
    return [curve for _, curve in curves_of(graph, context, dimensions, score=score, weighing=weighing, limit=limit)]


def candidates(
    graph: Graph, context: Context, coupling: Coupling, what: Sequence[str], score: Score, statistics: bool = False
) -> list[Dimension]:
    """Dimensions that may shrink: of the wanted kinds, not excluded, with products that the score can judge, and, but for
    streams and with `statistics`, without norms over their units."""
    for frozen in coupling.frozen:
        context.missed("prune", frozen.node, f"all {frozen.size} of its outputs stay: {frozen.reason}",
                       "use lowrank, quantize or what=blocks for it")
    found = []
    for dimension in coupling.dimensions:
        if dimension.kind not in what or dimension.size < 2:
            continue
        if any(context.excluded("prune", node) for node in dimension.nodes):
            continue
        reason = _refusal(dimension, score, statistics)
        if reason is None:
            found.append(dimension)
        else:
            context.missed("prune", dimension.nodes[0] if dimension.nodes else dimension.name, *reason)
    return found


def _refusal(dimension: Dimension, score: Score, statistics: bool) -> tuple[str, str] | None:
    if dimension.note and dimension.kind != "stream" and not statistics:
        return f"what stays of its {dimension.size} units would change: {dimension.note}", "use statistics=true to allow it"
    for use in dimension.producers:
        if isinstance(use.value.tensor.encoding, BlockSparse):
            return f"its weight is {use.value.tensor.encoding} already", "prune before storing blocks"
    measured = [c for c in dimension.consumers if has_moments(c)]
    if score != "magnitude" and not measured:
        ops = ", ".join(sorted({c.node.op.name for c in dimension.consumers})) or "nothing that has weights"
        return f"its {dimension.size} units are read by {ops}, whose inputs have no second moments", "use score=magnitude"
    if any(c.node.operand(1).tensor.encoding != DENSE for c in measured):
        return "a layer that reads it is compressed already", "prune first"
    if any(too_wide(c.node) for c in measured):
        return "a layer that reads it has too many inputs for second moments", "exclude it"
    return None


def curves_of(
    graph: Graph, context: Context, dimensions: Sequence[Dimension], *, score: Score, weighing: Weighing, limit: int,
    refit: bool = True,
) -> list[tuple[Dimension, Curve]]:
    """The curve of each dimension that calibration data reaches, up to its last unit. Without `refit`, and where one of the
    layers that read it shares its weight, errors are those of weights that stay as they are. Raises PassError without
    calibration data."""
    if context.calibration is None:
        raise PassError("prune: errors are measured on calibration data, and there is none", code="MC0205",
                        help="pass calibration=[...] or example inputs")
    known = _known(graph, context.calibration, limit, refit) if score == "obs" and weighing == "layer" else {}
    fresh = [d for d in dimensions if d.name not in known]
    products = input_products(graph, context, judged(fresh)) if score == "taylor" else {}
    found = [(d, known[d.name]) for d in dimensions if d.name in known]
    for portion in portions(fresh):
        moments = collect_moments(graph, context.calibration, judged(portion), limit)
        curves = []
        for dimension in portion:
            curve = _curve(dimension, moments, score, products, refit)
            if curve is None:
                context.missed("prune", dimension.nodes[0], "calibration data never reached what reads it",
                               "give data that uses it")
            else:
                curves.append((dimension, curve))
        known.update((d.name, curve) for d, curve in curves)
        found += probed(graph, context, curves, moments) if weighing == "output" else curves
    places = {d: i for i, d in enumerate(dimensions)}
    return sorted(found, key=lambda pair: places[pair[0]])


def _known(graph: Graph, calibration: Calibration, limit: int, refit: bool) -> dict[str, Curve]:
    """Curves of this very graph that were found before, by dimension: kept with the calibration data, since a search prunes
    one graph in many ways."""
    digest = hashlib.sha256(f"{graph_text(graph, digests=32)}{limit} {refit}".encode()).hexdigest()
    known: dict[str, Curve] = calibration.memo.setdefault(f"curves {digest}", {})
    return known


def _curve(
    dimension: Dimension, moments: Mapping[Node, Moments], score: Score, products: Mapping[Node, Tensor], refit: bool
) -> Curve | None:
    readers, most = readers_of(dimension, moments), dimension.size - 1
    if readers is None:
        return None
    refit = refit and not any(sharers(c.node) for c in dimension.consumers if has_moments(c))
    if score == "obs":
        order = surgeon_order(readers, dimension.size, most, max(1, dimension.size // _PIECES))
    elif score == "activation":
        order = additive_order(activations(readers, dimension.size), most)
    elif score == "taylor":
        order = additive_order(taylor(dimension, products), most)
    else:
        order = additive_order(magnitudes(dimension), most)
    lost = None
    if readers:
        lost = order.errors if score == "obs" and refit else losses(readers, order.units, refit)
    return Curve(
        dimension.name, dimension.kind, dimension.size, order.units, order.errors if lost is None else lost, lost,
        dimension.macs, dimension.nbytes,
    )

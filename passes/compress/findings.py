"""What the planner's choices do to the outputs of a graph, measured, as plain data that is kept across searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.passes.analysis.coupling import Coupling
from mcomp.passes.compress.branches import branches, output_errors
from mcomp.passes.compress.candidates import Candidate, layer_candidates
from mcomp.passes.compress.candidates import Menu as LayerMenu
from mcomp.passes.compress.curves import candidates, curves_of
from mcomp.passes.compress.probe import layer_weights
from mcomp.passes.compress.scores import magnitudes
from mcomp.passes.compress.sequences import sequence_levels
from mcomp.passes.compress.surgeon import additive_order
from mcomp.passes.compress.treatment import FLOAT, KEEP
from mcomp.plan.offers import Menu
from mcomp.plan.spread import Spread

PRODUCTS = ("linear", "conv")
KINDS = ("channels", "ffn", "heads")
WIDE = 3000
"""Dimensions of more units are ordered by magnitude, and layers with more inputs only rounded: inverse second moments would
take too long."""
LIMIT = 128
_FEW, _MANY = 8, 2**20
"""Rows up to which a linear of at least so many weights takes as long as these take to read: fewer bits save time then."""
_THINNER = LayerMenu(shares=(0.25, 0.4, 0.6))
_PLAIN = LayerMenu(shares=(), gone=())


def widths_found(own: Graph, context: Context, coupling: Coupling, spread: Spread) -> dict[str, Any]:
    spread.say("errors of widths")
    found = candidates(own, context, coupling, KINDS, "obs")
    wide = [d for d in found if d.size > WIDE]
    rest = [d for d in found if d.size <= WIDE]
    curves = curves_of(own, context, rest, score="obs", weighing="output", limit=LIMIT)
    known = {d.name: [c.order.tolist(), [float(e) for e in c.errors]] for d, c in curves}
    for dimension in wide:
        order = additive_order(magnitudes(dimension), dimension.size - 1)
        known[dimension.name] = [order.units.tolist(), (order.errors / max(order.errors[-1], 1e-30)).tolist()]
    return {"curves": known}


def layers_found(own: Graph, context: Context, menu: Menu, spread: Spread) -> dict[str, Any]:
    symbols = assume_symbols(own, {})
    found = layer_candidates(own, context, menu=lambda node: _menu_of(node, menu, symbols), spread=spread)
    products = [n for n in own.nodes if n.name in found and n.op.name in PRODUCTS and _width(n) <= WIDE]
    spread.say("what errors of layers do to the outputs")
    weights = {n.name: w for n, w in layer_weights(own, context, products).items()}
    usual = float(np.median(list(weights.values()) or [1.0]))
    levels = {
        name: [[str(c.treatment), weights.get(name, usual) * c.error**2, c.nbytes]
               for c in _useful(some) if np.isfinite(c.error)]
        for name, some in found.items()
    }
    spread.say("errors of attention and recurrent layers")
    return {"layers": {**levels, **sequence_levels(own, context)}}


def _menu_of(node: Node, menu: Menu, symbols: Mapping[str, int]) -> LayerMenu:
    """What is tried of a layer: besides integers of 8 bits, smaller ones where bytes count, in the products of 8 bits where
    time counts too, and beside floats where it does not, or where time is that of reading the weights."""
    if node.op.name not in PRODUCTS:
        return _THINNER
    width, precisions = _width(node), [FLOAT, (8, "static")]
    if width > WIDE:
        return replace(_PLAIN, precisions=tuple(precisions))
    rows = prod(dims.evaluate(d, symbols) for d in node.operand(0).tensor.shape[:-1])
    read = node.op.name == "linear" and rows <= _FEW and width * dims.evaluate(node.operand(1).tensor.shape[0], {}) >= _MANY
    precisions += [(4, "static")] if menu.small and menu.fast else []
    precisions += [(4, "none")] if read or not menu.fast else []
    return replace(_THINNER, precisions=tuple(precisions))


def _useful(some: Sequence[Candidate]) -> list[Candidate]:
    """Candidates without those that leave factors and blocks in float, where they can be integers."""
    thin = {replace(c.treatment, bits=None, activations="none") for c in some if c.treatment.bits is not None}
    return [c for c in some if c.treatment.bits is not None or c.treatment == KEEP or c.treatment not in thin]


def _width(node: Node) -> int:
    """The inputs that each output of a linear or conv is summed over."""
    shape = node.operand(1).tensor.shape[1:]
    return prod(d for d in shape if isinstance(d, int))


def branches_found(own: Graph, context: Context, spread: Spread) -> dict[str, float]:
    spread.say("errors of branches")
    found = [b for b in branches(own) if not context.excluded("prune", b.add)]
    errors = output_errors(own, context, found) if found else []
    return {b.key: float(e) ** 2 for b, e in zip(found, errors) if np.isfinite(e)}

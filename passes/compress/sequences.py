"""Attention and recurrent layers as the planner's levels: their integers, what these do to the model's outputs, and what
they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mcomp.ir import dtypes
from mcomp.ir.extract import extract
from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.passes.compress.products import (
    AUTO_ATTENTION,
    OPERANDS,
    activation_products,
    product_errors,
    product_ranges,
    rewrite_product,
)
from mcomp.passes.compress.quantize import Quantize
from mcomp.passes.compress.recurrent import (
    RECURRENT,
    RecurrentPlan,
    integer_parts,
    plan_recurrent,
    recurrent_bytes,
    recurrent_nodes,
    recurrent_samples,
    rewrite_recurrent,
)
from mcomp.passes.compress.samples import collect
from mcomp.passes.compress.treatment import KEEP, Treatment
from mcomp.plan.quality import relative_error

Change = Callable[[Graph, Node], None]
"""Makes integers of a node in a graph."""
_BATCHES, _RANGED = 2, 8
"""Calibration batches that outputs are compared on, and that ranges of operands are taken from."""


def usual_integers(node: Node) -> Treatment:
    """The integers of 8 bits that `quantize` gives a layer of this kind by itself."""
    kinds = {"embedding": "none", **dict.fromkeys(RECURRENT, "dynamic")}
    return Treatment(bits=8, activations=kinds.get(node.op.name, "static"))  # type: ignore[arg-type]


def sequence_levels(graph: Graph, context: Context) -> dict[str, list[list[Any]]]:
    """Treatments of the attentions and recurrent layers that `quantize` could change, by name of the node, the untouched one
    first: each as text, with the squared relative error of the model's outputs when nothing else is treated, and its bytes.
    What an attention loses by rounding its weights, a fraction of what its operands do, is not in it."""
    calibration = context.calibration
    assert calibration is not None
    expected = None
    levels: dict[str, list[list[Any]]] = {}
    for node, treatment, size, change in (*_attentions(graph, context), *_recurrent(graph, context)):
        trial = graph.clone()
        twin = trial.value(node.name).producer
        assert twin is not None
        change(trial, twin)
        expected = expected or calibration.outputs(graph, limit=_BATCHES)
        error = relative_error(calibration.outputs(trial, limit=_BATCHES), expected)
        if math.isfinite(error):
            whole = recurrent_bytes(node, False) if node.op.name in RECURRENT else 0
            rows = levels.setdefault(node.name, [[str(KEEP), 0.0, whole]])
            rows.append([str(treatment), error**2, size])
    return levels


def _attentions(graph: Graph, context: Context) -> Iterator[tuple[Node, Treatment, int, Change]]:
    options = Quantize(activations="static", limit=_RANGED)
    nodes = activation_products(options, graph.nodes, context)
    if not nodes or context.calibration is None:
        return
    keys = [(node.operand(i), -1) for node in nodes for i in range(OPERANDS[node.op.name])]
    samples = collect(graph, context.calibration, keys, _RANGED)
    found = {node: product_ranges(options, node, samples) for node in nodes}
    ranges = {node: own for node, own in found.items() if own is not None}
    errors = product_errors(graph, context.calibration, ranges, _RANGED) if ranges else {}
    for node, own in ranges.items():
        if errors[node] <= AUTO_ATTENTION:
            yield node, usual_integers(node), 0, partial(_with_operands, own)


def _recurrent(graph: Graph, context: Context) -> Iterator[tuple[Node, Treatment, int, Change]]:
    nodes = recurrent_nodes(Quantize(), graph.nodes, context)
    if not nodes or context.calibration is None:
        return
    samples = recurrent_samples(graph, context.calibration, nodes)
    for node in nodes:
        asked = context.option(node, "activations", "auto")
        for dynamic in ((True, False) if asked == "auto" else (asked != "none",)) if samples[node.operand(0)] else ():
            plan = plan_recurrent(node, samples, dynamic)
            treatment = usual_integers(node) if dynamic else Treatment(bits=8)
            yield node, treatment, recurrent_bytes(node, True), partial(_with_matrices, plan)


def _with_operands(ranges: list[dict[str, Any]], graph: Graph, node: Node) -> None:
    rewrite_product(graph, node, ranges)


def _with_matrices(plan: RecurrentPlan, graph: Graph, node: Node) -> None:
    rewrite_recurrent(graph, node, plan.parts, plan.dynamic)


def sequence_piece(node: Node, treatment: Treatment) -> Graph:
    """A graph that takes the time of an attention or recurrent layer after a treatment, with what makes its integers."""
    graph = extract([node]).graph
    target = next(n for n in graph.nodes if n.op.name == node.op.name)
    if treatment == KEEP:
        return graph
    if node.op.name in RECURRENT:
        rewrite_recurrent(graph, target, integer_parts(target), treatment.activations != "none")
    else:
        rewrite_product(graph, target, [{"dtype": dtypes.i8, "scale": 0.05, "zero": 0}] * OPERANDS[node.op.name])
    return graph

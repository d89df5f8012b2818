"""Probing: what changes of single layers do to the outputs of the model, measured on a few calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.passes.analysis.coupling import Consumer, Dimension
from mcomp.passes.compress.gradients import pieces
from mcomp.passes.compress.lockstep import bias_of, fitted
from mcomp.passes.compress.moments import DAMPING, Moments, bias_shift, collect_moments, refit, weight_matrix
from mcomp.passes.compress.narrow import own_constants
from mcomp.plan.quality import relative_error

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.curves import Curve

_SAMPLES = 64
"""Calibration samples that are probed with."""
_SHARES = (0.2, 0.45, 0.7)
"""Shares of a dimension's units that are taken away for probing."""
_NUDGE = 0.05
"""The relative error of a layer's output that its weight in the model is told by."""


class Prober:
    """Runs a graph with other weights in some of its linear and conv layers; the graph and its store stay as they are."""

    def __init__(self, graph: Graph, context: Context, nodes: Sequence[Node]) -> None:
        import torch

        assert context.calibration is not None
        self.trial = graph.clone()
        self.inputs = [given for given, _ in pieces(self.trial, context.calibration, _SAMPLES, _SAMPLES)]
        self.nodes: dict[Node, Node] = {}
        with self.trial.edit("probe") as editor:
            own_constants(self.trial, editor, matrices=True)
            for node in nodes:
                twin = self.trial.value(node.result.name).producer
                assert twin is not None
                if twin.maybe(2) is None:
                    type = twin.operand(1).tensor
                    zeros = np.zeros(type.static_shape[0], type.dtype.numpy)
                    none = editor.const(zeros, name="bias", before=twin)
                    editor.set_operands(twin, (twin.operand(0), twin.operand(1), none))
                self.nodes[node] = twin
        with torch.no_grad():
            self.expected = [self._run(given, {}) for given in self.inputs]

    def error(self, changes: Mapping[Node, tuple[Tensor, Tensor]]) -> float:
        """The squared relative error of the outputs when layers have these weights [G, N, K] and biases [G, N]."""
        import torch

        constants: dict[Node | None, Tensor] = {}
        for node, (weight, bias) in changes.items():
            twin = self.nodes[node]
            type = twin.operand(1).tensor
            kind = torch.float64 if type.dtype.name == "f64" else torch.float32
            constants[twin.operand(1).producer] = weight.reshape(type.static_shape).to(kind)
            constants[twin.operand(2).producer] = bias.reshape(-1).to(kind)
        with torch.no_grad():
            found = [self._run(given, constants) for given in self.inputs]
        return relative_error(found, self.expected) ** 2

    def _run(self, inputs: Sequence[Any], constants: Mapping[Node | None, Tensor]) -> list[Any]:
        from mcomp.ops.evaluate import constant, run_graph

        return run_graph(self.trial, inputs, constants=lambda n: constants[n] if n in constants else constant(n))


def probed(
    graph: Graph, context: Context, curves: Sequence[tuple[Dimension, Curve]], moments: Mapping[Node, Moments]
) -> list[tuple[Dimension, Curve]]:
    """Curves whose errors are those of the model's outputs: measured at some points, between which the ratio of these to
    what the layers lose is interpolated. Dimensions that cannot be probed get the median ratio; they leave a remark."""
    able = {d for d, _ in curves if all(_can_change(c, moments) for c in d.consumers)}
    prober = Prober(graph, context, list(dict.fromkeys(c.node for d, _ in curves if d in able for c in d.consumers)))
    ratios: list[list[tuple[int, float]]] = []
    for dimension, curve in curves:
        given = []
        for count in _marks(curve) if dimension in able else []:
            units = curve.order[:count]
            measured = prober.error({c.node: without(c, units, moments[c.node]) for c in dimension.consumers})
            if curve.errors[count] > 0.0 and np.isfinite(measured):
                given.append((count, measured / float(curve.errors[count])))
        ratios.append(given)
    usual = float(np.median([r for given in ratios for _, r in given] or [1.0]))
    found = []
    for (dimension, curve), given in zip(curves, ratios):
        if not given:
            context.remark("note", "prune", dimension.nodes[0], "what it does to the outputs cannot be probed; its layers' "
                           "errors count as those of others do on average")
        places, values = zip(*given) if given else ((0,), (usual,))
        scale = np.interp(np.arange(len(curve.errors)), places, values)
        found.append((dimension, replace(curve, errors=np.maximum.accumulate(curve.errors * scale), output=True)))
    return found


def _can_change(consumer: Consumer, moments: Mapping[Node, Moments]) -> bool:
    return consumer.weight is not None and fitted(consumer.node) and consumer.node in moments


def _marks(curve: Curve) -> list[int]:
    """How many units are taken away for probing."""
    wanted = (int(share * curve.size) for share in _SHARES)
    return sorted({k for k in wanted if 0 < k < len(curve.errors)})


def without(consumer: Consumer, units: np.ndarray, moments: Moments) -> tuple[Tensor, Tensor]:
    """The weight [G, N, K] of a product, zero where it meets units and refitted elsewhere, and its bias [G, N]."""
    import torch

    weight = weight_matrix(consumer.node)
    window = prod(consumer.node.operand(1).tensor.static_shape[2:])
    local = weight.shape[-1] // window
    stays = np.ones((local, window), bool)
    stays[np.unique(consumer.positions[units].reshape(-1) % local)] = False
    keep = torch.from_numpy(np.flatnonzero(stays.reshape(-1)))
    small = refit(weight, moments.gram, keep, moments.damping(DAMPING), mean=moments.mean)
    full = torch.zeros_like(weight)
    full[..., keep] = small
    return full, bias_of(consumer.node, weight) + bias_shift(weight, small, keep, moments.mean)


def layer_weights(
    graph: Graph, context: Context, nodes: Sequence[Node], moments: Mapping[Node, Moments] | None = None, *, limit: int = 8
) -> dict[Node, float]:
    """By linear and conv node: the squared relative error of the model's outputs for each unit of squared relative error
    of the layer's output, measured with random changes of its weight. Layers that cannot be changed, or with which outputs
    are no longer finite, are left out."""
    import torch

    assert context.calibration is not None
    able = [n for n in nodes if fitted(n)]
    known = moments if moments is not None else collect_moments(graph, context.calibration, able, limit)
    prober = Prober(graph, context, [n for n in able if n in known])
    found = {}
    generator = torch.Generator().manual_seed(context.seed)
    for node in prober.nodes:
        weight = weight_matrix(node)
        change = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        change *= weight.square().mean(-1, keepdim=True).sqrt()
        error = known[node].error(change, weight)
        if 0.0 < error < float("inf"):
            nudged = weight + change * (_NUDGE / error)
            told = prober.error({node: (nudged, bias_of(node, weight))}) / _NUDGE**2
            if np.isfinite(told):
                found[node] = told
    return found

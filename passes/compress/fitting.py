"""Fitting a pruned graph to the dense one: layers in order, and statistics of batch norms that are not folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.passes.compress.lockstep import Lockstep, fitted
from mcomp.passes.compress.readers import tied, too_wide

if TYPE_CHECKING:
    from mcomp.ir.edit import Editor


class Options(Protocol):
    """What fitting asks of a pass."""

    @property
    def damping(self) -> float | None: ...

    @property
    def variance(self) -> bool: ...

    @property
    def limit(self) -> int: ...


def fit_again(
    graph: Graph, dense: Graph, context: Context, options: Options, outputs: Mapping[str, np.ndarray], first: int = 0,
    label: str = "prune",
) -> dict[str, float]:
    """Fit every linear and conv of `graph` from position `first` on to what the layer of the same name gives in `dense`, on
    the activations of the graph as fitted so far; batch norms are given their statistics. Shared weights stay as they are.

    `outputs`: by the name of a layer's result, which of the dense outputs it has (missing: all). Returns the relative L2
    differences that are left, by the name of the result.
    """
    walk = Lockstep(
        dense, graph, context, outputs=lambda node: outputs.get(node.result.name), limit=options.limit,
        damping=options.damping, variance=options.variance,
    )
    assert context.calibration is not None
    used = min(options.limit, len(context.calibration))
    if walk.batches < used:
        context.remark("note", label, graph.name, f"layers are fitted on {walk.batches} of {used} calibration batches: "
                       "the activations of more do not fit into memory", "use smaller batches")
    left: dict[str, float] = {}
    for node in list(graph.nodes)[first:]:
        if node.op.name not in ("linear", "conv", "batch_norm"):
            continue
        if node.op.name == "batch_norm":
            if not context.excluded(label, node):
                _renorm(walk, graph, node, label)
        elif not fitted(node):
            if node.op.name == "conv" or node.operand(1).is_const:
                reason = "has too many inputs" if too_wide(node) else f"is {node.operand(1).tensor}"
                context.missed(label, node, f"it is not fitted: its weight {reason}", "compress its weight later")
        elif not context.excluded(label, node) and not tied(label, node, context, "refitting"):
            with graph.edit(label, loc=node.loc) as editor:
                fit = walk.fit(node, editor)
            if fit is not None:
                left[node.result.name] = fit.after
    return left


def fit_behind(
    graph: Graph, dense: Graph, context: Context, first: Node, limit: int, label: str = "lowrank", *,
    damping: float | None = None, variance: bool = False,
) -> None:
    """Fit every linear and conv from `first` on that `dense` has too, by name, to what it gives there, on the activations of
    the graph as fitted so far."""
    walk = Lockstep(dense, graph, context, outputs=lambda node: None, limit=limit, damping=damping, variance=variance)
    known = {v.name for node in dense.nodes for v in node.results}
    for node in list(graph.nodes)[graph.position(first) :]:
        if node.op.name not in ("linear", "conv") or not fitted(node) or node.name not in known:
            continue
        if context.excluded(label, node) or tied(label, node, context, "refitting"):
            continue
        if not context.allow_rewrite(label):
            return
        with graph.edit(label, loc=node.loc) as editor:
            walk.fit(node, editor)


def places_of(graph: Graph) -> dict[str, int]:
    """Where nodes are, by name: before an edit, for `left_from`."""
    return {n.name: i for i, n in enumerate(graph.nodes)}


def left_from(graph: Graph, places: Mapping[str, int], first: int) -> int:
    """The position of the first node that is left of those that were at `first` or behind."""
    return next((i for i, n in enumerate(graph.nodes) if places.get(n.name, -1) >= first), len(graph))


def _renorm(walk: Lockstep, graph: Graph, node: Node, label: str) -> None:
    """Move a batch norm's mean and variance as what it reads has moved."""
    mean, variance = node.operand(1), node.operand(2)
    if mean.weight is None or variance.weight is None:
        return
    moved = walk.moved(node)
    if moved is None:
        return
    shift, stretch = moved
    with graph.edit(label, loc=node.loc) as editor:
        _put(editor, node, 1, mean.weight.decode() + shift)
        _put(editor, node, 2, variance.weight.decode() * stretch)


def _put(editor: Editor, node: Node, index: int, data: np.ndarray) -> None:
    old = node.operand(index)
    assert old.producer is not None
    kind = old.tensor.dtype.numpy if old.tensor.dtype.name in ("f32", "f64") else np.float32
    fresh = editor.const(data.astype(kind), name=old.producer.attrs["name"], loc=old.producer.loc, before=node)
    editor.set_operand(node, index, fresh)
    if not old.uses:
        editor.replace(old, fresh)
        editor.erase(old.producer)

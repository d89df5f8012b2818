"""Relevance: which positions of calibration data the outputs depend on; padding that is masked out teaches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import Context
from mcomp.passes.compress.gradients import AT_ONCE, Recording, pieces
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

Marks = dict[int, "Tensor"]


def mark_relevant(graph: Graph, context: Context, limit: int) -> None:
    """Find the positions (tokens, pixels) of the first `limit` calibration batches that the outputs depend on, by gradients
    that are not exactly zero, and keep them in `calibration.relevant`, by batch and number of positions. What layers are
    fitted and judged on is then drawn from these. Models whose outputs have no gradients, or in whose first samples every
    position counts, are left alone; so are batches of which no position counts, and those that have been looked at before.
    Where gradients cannot be computed, all positions count, with a remark."""
    calibration = context.calibration
    if calibration is None or (calibration.relevant is not None and not calibration.looked):
        return
    if calibration.relevant is None:
        calibration.relevant = {}
    nodes = [n for n in graph.nodes if n.op.name in ("linear", "conv")]
    for index in range(calibration.looked, min(limit, len(calibration))):
        single = Calibration([calibration.batches[index]], calibration.given)
        try:
            marks = _marks(graph, single, nodes, context.seed, not index)
        except _NoGradients as e:
            calibration.relevant, calibration.looked = {}, len(calibration)
            context.missed("relevance", graph.name, f"positions that do not matter, such as padding, count: {e}",
                           "leave padding out of the calibration data")
            return
        calibration.looked = index + 1 if marks is not None else len(calibration)
        if marks is None:
            return
        some = {(index, count): mark for count, mark in marks.items() if bool(mark.any()) and not bool(mark.all())}
        calibration.relevant.update(some)


class _NoGradients(Exception):
    """An operator has no gradient."""


def _marks(graph: Graph, single: Calibration, nodes: list[Node], seed: int, first: bool) -> Marks | None:
    """By number of positions in a batch, which of them any layer's result with so many matters at. None where, in the first
    piece of the `first` batch, all do, and where no output has gradients. Raises _NoGradients."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parts: dict[Node, list[Tensor]] = {n: [] for n in nodes}
    for place, (inputs, _) in enumerate(pieces(graph, single, 1 << 30, AT_ONCE)):
        record = Recording(graph, nodes, inputs)
        if not record.outputs:
            return None
        try:
            found = record.gradients(generator)
        except RuntimeError as e:
            raise _NoGradients(f"the model has no gradients ({e})") from e
        for node in record.results:
            y = record.results[node]
            gradient = found[node] if node in found else torch.zeros_like(y)
            rows = gradient.movedim(1, -1) if node.op.name == "conv" else gradient
            parts[node].append((rows.reshape(-1, rows.shape[-1]) != 0).any(1))
        if first and place == 0 and all(bool(p[0].all()) for p in parts.values() if p):
            return None
    marks: Marks = {}
    for some in parts.values():
        if some:
            mark = torch.cat(some)
            held = marks.get(len(mark))
            marks[len(mark)] = mark if held is None else held | mark
    return marks


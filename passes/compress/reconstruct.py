"""Training blocks of a compressed graph, one after another, to give what the dense graph gives there. No labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.ir.graph import Graph
from mcomp.passes.compress.region import Region, residual_regions
from mcomp.passes.compress.teaching import (
    CACHED_BYTES,
    Options,
    Report,
    Say,
    chooser,
    left_out,
    originals,
    recording,
    same_value,
    timed,
    train_task,
)
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.training.objective import Kind
    from mcomp.passes.compress.training.trainer import Recipe


@recording()
def reconstruct(
    graph: Graph, dense: Graph, calibration: Calibration, blocks: Sequence[Region] | None = None, *,
    recipe: Recipe | None = None, options: Options | None = None, seconds: float | None = None, seed: int = 0,
    checkpoint: Path | None = None, progress: Say | None = None, record: Callable[[Report], None] | None = None,
) -> list[Report]:
    """Train blocks of a compressed graph, one after another, so that each gives what the dense graph gives there, from what
    the compressed graph gives it (with `mix`, in part the dense one's).

    blocks: regions of `graph` with one output, in order; None: the residual blocks (for a transformer, attention and
    feed-forward ones apart). The dense value is the one of the same name. Each block gets an equal share of what is left of
    `seconds`; an interruption ends it. `record` hears each report at once. Blocks that read no input that can be compared,
    or whose dense counterpart is missing, are reported with a reason. Constants that other parts of the graph share are
    held as they are.
    """
    from mcomp.passes.compress.training.trainer import Recipe
    from mcomp.passes.compress.training.view import untie_vectors

    untie_vectors(graph)
    chosen, given = options or Options(), timed(recipe or Recipe(), seconds, seed)
    todo = list(residual_regions(graph) if blocks is None else blocks)
    deadline = None if given.seconds is None else time.monotonic() + given.seconds
    reports: list[Report] = []
    for number, block in enumerate(todo):
        share = given
        if deadline is not None:
            share = replace(given, seconds=max(0.0, deadline - time.monotonic()) / (len(todo) - number))
        if progress is not None:
            progress(f"training {block.name or 'the model'}, {number + 1} of {len(todo)}")
        report = reconstruct_block(block, dense, calibration, share, chosen, checkpoint, progress)
        reports.append(report)
        if record is not None:
            record(report)
        if report.interrupted:
            break
    return reports


@recording()
def reconstruct_block(
    block: Region, dense: Graph, calibration: Calibration, recipe: Recipe, options: Options,
    checkpoint: Path | None = None, progress: Say | None = None,
) -> Report:
    """Train one block; see `reconstruct`."""
    from mcomp.passes.compress.training.data import Samples, row_columns
    from mcomp.passes.compress.training.objective import Objective
    from mcomp.passes.compress.training.precision import wants_bf16
    from mcomp.passes.compress.training.rows import told_apart
    from mcomp.passes.compress.training.tasks import Matching, only_relevant, values_on
    from mcomp.passes.compress.training.view import TrainableGraph

    graph = block.graph
    names = [v.name for v in block.outputs]
    targets = [same_value(dense, v) for v in block.outputs]
    problem = block.problem()
    if problem is None and any(t is None for t in targets):
        problem = "the dense graph has no value that stands for its output"
    if problem is not None:
        return Report(block.name, names[0] if names else "", 0.0, 0.0, reason=problem)
    wanted = [t for t in targets if t is not None]
    wanted_here, inside = chooser(options), set(block.nodes)
    student = TrainableGraph(
        graph, chosen=lambda node: wanted_here(node) and all(user in inside for user in node.result.users),
        learn_scales=options.learn_scales, inputs=block.inputs, outputs=block.outputs,
        originals=originals(graph, dense, options),
    )
    if not student.tensors():
        return Report(block.name, names[0], 0.0, 0.0, reason="nothing in it can be trained")
    half = CACHED_BYTES // 2
    inputs = values_on(graph, calibration, block.inputs, limit_bytes=half)
    outputs = only_relevant(values_on(dense, calibration, wanted, limit_bytes=half), calibration)
    if options.mix > 0:
        inputs = _mixed(inputs, block, dense, calibration, options.mix, recipe.seed)
    rows = [[*x, *y] for x, y in zip(inputs, outputs)]
    flags = row_columns([v.type for v in block.inputs], [v.type for v in block.outputs])
    flags = told_apart(flags, graph, block.inputs, block.outputs, inputs)
    samples = Samples(
        rows, None if flags is None else [*flags, *([True] * len(wanted))], size=options.batch, held=options.held,
        seed=recipe.seed,
    )
    kinds: list[Kind] = ["mse" for _ in wanted]
    bf16 = wants_bf16(student, options.precision)
    task = Matching(student, samples, Objective(tuple(kinds)), seed=recipe.seed, bf16=bf16)
    report = train_task(task, recipe, options, block.name, names[0], checkpoint, progress, len(wanted))
    return replace(report, note=left_out(len(rows), len(calibration)))


def _mixed(
    inputs: list[list[Tensor]], block: Region, dense: Graph, calibration: Calibration, share: float, seed: int
) -> list[list[Tensor]]:
    """Inputs of which a random share of the elements is replaced by the dense graph's, where it has such a value."""
    import torch

    from mcomp.passes.compress.training.tasks import values_on

    places = [(i, same_value(dense, v)) for i, v in enumerate(block.inputs)]
    known = [(i, v) for i, v in places if v is not None and v.tensor.dtype.is_float]
    if not known:
        return inputs
    exact = values_on(dense, calibration, [v for _, v in known], limit_bytes=CACHED_BYTES // 2)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for row, theirs in zip(inputs, exact):
        changed = list(row)
        for (i, _), value in zip(known, theirs):
            taken = torch.rand(value.shape, generator=generator) < share
            changed[i] = torch.where(taken, value, row[i])
        found.append(changed)
    return found

"""Training a compressed graph to return what the dense one it came from returns. No labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.ir import dims
from mcomp.ir.graph import Graph, Value
from mcomp.passes.compress.region import residual_regions
from mcomp.passes.compress.teaching import (
    CACHED_BYTES,
    UNCHANGED,
    Options,
    Report,
    Say,
    chooser,
    keeps_state,
    originals,
    recording,
    same_value,
    timed,
    train_task,
)
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from mcomp.passes.compress.training.trainer import Recipe

__all__ = ["Options", "Report", "common_features", "finetune"]

_FEATURES = 6
_CYCLE, _LEAST_CYCLE = 32, 4
"""Epochs after which changed inputs come again, so that the teacher need not run any more, and the least that is worth it.
With few of them more training is of little use: half of a ResNet-20 had 89.84 % of the test images right after 9 epochs of
other inputs each, 89.7 % after 44 in a cycle of 4."""
_SHARED_BYTES = 1 << 28
"""What teachers gave for changed inputs is kept after a training, too, where it is no more than that."""


@recording()
def finetune(
    graph: Graph, dense: Graph, calibration: Calibration, *, recipe: Recipe | None = None, options: Options | None = None,
    seconds: float | None = None, seed: int = 0, checkpoint: Path | None = None, progress: Say | None = None,
    rates: Mapping[str, float] | None = None,
) -> Report:
    """Train the constants of a compressed graph so that it returns what the dense one returns, quantization in the loop.

    `dense` takes the same inputs and returns as many outputs; it may be larger in any way. Changes `graph`, in one edit,
    only when the held-out loss fell. `seconds` and `seed` overrule the recipe's. `rates`: known ones by `Outcome.kind`, for
    a recipe without. `checkpoint`: a folder for states to go on from. See `train` for reproducibility, interruption and
    time limits.
    """
    from mcomp.passes.compress.training.augment import augmentation
    from mcomp.passes.compress.training.data import Samples, row_columns
    from mcomp.passes.compress.training.objective import Objective, kinds_of
    from mcomp.passes.compress.training.precision import wants_bf16
    from mcomp.passes.compress.training.rows import told_apart
    from mcomp.passes.compress.training.tasks import Matching, taught_places, taught_values
    from mcomp.passes.compress.training.teacher import quick_teacher
    from mcomp.passes.compress.training.trainer import Recipe
    from mcomp.passes.compress.training.view import TrainableGraph, untie_vectors

    chosen, given = options or Options(), timed(recipe or Recipe(), seconds, seed)
    untie_vectors(graph)
    pairs = common_features(graph, dense) if chosen.features > 0 else []
    outputs = [*graph.outputs, *(ours for ours, _ in pairs)]
    targets = [*dense.outputs, *(theirs for _, theirs in pairs)]
    student = TrainableGraph(
        graph, chosen=chooser(chosen), learn_scales=chosen.learn_scales, outputs=outputs,
        originals=originals(graph, dense, chosen),
    )
    objective = Objective(
        kinds_of(dense.outputs, chosen.loss), temperature=chosen.temperature, anchor=chosen.anchor,
        features=chosen.features,
    )
    batches: list[list[Any]] = [calibration.inputs(graph, batch) for batch in calibration.batches]
    flags = row_columns([v.type for v in graph.inputs], [v.type for v in graph.outputs])
    flags = told_apart(flags, dense, dense.inputs, dense.outputs, batches)
    augment = None if chosen.augment is None or flags is None else augmentation(chosen.augment)
    bf16, along = wants_bf16(student, chosen.precision), True
    if augment is None and not pairs and not keeps_state(graph):
        known = taught_values(dense, calibration, targets, limit_bytes=CACHED_BYTES)
        if len(known) == len(batches):
            batches = [[*row, *found] for row, found in zip(batches, known)]
            flags = None if flags is None else [*flags, *([True] * len(targets))]
            along = False
    samples = Samples(batches, flags, size=chosen.batch, held=chosen.held, seed=given.seed)
    each = 0
    if augment is not None and not pairs:
        each = max(1, _row_bytes(dense, batches) * samples.total)
        cycle = min(_CYCLE, CACHED_BYTES // each)
        samples.cycle = cycle if cycle >= _LEAST_CYCLE else 0
    places = None
    if samples.cycle and isinstance(chosen.augment, str) and each * samples.cycle <= _SHARED_BYTES:
        places = taught_places(
            dense, calibration, targets, chosen.augment, chosen.batch, chosen.held, given.seed, samples.cycle
        )
    in_bf16 = bf16 and not samples.cycle
    teacher = quick_teacher(dense, targets, batch=chosen.batch, threads=given.threads, bf16=in_bf16) if along else None
    task = Matching(
        student, samples, objective, teacher=teacher, augment=augment, seed=given.seed, bf16=bf16, known=places,
    )
    if chosen.normalize == "batch":
        task.normalize()
    if given.rate is None:
        given = replace(given, rate=(rates or {}).get(task.kind))
    report = train_task(task, given, chosen, "", graph.outputs[0].name, checkpoint, progress, len(graph.outputs))
    if chosen.augment is None or augment is not None:
        return report
    return replace(report, note=UNCHANGED)


def common_features(graph: Graph, dense: Graph) -> list[tuple[Value, Value]]:
    """Values to match besides the outputs, (of `graph`, of `dense`): results of residual additions that both have, evenly
    spread over the depth, at most a few."""
    found: list[tuple[Value, Value]] = []
    for region in residual_regions(dense):
        theirs = region.exit
        ours = same_value(graph, theirs)
        if ours is None or ours.producer is None or theirs.producer is None or graph.is_output(ours):
            continue
        alike = ours.producer.op is theirs.producer.op
        if alike and set(ours.producer.loc.paths) & set(theirs.producer.loc.paths):
            found.append((ours, theirs))
    if len(found) <= _FEATURES:
        return found
    return [found[round(i * (len(found) - 1) / (_FEATURES - 1))] for i in range(_FEATURES)]


def _row_bytes(dense: Graph, batches: Sequence[Sequence[Any]]) -> int:
    """Bytes of the outputs for one sample, of the batch for which that is most."""
    from mcomp.ops.evaluate import bind_inputs
    from mcomp.passes.compress.training.data import row_symbols

    one = dict.fromkeys(row_symbols(dense.outputs), 1)
    found = {tuple(sorted({**bind_inputs(dense, batch[: len(dense.inputs)]), **one}.items())) for batch in batches}
    return max(sum(dims.evaluate(v.tensor.nbytes, dict(known)) for v in dense.outputs) for known in found)

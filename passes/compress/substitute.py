"""Replacing a region of a graph by a student that was trained to give what the region gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.ops.workload import operations
from mcomp.passes.analysis.cost import weight_bytes
from mcomp.passes.compress.region import Region, body_of, splice
from mcomp.passes.compress.student import from_module, narrower, shallower
from mcomp.passes.compress.teaching import CACHED_BYTES, Options, Report, left_out, recording, same_value, train_task
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from mcomp.passes.compress.training.data import Samples
    from mcomp.passes.compress.training.tasks import Matching
    from mcomp.passes.compress.training.trainer import Recipe

Say = Callable[[str], None]
LEAST_SAMPLES = 8
_GROWN = "grown "
_KEPT_BYTES = 1 << 28
"""Changed copies of samples of the whole model are kept for the next training where they, and the samples, take no more."""


@dataclass(frozen=True)
class Substitution:
    """What came of a student: the name of the value it makes, its measured error (relative L2 on held-out data), bytes of
    weights saved, and what it is; or the reason why the region stays, and what would help; `note`: what else is worth
    knowing."""

    node: str = ""
    error: float = 0.0
    bytes_saved: int = 0
    detail: str = ""
    reason: str = ""
    remedy: str = ""
    interrupted: bool = False
    note: str = ""


@recording()
def substitute(
    region: Region, dense: Graph, context: Context, *, student: Any, ratio: float, recipe: Recipe, options: Options,
    max_error: float, checkpoint: Path | None = None, progress: Say | None = None,
) -> Substitution:
    """Train a student (`narrower`, `shallower`, or an nn.Module) on what the region gets and gives on calibration data, and
    put it in the region's place when its held-out error is at most `max_error` and it computes or stores less.

    The targets are the dense graph's values of the same names, where it has them, else the region's own. Raises PassError
    for a module that does not fit.
    """
    from mcomp.passes.compress.training.tasks import values_digest, values_on

    graph, calibration = region.graph, context.calibration
    assert calibration is not None
    body = body_of(region)
    first = calibration if isinstance(student, str) else Calibration(calibration.batches[:1])
    inputs = values_on(graph, first, region.inputs, limit_bytes=CACHED_BYTES // 2)
    made, detail = _student(region, body, student, ratio, inputs, context.seed)
    before, after = _size(body), _size(made)
    if after[0] >= before[0] and after[1] >= before[1]:
        return Substitution(reason=f"the student is no smaller: {_words(after)}, the region {_words(before)}",
                            remedy="give a smaller one, or another ratio")
    if first is not calibration:
        inputs = values_on(graph, calibration, region.inputs, limit_bytes=CACHED_BYTES // 2)
    targets = _targets(region, dense, calibration)
    samples = _samples(region, inputs, targets, options, recipe.seed)
    if samples.total < LEAST_SAMPLES and samples.batched is not None:
        return Substitution(reason=f"{samples.total} calibration samples are too few to learn from",
                            remedy="pass more calibration data")
    note = left_out(min(len(inputs), len(targets)), len(calibration))
    if options.augment is not None:
        copies = min(options.copies, max(0, CACHED_BYTES // max(1, samples.nbytes) - 1))
        taught = values_digest(dense, dense.outputs, options.batch, options.held, recipe.seed)
        grown = _grown(samples, region, body, inputs[0], options, copies, taught, calibration.memo)
        if isinstance(grown, str):
            return Substitution(reason=grown, remedy="choose another augment, or none")
        samples = grown
        if copies < options.copies:
            note = f"{note + '; ' if note else ''}{copies} of {options.copies} changed copies of the samples fit in memory"
    report = _train(region, made, samples, recipe, options, checkpoint, progress)
    if not report.after <= max_error:
        return Substitution(
            reason=f"its student ({detail}) stays {report.after:.1%} off, more than {max_error:.1%}",
            remedy="train longer, give more data or a larger student, or raise max_error", interrupted=report.interrupted,
            note=note,
        )
    with graph.edit("distill", loc=region.nodes[-1].loc) as editor:
        found = splice(editor, region, made)
    detail = f"{detail}: {_words(after)} instead of {_words(before)}"
    return Substitution(
        found[0].name, report.after, before[1] - after[1], detail, interrupted=report.interrupted, note=note,
    )


def _student(
    region: Region, body: Graph, student: Any, ratio: float, inputs: list[list[Any]], seed: int
) -> tuple[Graph, str]:
    if student == "narrower":
        return narrower(body, Calibration(inputs), ratio, seed), f"narrower, {ratio:.0%} of the units"
    if student == "shallower":
        made, dropped = shallower(body, Calibration(inputs), ratio, region.name)
        return made, f"shallower, without {', '.join(dropped) or 'anything less'}"
    return from_module(region, student, inputs[0]), f"student {type(student).__name__}"


def _targets(region: Region, dense: Graph, calibration: Calibration) -> list[list[Any]]:
    """What the region's outputs are to be, batch by batch: the dense graph's values of their names, else its own."""
    from mcomp.passes.compress.training.tasks import only_relevant, taught_values

    wanted = [same_value(dense, v) for v in region.outputs]
    known = [v for v in wanted if v is not None]
    taught, values = (dense, known) if len(known) == len(wanted) else (region.graph, list(region.outputs))
    found = taught_values(taught, calibration, values, limit_bytes=CACHED_BYTES // 2)
    inside = not any(region.graph.is_output(v) for v in region.outputs)
    return list(only_relevant(found, calibration) if inside else found)


def _samples(
    region: Region, inputs: list[list[Any]], targets: list[list[Any]], options: Options, seed: int
) -> Samples:
    from mcomp.passes.compress.training.data import Samples, row_columns
    from mcomp.passes.compress.training.rows import told_apart

    flags = row_columns([v.type for v in region.inputs], [v.type for v in region.outputs])
    flags = told_apart(flags, region.graph, region.inputs, region.outputs, inputs)
    return Samples(
        [[*x, *y] for x, y in zip(inputs, targets)],
        None if flags is None else [*flags, *([True] * len(region.outputs))],
        size=options.batch, held=options.held, seed=seed,
    )


def _grown(
    samples: Samples, region: Region, body: Graph, example: list[Any], options: Options, copies: int,
    known: str, memo: dict[str, Any],
) -> Samples | str:
    """The samples, which `known` tells from others, with changed copies of them, or a reason why there are none. Of the
    whole model they are made once: with a large one that takes longer than training a small student."""
    from mcomp.passes.compress.training.tasks import values_digest

    key = None
    if region.whole and isinstance(options.augment, str):
        key = f"{_GROWN}{values_digest(body, body.outputs, known, options.augment, copies)}"
        if key in memo:
            found: Samples = memo[key]
            return found
    reason = _grow(samples, body, example, options, copies)
    if reason is not None:
        return reason
    if key is not None and samples.nbytes <= _KEPT_BYTES:
        for other in [k for k in memo if k.startswith(_GROWN)]:
            del memo[other]
        memo[key] = samples
    return samples


def _grow(samples: Samples, body: Graph, example: list[Any], options: Options, copies: int) -> str | None:
    """Add changed copies of the samples, with what the region itself gives for them; or a reason why that cannot be."""
    from mcomp.passes.compress.training.augment import augmentation, misfit
    from mcomp.passes.compress.training.tasks import running_teacher

    assert options.augment is not None
    count = len(example)
    own = [i for i in range(count) if samples.batched is not None and samples.batched[i]]
    if not own:
        return "samples cannot be told apart, so that none can be changed"
    reason = misfit(options.augment, [example[i] for i in own])
    if reason is not None:
        return reason
    change, teacher = augmentation(options.augment), running_teacher(body, body.outputs)

    def make(columns: list[Any]) -> list[Any]:
        inputs = list(columns[:count])
        for i, tensor in zip(own, change([inputs[i] for i in own])):
            inputs[i] = tensor
        return [*inputs, *teacher(inputs)]

    samples.grow(make, copies)
    return None


def _train(
    region: Region, made: Graph, samples: Samples, recipe: Recipe, options: Options, checkpoint: Path | None,
    progress: Say | None,
) -> Report:
    from mcomp.passes.compress.training.objective import Kind, Objective, kinds_of
    from mcomp.passes.compress.training.precision import wants_bf16
    from mcomp.passes.compress.training.tasks import Matching
    from mcomp.passes.compress.training.view import TrainableGraph, untie_vectors

    last = all(region.graph.is_output(v) for v in region.outputs)
    asked: Kind = options.loss if last else "mse"
    untie_vectors(made)
    student = TrainableGraph(made)
    objective = Objective(kinds_of(region.outputs, asked), temperature=options.temperature, anchor=options.anchor)
    bf16 = wants_bf16(student, options.precision)
    task: Matching = Matching(student, samples, objective, seed=recipe.seed, bf16=bf16)
    if options.normalize == "batch":
        task.normalize()
    return train_task(
        task, recipe, options, region.name, region.outputs[0].name, checkpoint, progress, len(region.outputs)
    )


def _size(graph: Graph) -> tuple[int, int]:
    """Operations and bytes of weights."""
    return operations(graph), sum(weight_bytes(graph).values())


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]:,} operations, {size[1]:,} bytes of weights"

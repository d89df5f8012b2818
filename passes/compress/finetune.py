"""Training a compressed graph against the dense one it came from: as a whole, or block after block. No labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.base import Effect
from mcomp.passes.compress.layer import error_by_row
from mcomp.passes.compress.region import Region, residual_regions
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.training.augment import Augment
    from mcomp.passes.compress.training.objective import Kind
    from mcomp.passes.compress.training.precision import Precision
    from mcomp.passes.compress.training.tasks import Matching
    from mcomp.passes.compress.training.trainer import Outcome, Recipe

Say = Callable[[str], None]

CACHED_BYTES = 1 << 30
"""Values that a teacher gave are kept, for as many batches as fit into this; those of the rest are not used, or computed
again at every step."""
_FEATURES = 6
_CYCLE = 8
"""Epochs after which changed inputs come again, so that the teacher need not run any more."""


@dataclass(frozen=True)
class Options:
    """What training needs besides a recipe.

    batch: samples of a minibatch. held: share of the samples held out. loss, temperature, anchor: see `Objective`.
    features: weight of intermediate values beside the outputs. learn_scales: also train scales of quantization.
    augment: changes inputs, by name (see `training.augment`) or as a function. copies: how many changed copies of each
    sample students other than the graph itself see. mix: share of the elements of a block's input that come from the dense
    network (the rest from the compressed one). keep: which constants must stay as they are. floats: what constants were
    before they were rounded, name to digest, as `float_constants` tells; the dense graph's count where it has none.
    precision: of the products in training steps: f32, bf16, or whichever is faster here.
    """

    batch: int = 64
    held: float = 0.1
    loss: Kind = "auto"
    temperature: float = 4.0
    anchor: float = 0.1
    features: float = 0.0
    learn_scales: bool = False
    augment: str | Augment | None = None
    copies: int = 4
    mix: float = 0.0
    keep: Callable[[Node], bool] | None = None
    floats: Mapping[str, str] = field(default_factory=dict)
    precision: Precision = "auto"


@dataclass(frozen=True)
class Report:
    """What came of training: where, the relative L2 error of the outputs on held-out data before and after (root mean
    square over samples), how many constants changed, and how it went; `reason`: why nothing was changed."""

    layer: str
    node: str
    before: float
    after: float
    changed: int = 0
    reason: str = ""
    outcome: Outcome | None = field(default=None, repr=False)

    @property
    def interrupted(self) -> bool:
        return self.outcome is not None and self.outcome.interrupted


def finetune(
    graph: Graph, dense: Graph, calibration: Calibration, *, recipe: Recipe | None = None, options: Options | None = None,
    seconds: float | None = None, seed: int = 0, checkpoint: Path | None = None, progress: Say | None = None,
) -> Report:
    """Train the constants of a compressed graph so that it returns what the dense one returns, quantization in the loop.

    `dense` takes the same inputs and returns as many outputs; it may be larger in any way. Changes `graph`, in one edit,
    only when the held-out loss fell. `seconds` and `seed` overrule the recipe's. `checkpoint`: a folder for states to go on
    from. See `train` for reproducibility, interruption and time limits.
    """
    from mcomp.passes.compress.training.augment import augmentation
    from mcomp.passes.compress.training.data import Samples, row_columns
    from mcomp.passes.compress.training.objective import Objective, kinds_of
    from mcomp.passes.compress.training.precision import wants_bf16
    from mcomp.passes.compress.training.tasks import Matching, running_teacher, values_on
    from mcomp.passes.compress.training.trainer import Recipe
    from mcomp.passes.compress.training.view import TrainableGraph, untie_vectors

    chosen, given = options or Options(), _timed(recipe or Recipe(), seconds, seed)
    untie_vectors(graph)
    pairs = common_features(graph, dense) if chosen.features > 0 else []
    outputs = [*graph.outputs, *(ours for ours, _ in pairs)]
    targets = [*dense.outputs, *(theirs for _, theirs in pairs)]
    augment = None if chosen.augment is None else augmentation(chosen.augment)
    student = TrainableGraph(
        graph, chosen=_chooser(chosen), learn_scales=chosen.learn_scales, outputs=outputs,
        originals=_originals(graph, dense, chosen),
    )
    objective = Objective(
        kinds_of(dense.outputs, chosen.loss), temperature=chosen.temperature, anchor=chosen.anchor,
        features=chosen.features,
    )
    batches: list[list[Any]] = [calibration.inputs(graph, batch) for batch in calibration.batches]
    flags = row_columns([v.type for v in graph.inputs], [v.type for v in graph.outputs])
    teacher = None
    if augment is None and not pairs and not _states(graph):
        known = values_on(dense, calibration, targets, limit_bytes=CACHED_BYTES)
        if len(known) == len(batches):
            batches = [[*row, *found] for row, found in zip(batches, known)]
            flags = None if flags is None else [*flags, *([True] * len(targets))]
        else:
            teacher = running_teacher(dense, targets)
    else:
        teacher = running_teacher(dense, targets)
    samples = Samples(batches, flags, size=chosen.batch, held=chosen.held, seed=given.seed)
    if augment is not None and flags is not None and _row_bytes(dense.outputs) * samples.total * _CYCLE <= CACHED_BYTES:
        samples.cycle = 0 if pairs else _CYCLE
    task = Matching(
        student, samples, objective, teacher=teacher, augment=augment, seed=given.seed,
        bf16=wants_bf16(student, chosen.precision),
    )
    return train_task(task, given, chosen, "", graph.outputs[0].name, checkpoint, progress, len(graph.outputs))


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
    or whose dense counterpart is missing, are reported with a reason.
    """
    import time

    from mcomp.passes.compress.training.trainer import Recipe
    from mcomp.passes.compress.training.view import untie_vectors

    untie_vectors(graph)
    chosen, given = options or Options(), _timed(recipe or Recipe(), seconds, seed)
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


def reconstruct_block(
    block: Region, dense: Graph, calibration: Calibration, recipe: Recipe, options: Options,
    checkpoint: Path | None = None, progress: Say | None = None,
) -> Report:
    """Train one block; see `reconstruct`."""
    from mcomp.passes.compress.training.data import Samples, row_columns
    from mcomp.passes.compress.training.objective import Objective
    from mcomp.passes.compress.training.precision import wants_bf16
    from mcomp.passes.compress.training.tasks import Matching, values_on
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
    student = TrainableGraph(
        graph, chosen=_chooser(options), learn_scales=options.learn_scales, inputs=block.inputs, outputs=block.outputs,
        originals=_originals(graph, dense, options),
    )
    if not student.tensors():
        return Report(block.name, names[0], 0.0, 0.0, reason="nothing in it can be trained")
    half = CACHED_BYTES // 2
    inputs = values_on(graph, calibration, block.inputs, limit_bytes=half)
    outputs = values_on(dense, calibration, wanted, limit_bytes=half)
    if options.mix > 0:
        inputs = _mixed(inputs, block, dense, calibration, options.mix, recipe.seed)
    rows = [[*x, *y] for x, y in zip(inputs, outputs)]
    flags = row_columns([v.type for v in block.inputs], [v.type for v in block.outputs])
    samples = Samples(
        rows, None if flags is None else [*flags, *([True] * len(wanted))], size=options.batch, held=options.held,
        seed=recipe.seed,
    )
    kinds: list[Kind] = ["mse" for _ in wanted]
    bf16 = wants_bf16(student, options.precision)
    task = Matching(student, samples, Objective(tuple(kinds)), seed=recipe.seed, bf16=bf16)
    return train_task(task, recipe, options, block.name, names[0], checkpoint, progress, len(wanted))


def train_task(
    task: Matching, recipe: Recipe, options: Options, layer: str, node: str, checkpoint: Path | None,
    progress: Say | None, outputs: int,
) -> Report:
    from mcomp.passes.compress.training.trainer import train

    before = held_error(task, outputs)
    path = None if checkpoint is None else checkpoint / f"train-{_file_name(f'{layer}-{node}')}.pt"
    outcome = train(
        task, task.samples, recipe, checkpoint=path, identity=_identity(task, recipe, options), say=progress,
    )
    if not outcome.improved:
        reason = outcome.stopped or "training did not lower the held-out loss"
        return Report(layer, node, before, before, reason=reason, outcome=outcome)
    after = held_error(task, outputs)
    return Report(layer, node, before, after, changed=task.student.write("distill"), outcome=outcome)


def held_error(task: Matching, outputs: int) -> float:
    """The relative L2 error of the first outputs on held-out data (root mean square over samples and outputs)."""
    import torch

    found: list[float] = []
    given, taught = task.results()
    for column in range(outputs):
        ours, theirs = [], []
        for mine, other in zip(given, taught):
            if other[column].is_floating_point() and other[column].dim():
                ours.append(mine[column].float().reshape(other[column].shape[0], -1))
                theirs.append(other[column].float().reshape(other[column].shape[0], -1))
        for width in dict.fromkeys(t.shape[1] for t in theirs):
            same = [(a, b) for a, b in zip(ours, theirs) if b.shape[1] == width]
            error = error_by_row(torch.cat([a for a, _ in same]), torch.cat([b for _, b in same]))
            found += [error**2] * sum(b.shape[0] for _, b in same)
    return (sum(found) / len(found)) ** 0.5 if found else 0.0


def same_value(graph: Graph, value: Value) -> Value | None:
    """The value of another graph that has this one's name and type, if there is one."""
    try:
        found = graph.value(value.name)
    except KeyError:
        return None
    same = isinstance(found.type, TensorType) and isinstance(value.type, TensorType)
    return found if same and found.tensor.dense() == value.tensor.dense() else None


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


def float_constants(graph: Graph) -> dict[str, str]:
    """The digests of a graph's dense floating-point constants, by name."""
    return {
        str(n.attrs["name"]): str(n.attrs["digest"]) for n in graph.walk()
        if n.op.name == "const" and n.type.encoding == DENSE and n.type.dtype.is_float
    }


def _originals(graph: Graph, dense: Graph, options: Options) -> dict[str, Tensor]:
    """What the constants were that are integers now."""
    from mcomp.ops.encoded import to_torch_tensor

    known = {**float_constants(dense), **options.floats}
    coded = {n.attrs["name"] for n in graph.walk() if n.op.name == "const" and n.type.encoding != DENSE}
    stores = (graph.store, dense.store)
    return {
        name: to_torch_tensor(next(s for s in stores if digest in s).get(digest))
        for name, digest in known.items() if name in coded and any(digest in s for s in stores)
    }


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


def _row_bytes(values: Sequence[Value]) -> int:
    """Bytes of one sample of some values, with other symbolic sizes at their bounds, or 1."""
    known = {**assume_symbols(values[0].graph, {}), **dict.fromkeys(_batch_symbols(values), 1)} if values else {}
    return sum(dims.evaluate(v.tensor.nbytes, known) for v in values)


def _batch_symbols(values: Sequence[Value]) -> set[str]:
    return {s for v in values if v.tensor.shape for s in dims.symbols(v.tensor.shape[0])}


def _states(graph: Graph) -> bool:
    stateful = any(s.kind != "arg" for s in graph.input_specs)
    return stateful or any(n.op.effect is not Effect.PURE for n in graph.nodes)


def _chooser(options: Options) -> Callable[[Node], bool]:
    from mcomp.passes.compress.training.view import is_trainable

    keep = options.keep
    return lambda node: is_trainable(node) and not (keep is not None and keep(node))


def _timed(recipe: Recipe, seconds: float | None, seed: int) -> Recipe:
    return replace(recipe, seconds=recipe.seconds if seconds is None else seconds, seed=seed or recipe.seed)


def _identity(task: Matching, recipe: Recipe, options: Options) -> str:
    """What a checkpoint must agree with: shapes and starting values of what is trained, samples, and options."""
    import hashlib

    h = hashlib.sha256()
    for name, tensor in task.tensors().items():
        h.update(f"{name}{tuple(tensor.shape)}".encode())
        h.update(tensor.detach().contiguous().numpy().tobytes())
    fields = {k: v for k, v in vars(recipe).items() if k not in ("seconds", "threads")}
    plain = {k: v for k, v in vars(options).items() if k not in ("keep", "floats") and not callable(v)}
    h.update(repr((sorted(fields.items()), sorted(plain.items()), task.objective, task.samples.total)).encode())
    first = task.samples.columns(task.samples.held()[0]) if task.samples.total else []
    for column in first:
        h.update(column.detach().contiguous().numpy().tobytes())
    return h.hexdigest()


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text).strip("-")

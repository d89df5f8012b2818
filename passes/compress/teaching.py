"""What training one graph against another needs, whichever part of them it is: options, reports, errors, checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mcomp.errors import McompError
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.base import Effect
from mcomp.passes.compress.layer import error_by_row

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
PLAIN, NORMALIZED = "plain", "normalized"
"""Kinds of trainings: rates that are good for those without and for those with normalized convolutions."""
UNCHANGED = "samples cannot be told apart, so that their inputs stay as they are"
"""Why inputs were not changed, though that was asked for."""
_NARROW = 8


@contextmanager
def recording() -> Iterator[None]:
    """Where torch records what gradients need, whatever the caller has switched off (`no_grad`, `inference_mode`). Also a
    decorator."""
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        yield


@dataclass(frozen=True)
class Options:
    """What training needs besides a recipe.

    batch: samples of a minibatch. held: share of the samples held out. loss, temperature, anchor: see `Objective`.
    features: weight of intermediate values beside the outputs. learn_scales: also train scales of quantization.
    augment: changes inputs, by name (see `training.augment`) or as a function. copies: how many changed copies of each
    sample students other than the graph itself see. mix: share of the elements of a block's input that come from the dense
    network (the rest from the compressed one). keep: which constants must stay as they are. floats: what constants were
    before they were rounded, name to digest, as `float_constants` tells; the dense graph's count where it has none.
    precision: of the products in training steps: f32, bf16, or whichever is faster here. normalize: batch: convolutions of
    a whole model are normalized while they are trained (see `Normalized`), where there are samples enough for it.
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
    normalize: Literal["batch", "none"] = "none"


@dataclass(frozen=True)
class Report:
    """What came of training: where, the relative L2 error of the outputs on held-out data before and after (root mean
    square over samples), how many constants changed, and how it went; `reason`: why nothing was changed; `note`: what else
    is worth knowing, such as data that was left out."""

    layer: str
    node: str
    before: float
    after: float
    changed: int = 0
    reason: str = ""
    note: str = ""
    outcome: Outcome | None = field(default=None, repr=False)

    @property
    def interrupted(self) -> bool:
        return self.outcome is not None and self.outcome.interrupted


def train_task(
    task: Matching, recipe: Recipe, options: Options, layer: str, node: str, checkpoint: Path | None,
    progress: Say | None, outputs: int,
) -> Report:
    """Train, write what was learned into the graph in one edit if the held-out loss fell, and measure; `layer` and `node`
    say what for, `outputs` how many of the task's values are outputs and not features."""
    from mcomp.passes.compress.training.trainer import train

    if task.bf16 and options.precision == "auto":
        task.bf16 = _takes_bf16(task)
    before = held_error(task, outputs)
    path = None if checkpoint is None else checkpoint / f"train-{_file_name(f'{layer}-{node}')}.pt"
    outcome = train(
        task, task.samples, recipe, checkpoint=path, identity="" if path is None else _identity(task, recipe, options),
        say=progress,
    )
    if not outcome.improved:
        reason = outcome.stopped or "training did not lower the held-out loss"
        return Report(layer, node, before, before, reason=reason, outcome=outcome)
    after = held_error(task, outputs)
    return Report(layer, node, before, after, changed=task.student.write("distill"), outcome=outcome)


def _takes_bf16(task: Matching) -> bool:
    """Whether every operator of a training step takes what products in bfloat16 give it."""
    import torch

    batches = task.samples.epoch(0)
    try:
        with torch.no_grad():
            return not batches or bool(torch.isfinite(task.loss(batches[0], 0)))
    except McompError:  # some operators want operands of one type; the same step in float32 raises what is really wrong
        return False


def held_error(task: Matching, outputs: int) -> float:
    """The relative L2 error of the first outputs on held-out data (root mean square over samples and outputs; rows of less
    than `_NARROW` numbers, any of which may be near zero, all together). Places where the teacher is not finite do not
    count."""
    total, rows = 0.0, 0
    narrow: dict[tuple[int, int], _Pooled] = {}
    for given, taught in task.results():
        for column, (mine, other) in enumerate(zip(given[:outputs], taught)):
            if not other.is_floating_point() or not other.dim() or not other.shape[0]:
                continue
            rough, exact = _as_rows(mine, other)
            count, width = exact.shape
            rows += count
            if width < _NARROW:
                narrow.setdefault((column, width), _Pooled()).add(rough, exact)
            else:
                total += error_by_row(rough, exact) ** 2 * count
    total += sum(pooled.share * pooled.rows for pooled in narrow.values())
    return (total / rows) ** 0.5 if rows else 0.0


@dataclass
class _Pooled:
    """Squares of errors and of what they are errors of, over rows."""

    error: float = 0.0
    scale: float = 0.0
    rows: int = 0

    def add(self, rough: Tensor, exact: Tensor) -> None:
        self.error += float((rough - exact).square().sum())
        self.scale += float(exact.square().sum())
        self.rows += exact.shape[0]

    @property
    def share(self) -> float:
        """The squared relative error."""
        if self.scale > 0:
            return self.error / self.scale
        return float("inf") if self.error > 0 else 0.0


def _as_rows(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [samples, numbers], with zeros where the teacher is not finite."""
    import torch

    exact = theirs.float().reshape(theirs.shape[0], -1)
    finite = torch.isfinite(exact)
    return torch.where(finite, ours.float().reshape(exact.shape), 0.0), torch.where(finite, exact, 0.0)


def left_out(used: int, given: int) -> str:
    """In words, that calibration batches were not used; empty when all were."""
    if used >= given:
        return ""
    return f"trained on {used} of {given} calibration batches: their values take {CACHED_BYTES >> 20} MiB"


def keeps_state(graph: Graph) -> bool:
    """Whether calls of a graph leave something behind: states that it keeps, arguments that it writes to, random numbers."""
    return any(s.kind != "arg" for s in graph.input_specs) or any(n.op.effect is not Effect.PURE for n in graph.nodes)


def same_value(graph: Graph, value: Value) -> Value | None:
    """The value of another graph that has this one's name and type, if there is one."""
    try:
        found = graph.value(value.name)
    except KeyError:
        return None
    same = isinstance(found.type, TensorType) and isinstance(value.type, TensorType)
    return found if same and found.tensor.dense() == value.tensor.dense() else None


def float_constants(graph: Graph) -> dict[str, str]:
    """The digests of a graph's dense floating-point constants, by name."""
    return {
        str(n.attrs["name"]): str(n.attrs["digest"]) for n in graph.walk()
        if n.op.name == "const" and n.type.encoding == DENSE and n.type.dtype.is_float
    }


def originals(graph: Graph, dense: Graph, options: Options) -> dict[str, Tensor]:
    """What the constants were that are integers now."""
    from mcomp.ops.encoded import to_torch_tensor

    known = {**float_constants(dense), **options.floats}
    coded = {n.attrs["name"] for n in graph.walk() if n.op.name == "const" and n.type.encoding != DENSE}
    stores = (graph.store, dense.store)
    return {
        name: to_torch_tensor(next(s for s in stores if digest in s).get(digest))
        for name, digest in known.items() if name in coded and any(digest in s for s in stores)
    }


def chooser(options: Options) -> Callable[[Node], bool]:
    """Which constants are trained."""
    from mcomp.passes.compress.training.view import is_trainable

    keep = options.keep
    return lambda node: is_trainable(node) and not (keep is not None and keep(node))


def has_norms(graph: Graph) -> bool:
    """Whether a graph has convolutions that are normalized while they are trained, where samples are enough."""
    return any(
        n.op.name == "conv" and n.type.rank == 4 and len(n.operands) == 3
        and all(v is not None and v.weight is not None and v.tensor.encoding == DENSE for v in n.operands[1:])
        for n in graph.nodes
    )


def timed(recipe: Recipe, seconds: float | None, seed: int) -> Recipe:
    """The recipe with another time limit and seed, where these are given."""
    return replace(recipe, seconds=recipe.seconds if seconds is None else seconds, seed=seed or recipe.seed)


def _identity(task: Matching, recipe: Recipe, options: Options) -> str:
    """What a checkpoint must agree with: shapes and starting values of what is trained, samples, and options."""
    from mcomp.ops.encoded import array_of

    h = hashlib.sha256()
    for name, tensor in task.tensors().items():
        h.update(f"{name}{tuple(tensor.shape)}".encode())
        h.update(array_of(tensor.contiguous()).tobytes())
    fields = {k: v for k, v in vars(recipe).items() if k not in ("seconds", "threads", "deadline", "told")}
    plain = {k: v for k, v in vars(options).items() if k not in ("keep", "floats") and not callable(v)}
    h.update(repr((sorted(fields.items()), sorted(plain.items()), task.objective, task.samples.total)).encode())
    first = task.samples.columns(task.samples.held()[0]) if task.samples.total else []
    for column in first:
        h.update(array_of(column.contiguous()).tobytes())
    return h.hexdigest()


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text).strip("-")

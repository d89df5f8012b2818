"""Tasks for the trainer: a student that is to give what its teacher gives, computed before or along the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mcomp.ir.graph import Graph, Value
from mcomp.ir.printer import graph_text
from mcomp.ops.encoded import decoded
from mcomp.ops.evaluate import constant
from mcomp.passes.compress.teaching import CACHED_BYTES, NORMALIZED, PLAIN
from mcomp.passes.compress.training.augment import Augment
from mcomp.passes.compress.training.data import Minibatch, Samples
from mcomp.passes.compress.training.forward import Forward
from mcomp.passes.compress.training.objective import Objective
from mcomp.passes.compress.training.precision import steps_in
from mcomp.passes.compress.training.trainer import mean_loss
from mcomp.passes.compress.training.view import TrainableGraph, laid_out, of_images
from mcomp.runtime.calibration import Calibration

_KEPT_BYTES = 1 << 28
_NORMALIZED = 16
"""Samples that a minibatch has at least whose statistics are of use."""
_PLACES = "places "
_TAUGHT = "taught "

Teacher = Callable[[Sequence[Any]], list[Tensor]]


class Matching:
    """A student trained to give what its teacher gives for the same inputs.

    The first columns of the samples are the student's inputs. What follows, if anything, is what the teacher gave for them;
    otherwise `teacher` computes it at every step, which `augment` needs: it changes the inputs of training steps, those that
    have a row for each sample. Where the samples come in a cycle, changes do too, and what the teacher gave is kept in
    `known` for the next time, by place, as far as there is room. `bf16`: training steps multiply in bfloat16; what is held
    out never does.
    """

    def __init__(
        self, student: TrainableGraph, samples: Samples, objective: Objective, *, teacher: Teacher | None = None,
        augment: Augment | None = None, seed: int = 0, bf16: bool = False, known: dict[int, list[Tensor]] | None = None,
    ) -> None:
        if augment is not None and teacher is None:
            raise ValueError("augmented inputs need a teacher that runs along")
        self.student = student
        self.samples = samples
        self.objective = objective
        self.teacher = teacher
        self.augment = augment
        self.seed = seed
        self.bf16 = bf16
        self._known = {} if known is None else known
        self._held: dict[int, list[Tensor]] = {}
        self._room = _KEPT_BYTES
        self._places_room = CACHED_BYTES - _nbytes(list(self._known.values()))

    def tensors(self) -> Mapping[str, Tensor]:
        return self.student.tensors()

    @property
    def kind(self) -> str:
        return NORMALIZED if self.student.buffers() else PLAIN

    def buffers(self) -> Mapping[str, Tensor]:
        return self.student.buffers()

    def normalize(self) -> int:
        """Normalize convolutions while they are trained, where every minibatch has samples enough and nothing is rounded;
        returns how many are."""
        first = self.samples.epoch(0) if self.samples.batched is not None else []
        rounded = any(trained.scales is not None for trained in self.student.trained.values())
        if rounded or not first or min(len(batch.rows) for batch in first) < _NORMALIZED:
            return 0
        return self.student.normalize(self._split(first[0])[0])

    def loss(self, batch: Minibatch, step: int) -> Tensor:
        inputs, targets = self._split(batch)
        cycle = self.samples.cycle * self.samples.steps_per_epoch
        place = step % cycle if cycle else step
        inputs = self._changed(place, inputs)
        with steps_in(self.bf16 and not cycle):
            targets = self._taught(place, inputs) if self.teacher is not None else targets
        with steps_in(self.bf16):
            found = self.student(inputs)
        return self.objective(found, targets)

    def _changed(self, place: int, inputs: list[Any]) -> list[Any]:
        """The inputs of a step as `augment` changes them: those that have a row for each sample."""
        rows = self.samples.batched or ()
        own = [i for i, has in enumerate(rows[: len(inputs)]) if has]
        if self.augment is None or not own:
            return inputs
        changed = list(inputs)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed * 1_000_003 + place)
            for i, tensor in zip(own, self.augment([inputs[i] for i in own])):
                changed[i] = tensor
        return changed

    def held(self) -> float:
        with torch.no_grad():
            losses = []
            for number, batch in enumerate(self.samples.held()):
                inputs, targets = self._split(batch)
                if self.teacher is not None:
                    targets = self._expected(number, inputs)
                losses.append((float(self.objective(self.student(inputs), targets)), len(batch.rows)))
        return mean_loss(losses)

    def _expected(self, number: int, inputs: Sequence[Any]) -> list[Tensor]:
        """What the teacher gives for what is held out, which never changes: kept, as far as there is room."""
        if number not in self._held:
            assert self.teacher is not None
            found = self.teacher(inputs)
            self._room -= sum(y.nbytes for y in found)
            if self._room < 0:
                return found
            self._held[number] = found
        return self._held[number]

    def _taught(self, place: int, inputs: Sequence[Any]) -> list[Tensor]:
        """What the teacher gives for the inputs of a place; kept where places come again."""
        assert self.teacher is not None
        if not self.samples.cycle:
            return self.teacher(inputs)
        if place not in self._known:
            found = self.teacher(inputs)
            self._places_room -= sum(y.nbytes for y in found)
            if self._places_room < 0:
                return found
            self._known[place] = found
        return self._known[place]

    def results(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """What the student and the teacher give for what is held out, batch by batch; without gradients."""
        for number, batch in enumerate(self.samples.held()):
            inputs, targets = self._split(batch)
            with torch.no_grad():
                found = self.student(inputs)
                taught = targets if self.teacher is None else self._expected(number, inputs)
            yield found, taught

    def _split(self, batch: Minibatch) -> tuple[list[Any], list[Tensor]]:
        columns = self.samples.columns(batch)
        count = len(self.student.inputs)
        return columns[:count], columns[count:]


def running_teacher(graph: Graph, outputs: Sequence[Value], inputs: Sequence[Value] | None = None) -> Teacher:
    """A function that computes values of a graph from its inputs, without gradients. Constants are decoded once."""
    known: dict[Any, Any] = {}

    def load(node: Any) -> Any:
        if node not in known:
            known[node] = laid_out(decoded(constant(node)), images)
        return known[node]

    forward = Forward(graph, load, inputs=inputs, outputs=outputs)
    images = of_images(forward.nodes)

    def teacher(given: Sequence[Any]) -> list[Tensor]:
        with torch.no_grad():
            return [decoded(y) for y in forward([laid_out(x, images) for x in given])]

    return teacher


def values_on(
    graph: Graph, calibration: Calibration, wanted: Sequence[Value], *, limit_bytes: int
) -> list[list[Tensor]]:
    """Values of a graph, batch by batch of the calibration data, until they take `limit_bytes` (at least one batch). Inputs
    of the graph are those of the calibration data and take nothing; others are copies: nothing of the runs stays alive."""
    places = {v: i for i, v in enumerate(graph.inputs)}
    if all(v in places for v in wanted):
        rows = (calibration.inputs(graph, batch) for batch in calibration.batches)
        return [[row[places[v]] for v in wanted] for row in rows]
    compute = running_teacher(graph, wanted)
    found: list[list[Tensor]] = []
    taken = 0
    for batch in calibration.batches:
        given = calibration.inputs(graph, batch)
        row = [y.clone() for y in compute(given)]
        taken += sum(y.numel() * y.element_size() for y in row)
        if found and taken > limit_bytes:
            break
        found.append(row)
    return found


def taught_values(
    dense: Graph, calibration: Calibration, wanted: Sequence[Value], *, limit_bytes: int
) -> list[list[Tensor]]:
    """As `values_on`; kept with the calibration data, where all that is kept so is not much, for who trains against them
    again."""
    key = f"{_TAUGHT}{values_digest(dense, wanted, limit_bytes)}"
    known: list[list[Tensor]] | None = calibration.memo.get(key)
    if known is None:
        known = values_on(dense, calibration, wanted, limit_bytes=limit_bytes)
        _keep(calibration.memo, key, known)
    return known


def taught_places(
    dense: Graph, calibration: Calibration, wanted: Sequence[Value], *how: object
) -> dict[int, list[Tensor]]:
    """Where values of a graph for changed samples are kept, by place in their cycle: with the calibration data, for who
    changes the same ones again in the same way (`how`: everything that says which are where), and nobody else."""
    key, memo = f"{_PLACES}{values_digest(dense, wanted, *how)}", calibration.memo
    for other in [k for k in memo if k.startswith(_PLACES) and k != key]:
        del memo[other]
    known: dict[int, list[Tensor]] = memo.setdefault(key, {})
    return known


def values_digest(dense: Graph, wanted: Sequence[Value], *how: object) -> str:
    """What values of a graph are told from others by, and from those found in another way (`how`)."""
    names = ",".join(v.name for v in wanted)
    return hashlib.sha256(f"{graph_text(dense, digests=32)}{names} {how}".encode()).hexdigest()


def _keep(memo: dict[str, Any], key: str, rows: list[list[Tensor]]) -> None:
    """Keep values, and of those kept before the latest that fit beside them into `_KEPT_BYTES`."""
    room = _KEPT_BYTES - _nbytes(rows)
    if room < 0:
        return
    for other in [k for k in reversed(memo) if k.startswith(_TAUGHT)]:
        room -= _nbytes(memo[other])
        if room < 0:
            del memo[other]
    memo[key] = rows


def _nbytes(rows: list[list[Tensor]]) -> int:
    return sum(y.nbytes for row in rows for y in row)


def only_relevant(rows: Sequence[Sequence[Tensor]], calibration: Calibration) -> list[list[Tensor]]:
    """Values of calibration batches with NaN at tokens that the model's outputs do not depend on (padding), where a pass has
    found which these are; losses and errors leave NaN out. Values that are no [samples, tokens, channels] stay."""
    relevant = calibration.relevant or {}

    def marked(index: int, value: Tensor) -> Tensor:
        mark = relevant.get((index, value.shape[0] * value.shape[1])) if value.dim() == 3 else None
        if mark is None or not value.is_floating_point():
            return value
        return value.masked_fill(~mark.reshape(value.shape[0], value.shape[1], 1), float("nan"))

    return [[marked(index, value) for value in row] for index, row in enumerate(rows)]

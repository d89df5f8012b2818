"""Students that the user gave for modules, as the planner's choices: what they take, and how far off a short training leaves
the model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from mcomp.errors import PassError
from mcomp.ir import dims
from mcomp.ir.extract import extract
from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import INTERRUPTED, STUDENTS, TRAINED, TRAINING, Context
from mcomp.manager.run import PassManager
from mcomp.ops.workload import operations
from mcomp.passes.compress.distill import TEACHER, Distill
from mcomp.passes.compress.region import Region, region_at
from mcomp.passes.compress.student import from_module
from mcomp.passes.compress.teaching import CACHED_BYTES
from mcomp.passes.compress.treatment import Treatment, part_type, piece, untouched_parts
from mcomp.plan.pace import Training, pace_of
from mcomp.plan.quality import relative_error
from mcomp.plan.spread import Spread

SHARE = 0.12
"""Of the time for the whole search, what short trainings of all students together may take."""
_LEAST_STEPS = 24
_ANY = float("inf")
"""No error refuses a student: whether it is of use is judged by the whole model, and a few steps, which tell the pace, are
to train the student and nothing else."""
_BATCH, _LARGE_BATCH, _FEW_OPERATIONS = 64, 256, 1e5
"""Samples of a training step, and of one of students with at most so many operations a sample: for these, a step of four
times the samples takes about as long (measured on a student of 44,150: 1,000 steps a second with either)."""
_INT8 = Treatment(bits=8, activations="static")
_COMPARED = 32


@dataclass(frozen=True)
class Student:
    """A student of a module, the one of this number of those that were given for it. `error`: squared relative error of the
    model's outputs after `steps` steps of training."""

    path: str
    number: int
    region: Region
    body: Graph
    error: float
    steps: int

    def lesson(self, steps: int | None = None) -> Distill:
        """The pass that puts it into the module's place."""
        return _lesson((self.path, self.number), self.body, self.steps if steps is None else steps)

    def weights(self) -> int:
        """How many numbers it has to learn."""
        return sum(prod(n.type.static_shape) for n in self.body.nodes if n.op.name == "const" and n.type.dtype.is_float)

    @property
    def batch(self) -> int:
        """Samples of a training step."""
        return _batch(self.body)

    def nbytes(self) -> int:
        """Bytes of its weights but vectors, in integers of 8 bits where layers can have them."""
        matrices = {n.attrs["digest"]: n.type for n in self.body.nodes if n.op.name == "const" and n.type.rank > 1}
        total = sum(dims.evaluate(type.nbytes, {}) for type in matrices.values())
        for node in self._layers():
            shape = node.operand(1).tensor.static_shape
            parts = untouched_parts(shape, node.attrs, _INT8, node.op.name == "conv")
            small = [part_type(node, p, (8, "static")).nbytes for p in parts]
            total += sum(dims.evaluate(n, {}) for n in small) - dims.evaluate(node.operand(1).tensor.nbytes, {})
        return total

    def operations(self) -> float:
        """Operations of a call, sizes that are symbols at their bounds, or 1."""
        return float(operations(self.body))

    def pieces(self) -> tuple[Graph, ...]:
        """Graphs that take the time of its products."""
        layers = self._layers()
        rest = [n for n in self.body.nodes if n.op.name == "attention"]
        return (*(piece(n, _INT8) for n in layers), *(extract([n]).graph for n in rest))

    def _layers(self) -> list[Node]:
        return [n for n in self.body.nodes if n.op.name in ("linear", "conv") and n.operand(1).weight is not None]


Tried = list[tuple[str, int, float, int]]
"""Module path, number, squared error of the model's outputs, steps of training."""


def tried_students(own: Graph, context: Context, spread: Spread) -> tuple[Tried, list[str]]:
    """What short trainings of the given students came to, and why some are no choice. Without a time limit, none is."""
    given: Mapping[str, Sequence[Any]] = context.shared.get(STUDENTS, {})
    seconds = context.shared.get(TRAINING)
    if not given:
        return [], []
    if seconds is None:
        return [], ["students are trained within a time limit, and there is none: pass time_limit=..."]
    found: Tried = []
    notes: list[str] = []
    wanted = [(path, number) for path, some in given.items() for number in range(len(some))]
    for path, number in wanted:
        which = "the student" if len(given[path]) == 1 else f"student {number}"
        place = f"{which} of {path or 'the model'}"
        spread.say(place)
        try:
            error, steps = _try(own, context, (path, number), SHARE * seconds / len(wanted))
        except PassError as e:
            notes.append(e.message)
            continue
        if error is None:
            reasons = [r.reason for r in context.remarks if r.kind == "missed" and r.rule == "distill"]
            reason = reasons[-1] if reasons else "it did not fit"
            notes.append(f"{place} is no choice: {reason}")
        else:
            found.append((path, number, error, steps))
    return found, notes


def _try(own: Graph, context: Context, which: tuple[str, int], seconds: float) -> tuple[float | None, int]:
    """The squared output error that a student leaves, and the steps it was given; None where it was refused."""
    assert context.calibration is not None
    body = _captured(own, context, which)[1]
    if not _taught(own, context, _lesson(which, body, 1))[1]:
        return None, 1

    def trained(steps: int) -> Sequence[Training]:
        context.shared.pop(TRAINED, None)
        _taught(own, context, _lesson(which, body, steps))
        done: Sequence[Training] = context.shared.pop(TRAINED, ())
        return done

    pace = pace_of(trained, seconds)
    steps = max(_LEAST_STEPS, pace.steps_in(seconds - pace.spent))
    graph, _ = _taught(own, context, _lesson(which, body, steps))
    limit = min(_COMPARED, len(context.calibration))
    error = relative_error(
        context.calibration.outputs(graph, limit=limit), context.calibration.outputs(own, limit=limit),
    )
    return max(error, *(e.error for e in graph.ledger if e.rule == "distill"), 0.0) ** 2, steps


def _taught(own: Graph, context: Context, lesson: Distill) -> tuple[Graph, bool]:
    """The graph with a student in a module's place after a lesson, and whether it took it."""
    graph = own.clone()
    known = len(graph.ledger)
    PassManager((lesson,)).run(graph, context)
    context.shared.pop(TEACHER, None)
    if context.shared.get(INTERRUPTED):
        raise KeyboardInterrupt
    return graph, len(graph.ledger) > known


def students_of(own: Graph, context: Context, known: Tried) -> tuple[tuple[Student, ...], ...]:
    """The students that were tried, captured again, those of a module together."""
    found: dict[str, list[Student]] = {}
    for path, number, error, steps in known:
        region, body = _captured(own, context, (path, number))
        found.setdefault(path, []).append(Student(path, number, region, body, float(error), int(steps)))
    return tuple(map(tuple, found.values()))


def _captured(own: Graph, context: Context, which: tuple[str, int]) -> tuple[Region, Graph]:
    """The region of a student, by path and number, and the student."""
    from mcomp.passes.compress.training.tasks import values_on
    from mcomp.runtime.calibration import Calibration

    path, number = which
    region = region_at(own, path)
    assert context.calibration is not None
    first = Calibration(context.calibration.batches[:1])
    inputs = values_on(own, first, region.inputs, limit_bytes=CACHED_BYTES)
    return region, from_module(region, context.shared[STUDENTS][path][number], inputs[0])


def _lesson(which: tuple[str, int], body: Graph, steps: int) -> Distill:
    path, number = which
    return Distill(region=path, student="given", number=number, steps=steps, batch=_batch(body), max_error=_ANY)


def _batch(body: Graph) -> int:
    return _LARGE_BATCH if operations(body) <= _FEW_OPERATIONS else _BATCH

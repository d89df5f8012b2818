"""What the planner may choose of a graph: widths of dimensions, branches to keep, and treatments of layers.

    catalog = survey(graph, context, Menu(), Spread(), Memory())
    catalog.pipeline(choice)        # prune{widths=[...]},treat{choices=[...]},quantize{leave=[...]}

All errors are squared relative errors of the model's outputs: of dimensions as probing finds them, of layers by what noise
in their outputs does to the model's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from mcomp.ir.graph import Graph, Node
from mcomp.manager.context import TRAINING, Context
from mcomp.manager.passes import Pass
from mcomp.manager.pipeline import parse_pipeline, pipeline_text
from mcomp.passes.analysis.coupling import Coupling, CouplingAnalysis, Dimension
from mcomp.passes.compress import findings
from mcomp.passes.compress.branches import branches
from mcomp.passes.compress.distill import Distill
from mcomp.passes.compress.findings import KINDS, LIMIT, PRODUCTS, branches_found, layers_found, widths_found
from mcomp.passes.compress.given import Student, students_of, tried_students
from mcomp.passes.compress.narrow import own_constants
from mcomp.passes.compress.pieces import Shapes, scaled
from mcomp.passes.compress.prune import Prune
from mcomp.passes.compress.quantize import Quantize
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.sequences import usual_integers
from mcomp.passes.compress.shares import step_of
from mcomp.passes.compress.teaching import NORMALIZED, PLAIN, has_norms
from mcomp.passes.compress.treat import Treat
from mcomp.passes.compress.treatment import KEEP, Treatment
from mcomp.plan.memory import Memory
from mcomp.plan.offers import Catalog, Choice, Group, Menu, Option, register_offers
from mcomp.plan.spread import Spread
from mcomp.runtime.calibration import Calibration

WIDTH, BRANCH, THIN, BITS, STUDENT = "width", "branch", "thin", "bits", "student"
TABLE, NARROW = "table", "narrow table"
"""Kinds of levels."""
_KEPT = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
_THIN = (0.07, 0.05, 0.035, 0.025, 0.0175, 0.012, 0.008, 0.005)
_ROUNDED, _TABLED = 4.0, 2.0
"""What training leaves of errors of rounding, and of tables (rounded, made narrow too), beside what it leaves where units
and factors are gone: weights that stay make up for these, and integers can only move to the next ones. Set by hand; no
measurement tells the factors apart from others."""
_INTEGERS = {PLAIN: 0.3, NORMALIZED: 0.2}
"""The share of the steps that come after rounding: these are not normalized, and learn less."""
_BATCHES, _SAMPLES = 32, 256
"""Batches and samples that passes see before a training."""


@register_offers
def survey(graph: Graph, context: Context, menu: Menu, spread: Spread, memory: Memory) -> LayersAndWidths:
    """Measure what can be chosen. The findings are kept in `memory`, and taken from there where they are known."""
    known = memory.recall("survey", graph.name)
    own = graph.clone()
    with own.edit("prune") as editor:
        own_constants(own, editor)
    coupling: Coupling = context.analyze(own, CouplingAnalysis())
    mark_relevant(own, context, LIMIT)
    if known is None:
        known = {
            **widths_found(own, context, coupling, spread), **layers_found(own, context, menu, spread),
            "branches": branches_found(own, context, spread),
        }
        memory.keep("survey", graph.name, known)
    taught = memory.recall("given", graph.name)
    if taught is None:
        taught = dict(zip(("students", "notes"), tried_students(own, context, spread)))
        if TRAINING in context.shared:
            memory.keep("given", graph.name, taught)
    return LayersAndWidths(own, context, coupling, menu, {**known, **taught})


@dataclass(frozen=True)
class _Layer:
    """A part: a linear, conv, table, attention or recurrent layer, with its group (None: it has no treatments)."""

    node: Node
    group: int | None

    @property
    def table(self) -> bool:
        """Whether it is an embedding, which takes no time."""
        return self.node.op.name == "embedding"

    @property
    def product(self) -> bool:
        """Whether it is a linear or conv, whose weight other groups change too."""
        return self.node.op.name in PRODUCTS


class LayersAndWidths(Catalog):
    """The catalog of one graph."""

    def __init__(
        self, own: Graph, context: Context, coupling: Coupling, menu: Menu, known: Mapping[str, Any]
    ) -> None:
        self.graph, self.context, self.coupling = own, context, coupling
        self.trains = (STUDENT,)
        self.lasting = {BITS: _ROUNDED, TABLE: _TABLED, NARROW: _TABLED}
        nodes = {n.name: n for n in own.nodes}
        self.dimensions = {d.name: d for d in coupling.dimensions if d.name in known["curves"]}
        self.orders = {name: np.array(known["curves"][name][0], np.int64) for name in self.dimensions}
        self.branches = {b.key: b for b in branches(own) if b.key in known["branches"]}
        self.students = students_of(own, context, known["students"])
        self.notes = tuple(known["notes"])
        groups: list[Group] = []
        taken = [frozenset(part) for part in (*(some[0].region.nodes for some in self.students),
                                              *(b.nodes for b in self.branches.values()))]
        self.taken = taken

        def around(nodes: Collection[Node], but: int = -1) -> tuple[int, ...]:
            """The groups that take all of these nodes away, but one; of those that take the same, the ones before it."""
            given = set(nodes)
            return tuple(
                i for i, some in enumerate(taken)
                if i != but and (given < some or (given == some and (but < 0 or i < but)))
            )

        for some in self.students:
            given = [Option(f"given {s.number}" if len(some) > 1 else "given", s.error, STUDENT) for s in some]
            inner = around(some[0].region.nodes, len(groups))
            name = f"student of {some[0].path or 'the model'}"
            groups.append(Group(name, (Option("kept", 0.0, STUDENT), *given), inner))
        self.branch_groups: dict[str, int] = {}
        for key, branch in self.branches.items():
            self.branch_groups[key] = len(groups)
            gone = Option("gone", float(known["branches"][key]), BRANCH)
            groups.append(Group(key, (Option("kept", 0.0, BRANCH), gone), around(branch.nodes, len(groups))))
        self.gone_groups = frozenset(range(len(groups)))
        self.crossed: dict[int, tuple[int, ...]] = {}
        """Of a width, the students that would be of another width then: one of them and the width exclude each other."""
        self.width_groups: dict[str, int] = {}
        self.counts: dict[int, tuple[int, ...]] = {}
        for name, dimension in self.dimensions.items():
            counts = _counts(dimension, len(known["curves"][name][1]), menu.thin)
            if len(counts) < 2:
                continue
            errors = np.maximum.accumulate(known["curves"][name][1])
            options = tuple(Option(str(c), float(errors[dimension.size - c]), WIDTH) for c in counts)
            self.width_groups[name], self.counts[len(groups)] = len(groups), counts
            own_nodes = set(dimension.nodes)
            self.crossed[len(groups)] = tuple(
                i for i in range(len(self.students)) if taken[i] & own_nodes and not taken[i] >= own_nodes
            )
            groups.append(Group(name, options, _around_all(dimension.nodes, taken)))
        self.treatments: dict[int, tuple[Treatment, ...]] = {}
        self.sizes: dict[int, tuple[int, ...]] = {}
        self.layers: list[_Layer] = []
        plain: dict[int, int] = {}
        for name, rows in known["layers"].items():
            node, treatments = nodes[name], tuple(Treatment.parse(r[0]) for r in rows)
            at = around((node,))
            self.treatments[len(groups)], self.sizes[len(groups)] = treatments, tuple(int(r[2]) for r in rows)
            plain[len(groups)] = _plain_level(treatments, usual_integers(node))
            layer = _Layer(node, len(groups))
            self.layers.append(layer)
            options = tuple(Option(str(t), float(r[1]), _kind(t, layer.table)) for t, r in zip(treatments, rows))
            groups.append(Group(name, options, at))
        known_layers = {layer.node for layer in self.layers}
        self.layers += [_Layer(n, None) for n in own.nodes if n.op.name == "attention" and n not in known_layers]
        self.groups = tuple(groups)
        self.plain = tuple(plain.get(i, 0) for i in range(len(groups)))
        touching = [self._touching(layer, around((layer.node,))) for layer in self.layers]
        self.shared = _sharing([layer.node for layer in self.layers])
        self.touching = (
            *(tuple(dict.fromkeys(g for other in self.shared.get(i, (i,)) for g in touching[other]))
              for i in range(len(touching))),
            *((i, *groups[i].inside) for i in range(len(self.students))),
        )
        self.shapes = Shapes(own, coupling)

    def _touching(self, layer: _Layer, around: tuple[int, ...]) -> tuple[int, ...]:
        values = {v for v in (*layer.node.operands, *layer.node.results) if v is not None}
        widths = [
            self.width_groups[name] for name, d in self.dimensions.items()
            if name in self.width_groups and any(use.value in values for use in d.axes)
        ]
        own = [] if layer.group is None else [layer.group]
        students = dict.fromkeys(i for g in widths for i in self.crossed[g] if i not in around)
        return (*widths, *own, *around, *students)

    def _student(self, index: int, choice: Choice) -> Student | None:
        """The student that a part behind those of layers stands for, where it is chosen."""
        number = index - len(self.layers)
        chosen = choice[number] > 0 and not any(choice[g] > 0 for g in self.groups[number].inside)
        return self.students[number][choice[number] - 1] if chosen else None

    # what parts take

    def nbytes(self, index: int, choice: Choice) -> int:
        if index >= len(self.layers):
            student = self._student(index, choice)
            return 0 if student is None else student.nbytes()
        layer = self.layers[index]
        if self._gone(index, choice):
            return 0
        if layer.group is not None and not layer.product:
            return self.sizes[layer.group][choice[layer.group]]
        before = (other for other in self.shared.get(index, ()) if other < index)
        if layer.group is None or any(self._same(other, index, choice) for other in before):
            return 0
        return self.shapes.nbytes(layer.node, self._units(index, choice), self._treatment(layer, choice))

    def operations(self, index: int, choice: Choice) -> tuple[str, float]:
        if index >= len(self.layers):
            student = self._student(index, choice)
            return ("nothing", 0.0) if student is None else ("student", student.operations())
        layer = self.layers[index]
        if self._gone(index, choice) or layer.table:
            return "nothing", 0.0
        treatment = KEEP if layer.group is None else self._treatment(layer, choice)
        return str(treatment), self.shapes.operations(layer.node, self._units(index, choice))

    def pieces(self, index: int, choice: Choice) -> tuple[Graph, ...]:
        if index >= len(self.layers):
            student = self._student(index, choice)
            return () if student is None else student.pieces()
        layer = self.layers[index]
        if self._gone(index, choice) or layer.table:
            return ()
        treatment = KEEP if layer.group is None else self._treatment(layer, choice)
        return (self.shapes.piece(layer.node, self._units(index, choice), treatment),)

    def _gone(self, index: int, choice: Choice) -> bool:
        node = self.layers[index].node
        return any(choice[g] > 0 and node in self.taken[g] for g in self.touching[index] if g in self.gone_groups)

    def _same(self, index: int, other: int, choice: Choice) -> bool:
        """Whether a layer is there and stores the weight that it shares with another one in the same way."""
        mine, others = (self._treatment(self.layers[i], choice) for i in (index, other))
        return mine == others and not self._gone(index, choice)

    def _treatment(self, layer: _Layer, choice: Choice) -> Treatment:
        assert layer.group is not None
        return self.treatments[layer.group][choice[layer.group]]

    def _units(self, index: int, choice: Choice) -> dict[Dimension, np.ndarray]:
        """The units of dimensions that go, of those that touch a part."""
        found = {}
        for g in self.touching[index]:
            if g in self.counts and self._narrows(g, choice):
                dimension = self.dimensions[self.groups[g].key]
                found[dimension] = self.orders[dimension.name][: dimension.size - self.counts[g][choice[g]]]
        return found

    def _narrows(self, group: int, choice: Choice) -> bool:
        """Whether a width is made smaller, and still there to be."""
        return choice[group] > 0 and not any(choice[g] > 0 for g in (*self.groups[group].inside, *self.crossed[group]))

    # pipelines

    def pipeline(self, choice: Choice) -> str:
        taught = [student.lesson() for student in self._given(choice)]
        treated, rounding = self._treated(choice)
        return pipeline_text((*taught, *self._narrowing(choice), *_treating([text for text, _ in treated]), *rounding))

    def glanced(self, pipeline: str) -> str:
        """With integers to the nearest: at 8 bits, what better ones gain is little beside everything else."""
        passes = parse_pipeline(pipeline)
        quick = [replace(p, rounding="nearest") if isinstance(p, Quantize) and p.rounding == "auto" else p for p in passes]
        return pipeline_text(quick)

    def _given(self, choice: Choice) -> list[Student]:
        """The students that are chosen."""
        found = (self._student(len(self.layers) + i, choice) for i in range(len(self.students)))
        return [student for student in found if student is not None]

    def trained(self, choice: Choice, steps: int, rates: Mapping[str, float] = MappingProxyType({})) -> str | None:
        calibration = self.context.calibration
        if calibration is None or not calibration.given or steps < 1:
            return None
        treated, rounding = self._treated(choice)
        steps_of = [_apart(text.partition("=")[0], t) for text, t in treated]
        thin, rounded = ([text for each in steps_of for text in each[i]] for i in range(2))
        shaping = _sampled((*self._narrowing(choice), *_treating(thin)), calibration)
        rounding = _sampled((*_treating(rounded), *rounding), calibration)
        given = self._given(choice)
        lessons = len(given) + bool(shaping)
        kind = NORMALIZED if has_norms(self.graph) else PLAIN
        share = _INTEGERS[kind]
        first, last = (max(1, round(steps * part)) for part in ((1.0 - share) / max(1, lessons), share))
        augment = _augment(self.graph, calibration.batches[0])
        taught = [Distill(steps=first, augment=augment, rate=rates.get(kind))] if shaping else []
        rows = sum(_rows(batch) for batch in calibration.batches)
        students = [
            replace(s.lesson(first), augment=augment if not s.path and rows < s.weights() else None) for s in given
        ]
        # Of a student of the whole model, steps take a small part of what the model takes for the inputs of one: changed
        # inputs, for which it would have to run along, are for the student's own training, where that is done once, and for
        # one with more weights than there are samples.
        alone = any(not s.path for s in given)
        mended = Distill(steps=last if lessons else steps, augment=None if alone else augment, rate=rates.get(PLAIN))
        mended = replace(mended, batch=given[0].batch) if alone else mended
        if not lessons and not rounding:
            return None
        return pipeline_text((*students, *shaping, *taught, *rounding, *([mended] if rounding else [])))

    def further(self, pipeline: str, steps: int, rate: float | None = None) -> str | None:
        """With another `distill` of the whole like the last one, where the pipeline ends with one."""
        *before, last = parse_pipeline(pipeline)
        if not isinstance(last, Distill) or last.student != "self" or last.region:
            return None
        return pipeline_text((*before, last, replace(last, steps=steps, rate=rate)))

    def _narrowing(self, choice: Choice) -> tuple[Pass, ...]:
        gone = [
            key for key, g in self.branch_groups.items()
            if choice[g] > 0 and not any(choice[b] > 0 for b in self.groups[g].inside)
        ]
        widths = [
            (self.dimensions[name], f"{name}={self.counts[g][choice[g]]}") for name, g in self.width_groups.items()
            if self._narrows(g, choice)
        ]
        found: list[Pass] = []
        wide = [(d, text) for d, text in widths if d.size > findings.WIDE]
        rest = [(d, text) for d, text in widths if d.size <= findings.WIDE]
        if wide:
            found.append(_prune((), wide, score="magnitude", refit=False))
        if gone or rest:
            found.append(_prune([f"{key}=0" for key in gone], rest))
        return tuple(found)

    def _treated(self, choice: Choice) -> tuple[list[tuple[str, Treatment]], tuple[Pass, ...]]:
        """The treatments, but for usual integers, with the text that `treat` takes; and the pass that makes these."""
        treated: list[tuple[str, Treatment]] = []
        floats, integers = [], 0
        for index, layer in enumerate(self.layers):
            if layer.group is None or self._gone(index, choice):
                continue
            treatment, name = self._treatment(layer, choice), layer.node.name
            if layer.product:
                shape = self.shapes.weight_shape(layer.node, self._units(index, choice))
                treatment = scaled(treatment, layer.node, shape)
            if treatment == KEEP:
                floats += [name] if len(self.treatments[layer.group]) > 1 else []
                continue
            usual = (treatment.bits, treatment.activations) == (8, usual_integers(layer.node).activations)
            kept = replace(treatment, bits=None, activations="none") if usual else treatment
            integers += treatment.bits is not None
            treated += [] if kept == KEEP else [(f"{name}={kept}", kept)]
        if not integers and not self._given(choice):
            return treated, ()
        calibration = self.context.calibration
        padded = calibration is not None and bool(calibration.relevant)
        return treated, (Quantize(leave=tuple(floats), relevant=padded),)


def _apart(name: str, treatment: Treatment) -> tuple[list[str], list[str]]:
    """What a layer is given before a training, and after it: factors and blocks learn as floats, then become integers."""
    thin = replace(treatment, bits=None, activations="none")
    coded = Treatment(bits=treatment.bits, activations=treatment.activations)
    if treatment.bits is None:
        return [f"{name}={thin}"], []
    if thin == KEEP:
        return [], [f"{name}={coded}"]
    parts: dict[str | None, tuple[str, ...]] = {None: (), "tucker": ("in", "core")}
    names = (*(f"{name}_{part}" for part in parts.get(treatment.scheme, ("in",))), name)
    return [f"{name}={thin}"], [f"{part}={coded}" for part in names]


def _sampled(passes: Sequence[Any], calibration: Calibration) -> tuple[Pass, ...]:
    """Passes that see some of the batches only, where there are more: training behind them sees all."""
    enough = max(_BATCHES, -(-_SAMPLES // _rows(calibration.batches[0])))
    return tuple(replace(p, limit=enough) if enough < min(p.limit, len(calibration)) else p for p in passes)


def _rows(batch: Sequence[Any]) -> int:
    """Samples of a batch, at least 1."""
    return max(1, next((len(x) for x in batch if getattr(x, "ndim", 0)), 1))


def _prune(gone: Sequence[str], widths: Sequence[tuple[Dimension, str]], **options: Any) -> Prune:
    """The pass that removes branches and narrows dimensions, and fits what is left once."""
    kinds = tuple(k for k in KINDS if any(d.kind == k for d, _ in widths))
    what = ("branches", *kinds) if gone else kinds
    return Prune(what=what, widths=(*gone, *(text for _, text in widths)), weighing="layer", **options)


def _treating(choices: Sequence[str]) -> tuple[Pass, ...]:
    return (Treat(choices=tuple(choices)),) if choices else ()


def _around_all(nodes: Collection[Node], taken: Sequence[frozenset[Node]]) -> tuple[int, ...]:
    """The groups that take some of these nodes away, where each node is taken by one of them."""
    found = tuple(i for i, some in enumerate(taken) if some & set(nodes))
    return found if set(nodes) <= frozenset().union(*(taken[i] for i in found)) else ()


def _plain_level(treatments: Sequence[Treatment], usual: Treatment) -> int:
    """What `quantize` makes of a layer: the usual integers of 8 bits, or what the user's options for it say."""
    whole = [t for t in treatments if t.bits is not None and t.scheme is None and t.block is None]
    return treatments.index(usual if usual in whole else whole[0]) if len(whole) == 1 or usual in whole else 0


def _sharing(nodes: Sequence[Node]) -> dict[int, tuple[int, ...]]:
    """Of each layer whose weight others read too, all that do, by their places."""
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        weight = node.operand(1).weight if node.op.name in PRODUCTS else None
        if weight is not None:
            readers.setdefault(weight.digest, []).append(i)
    return {i: tuple(some) for some in readers.values() if len(some) > 1 for i in some}


def _kind(treatment: Treatment, table: bool) -> str:
    if table:
        return TABLE if treatment.scheme is None else NARROW
    return BITS if treatment.scheme is None and treatment.block is None else THIN


def _counts(dimension: Dimension, known: int, thin: bool) -> tuple[int, ...]:
    """Numbers of units that may stay, falling, all of them first."""
    size = dimension.size
    if dimension.kind == "heads":
        return tuple(range(size, size - known, -1))
    step = step_of(size, 8)
    found = [size]
    for share in (*_KEPT, *(_THIN if thin else ())):
        count = max(1, round(share * size / step)) * step
        if count < 2 * step:
            count = max(2, round(share * size / 4) * 4)
        if 1 < count < found[-1] and size - count < known:
            found.append(count)
    return tuple(found)


def _augment(graph: Graph, batch: Sequence[Any]) -> str | None:
    """How inputs that have a row for each sample can be changed to make more of them."""
    from mcomp.passes.compress.training.augment import misfit
    from mcomp.passes.compress.training.data import row_columns

    rows = row_columns([v.type for v in graph.inputs], [v.type for v in graph.outputs])
    inputs = [x for x, own in zip(batch, rows or ()) if own]
    if not inputs:
        return None
    if misfit("images", inputs) is None and inputs[0].shape[1] in (1, 3):
        return "images"
    return "mix" if all(x.is_floating_point() and x.dim() == 2 for x in inputs) else None

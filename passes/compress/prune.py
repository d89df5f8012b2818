"""`prune`: channels, heads, inner units, branches and blocks of weights go; what stays is fitted again."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mcomp.errors import PassError
from mcomp.ir.graph import Graph, LedgerEntry
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.manager.passes import NONE, Pass, PassEffect, PassResult, register_pass
from mcomp.passes.analysis.coupling import Coupling, CouplingAnalysis, Dimension, Removal
from mcomp.passes.analysis.operations import Operations
from mcomp.passes.compress.branches import Branch, choose_branches, cut_branches, remove_branches
from mcomp.passes.compress.curves import Curve, Score, Weighing, candidates, curves_of
from mcomp.passes.compress.encode import constant_bytes
from mcomp.passes.compress.fitting import fit_again, left_from, places_of
from mcomp.passes.compress.ledger import divided, settle
from mcomp.passes.compress.narrow import feasible, join_constants, narrow, own_constants
from mcomp.passes.compress.options import check_layers, check_limit
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.shares import cheapest, points, step_of, uniform
from mcomp.passes.compress.sparsify import sparsify
from mcomp.passes.compress.untouched import tell_nested
from mcomp.plan.quality import relative_error

UNITS = ("channels", "heads", "ffn", "stream")
"""Kinds of dimensions."""
_OTHERS = ("branches", "blocks", "nm")


@register_pass
@dataclass(frozen=True)
class Prune(Pass):
    """Units that go together are removed: constants and shapes shrink, nothing is masked. Then the layers behind them are
    fitted, in order, to what they gave before.

    before:
        %w = const @fc1.weight#9f3a : f32[1536, 384]
        %h = linear %x, %w, %b : f32[B, 1536]
        %v = const @fc2.weight#51c0 : f32[384, 1536]
        %y = linear %h, %v, %c : f32[B, 384]
    after:
        %w = const @fc1.weight#70aa : f32[768, 384]
        %h = linear %x, %w, %b : f32[B, 768]
        %v = const @fc2.weight#0b1e : f32[384, 768]
        %y = linear %h, %v, %c : f32[B, 384]

    what: channels (of convolutions and other layers), ffn (units between linear layers), heads (of attention, with the keys
        and values that they share), stream (channels of a residual stream), branches (add(x, f(x)) becomes x); or, with
        shapes as they are, blocks (block-sparse weights of linear layers and pointwise convolutions) or nm (of linear
        layers: n of every m inputs of an output).
    ratio: the share of every dimension (of blocks, of branches) that goes. flops: instead, the share of the operations of
        products that stays; what goes is chosen over all layers by error per operation saved. widths: instead, what
        stays of dimensions by name: `fc1.weight:0=768`; `add_7=0` removes the branch that goes into this sum. What is named
        of both kinds is chosen by the graph as it was, and the rest fitted once. Neither goes with blocks or nm.
    score: of units: obs (least error after the best refit, by second moments), activation (weights times the deviation of
        activations), magnitude (norm of weights), taylor (activation times gradient of the outputs).
    weighing: how errors of different layers compare when flops chooses: by their share of what the layer gives, or by what
        they do to the model's outputs, probed on a few calibration batches.
    granularity: kept counts are multiples of this, or of an eighth of the units where that is less. least: the share of
        every dimension that stays in any case.
    refit: fit what follows, by least squares on the pruned model's activations. variance: also give outputs of
        convolutions the deviation that they had (what re-estimating batch norms does). damping: of the least squares, as a
        share of the mean squared input; none: for every layer what one half of the data finds best for the other.
    statistics: units that a layer, rms or group norm takes its statistics over may go, too, though what stays of them then
        changes (those of a stream may in any case); the ledger has the error of the model's outputs then.
    block: rows (outputs) and columns (inputs) of blocks; empty: the largest that the target's kernels skip at best and that
        divide the weight. n, m: for nm.
    rounds: with flops, how often units are chosen and what is left is fitted, on the way to the target.
    limit: at most so many calibration batches are used.
    """

    name = "prune"
    effect = PassEffect.APPROXIMATE

    ratio: float = 0.3
    flops: float | None = None
    what: tuple[str, ...] | str = ("channels", "ffn")
    score: Score = "obs"
    weighing: Weighing = "output"
    granularity: int = 8
    least: float = 0.1
    refit: bool = True
    variance: bool = True
    damping: float | None = None
    statistics: bool = False
    block: tuple[int, ...] = ()
    n: int = 2
    m: int = 4
    limit: int = 128
    rounds: int = 1
    widths: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is pruned."""
        return (self.what,) if isinstance(self.what, str) else self.what

    @property
    def narrows(self) -> bool:
        """Whether units of dimensions go."""
        return any(k in UNITS for k in self.kinds)

    def counts(self) -> dict[str, int]:
        """What stays of dimensions (0: of branches that go), by the names in `widths`. Raises PassError for other texts."""
        found: dict[str, int] = {}
        for text in self.widths:
            name, _, count = text.rpartition("=")
            if not count.isdecimal() or not name:
                raise PassError(f"prune: width {text!r}", code="MC0204", help="write fc1.weight:0=768")
            found[name] = int(count)
        return found

    def check(self, graph: Graph, context: Context) -> None:
        unknown = [k for k in self.kinds if k not in (*UNITS, *_OTHERS)]
        if unknown or not self.kinds:
            raise PassError(f"prune: what is {', '.join(unknown) or 'empty'}", code="MC0204",
                            help=f"choose among {', '.join((*UNITS, *_OTHERS))}")
        if {"blocks", "nm"} <= set(self.kinds):
            raise PassError("prune: a weight is stored in blocks or as nm, not both", code="MC0204",
                            help="give two passes, each with an exclusion of the other's layers")
        self.counts()
        self._check_heeded()
        check_limit("prune", self.limit)
        if not 0.0 <= self.least <= 1.0:
            raise PassError(f"prune: least is {self.least}", code="MC0204", help="use a share of 1, such as 0.1")
        self._check_values()
        check_layers(self, graph, context, ("ratio",), Prune._check_values)
        if self.flops is not None and not 0.0 < self.flops <= 1.0:
            raise PassError(f"prune: flops is {self.flops}", code="MC0204", help="use more than 0, at most 1")
        if self.granularity < 1 or self.rounds < 1:
            raise PassError(f"prune: granularity is {self.granularity}, rounds is {self.rounds}", code="MC0204",
                            help="use positive numbers")
        if (self.block and (len(self.block) != 2 or min(self.block) < 1)) or not 0 < self.n <= self.m:
            raise PassError(f"prune: blocks of {list(self.block)}, {self.n} of {self.m}", code="MC0204",
                            help="use block=[32,4], n=2, m=4")
        if context.calibration is None:
            raise PassError("prune: errors are measured on calibration data, and there is none", code="MC0205",
                            help="pass calibration=[...] or example inputs")

    def _check_heeded(self) -> None:
        """Raise PassError for options that what is pruned does not heed."""
        if self.score != "obs" and not self.narrows:
            raise PassError(f"prune: score={self.score} is for units, not for {' and '.join(self.kinds)}", code="MC0204",
                            help=f"leave score away, or prune {', '.join(UNITS[:-1])} or {UNITS[-1]}")
        sparse = [k for k in self.kinds if k in ("blocks", "nm")]
        given = [name for name, there in (("flops", self.flops is not None), ("widths", bool(self.widths))) if there]
        if sparse and given:
            raise PassError(f"prune: {given[0]} chooses units and branches, not {sparse[0]}", code="MC0204",
                            help=f"prune {sparse[0]} in a pass of its own")

    def _check_values(self) -> None:
        """Raise PassError for numbers out of range that layers may have of their own."""
        if not 0.0 <= self.ratio < 1.0:
            raise PassError(f"prune: ratio is {self.ratio}", code="MC0204", help="use 0 up to, but not, 1")

    def run(self, graph: Graph, context: Context) -> PassResult:
        counts: dict[str, int] = {}
        if context.calibration is not None and not context.calibration.given:
            context.remark("warning", "prune", graph.name, "layers are judged and fitted on the example inputs only",
                           "pass calibration data")
        mark_relevant(graph, context, self.limit)
        tell_nested("prune", graph, context)
        together = bool(self.widths) and self.narrows and "branches" in self.kinds
        if "branches" in self.kinds and not together:
            counts["branches"] = remove_branches(self, graph, context)
        if self.narrows:
            counts |= self._narrow(graph, context, together)
        if any(k in ("blocks", "nm") for k in self.kinds):
            counts["weights"] = sparsify(self, graph, context)
        return PassResult(changed=any(counts.values()), preserved=NONE, statistics=counts)

    def _narrow(self, graph: Graph, context: Context, branches: bool) -> dict[str, int]:
        """Units, and with `branches` those that `widths` names go, too, and what is left is fitted once."""
        with graph.edit("prune") as editor:
            own_constants(graph, editor)
        try:
            return self._narrow_owned(graph, context, branches)
        finally:
            with graph.edit("prune") as editor:
                join_constants(graph, editor)

    def _narrow_owned(self, graph: Graph, context: Context, branches: bool) -> dict[str, int]:
        rounds = self.rounds if self.flops is not None and not self.widths else 1
        state = _State(graph.clone(), Operations(graph, context.analyze(graph, CouplingAnalysis())).total())
        counts = {"units": 0}
        self._tell_lacking(graph, context)
        for i in range(rounds):
            places, size, entries = places_of(graph), constant_bytes(graph), len(graph.ledger)
            gone = choose_branches(self, graph, context) if branches else []
            cut = self._cut(graph, context, state, (i + 1) / rounds, gone)
            starts = [places[name] for branch in gone for name in branch.names]
            starts += [] if cut is None else [cut.first]
            if branches:
                cut_branches(graph, context, gone)
                counts["branches"] = len(gone)
            first = min(starts, default=len(places))
            later: Mapping[str, float] = {}
            if self.refit and starts:
                later = fit_again(graph, state.dense, context, self, state.kept, left_from(graph, places, first))
            if cut is not None:
                self._tell_all(graph, context, cut, later)
                counts["units"] += sum(map(len, cut.chosen.values()))
            settle(graph, entries, size)
        return counts

    def _cut(
        self, graph: Graph, context: Context, state: _State, progress: float, gone: Sequence[Branch] = ()
    ) -> _Cut | None:
        """Narrow the graph once and fit nothing yet; `progress` (up to 1) is how much of the way to the target operations is
        gone then. None where nothing was cut. gone: branches that go afterwards; dimensions in one of them are left as they
        are."""
        coupling: Coupling = context.analyze(graph, CouplingAnalysis())
        found = candidates(graph, context, coupling, self.kinds, self.score, self.statistics)
        asked = self._asked(found, context)
        if asked is not None:
            found = [d for d in found if d.name in asked and not self._goes(d, gone, context)]
        state.sizes = {**{d.name: d.size for d in found}, **state.sizes}
        curves = curves_of(
            graph, context, found, score=self.score, limit=self.limit, refit=self.refit,
            weighing="layer" if self.flops is None or asked is not None else self.weighing,
        )
        chosen = self._choose(graph, context, coupling, curves, asked, state, progress)
        chosen = {d: u for d, u in chosen.items() if len(u) and context.allow_rewrite("prune")}
        chosen = feasible(graph, context, coupling, chosen)
        if not chosen:
            return None
        errors = {d: _known_error(d, c, len(chosen[d])) for d, c in curves if d in chosen}
        before = graph.clone() if None in errors.values() else graph
        removal = coupling.removal(chosen)
        for name, kept in kept_outputs(graph, removal).items():
            state.kept[name] = state.kept[name][kept] if name in state.kept else kept
        first = min(graph.position(n) for d in chosen for n in d.nodes)
        size = constant_bytes(graph)
        with graph.edit("prune") as editor:
            narrow(graph, editor, removal)
            for node in dict.fromkeys(n for d in chosen for n in d.nodes):
                editor.set_loc(node, fused("prune", node.loc))
        return _Cut(chosen, errors, before, first, size - constant_bytes(graph))

    def _tell_lacking(self, graph: Graph, context: Context) -> None:
        """Remarks for kinds that were asked for, other than those that always are, of which the graph has no units."""
        coupling: Coupling = context.analyze(graph, CouplingAnalysis())
        there = {d.kind for d in coupling.dimensions if d.size > 1}
        for kind in self.kinds:
            if kind in UNITS and kind not in there and self.what != Prune.what and not self.widths:
                context.missed("prune", graph.name, f"it has no {kind} that can go", f"leave {kind} out of what")

    def _tell_all(self, graph: Graph, context: Context, cut: _Cut, later: Mapping[str, float]) -> None:
        unknown = None in cut.errors.values()
        whole = _output_error(graph, cut.before, context, self.limit) if unknown else 0.0
        parts = divided(cut.saved, [d.nbytes * len(units) for d, units in cut.chosen.items()])
        for (dimension, units), saved in zip(cut.chosen.items(), parts):
            error = cut.errors[dimension]
            self._tell(graph, context, dimension, units, whole if error is None else error, saved, later)

    def _goes(self, dimension: Dimension, gone: Sequence[Branch], context: Context) -> bool:
        """Whether a dimension goes with branches."""
        goes = set(dimension.nodes) <= {n for branch in gone for n in branch.nodes}
        if goes:
            context.missed("prune", dimension.nodes[0], f"the branch that its {dimension.kind} belong to is gone as a whole",
                           "name one of the two in widths")
        return goes

    def _asked(self, found: Sequence[Dimension], context: Context) -> dict[str, int] | None:
        if not self.widths:
            return None
        asked: dict[str, int] = {}
        sizes = {d.name: d.size for d in found}
        for name, count in self.counts().items():
            if name in sizes:
                if not 0 < count <= sizes[name]:
                    raise PassError(f"prune: {name} has {sizes[name]} units, not {count}", code="MC0204",
                                    help=f"write {name}= and how many stay, 1 to {sizes[name]}")
                asked[name] = count
            elif count:
                context.missed("prune", name, "no dimension that can shrink has this name", _named_like(name, sizes))
            elif "branches" not in self.kinds:
                context.missed("prune", name, "no dimension that can shrink has this name, and no branch goes",
                               f"{_named_like(name, sizes)}; for branches, add them to what")
        return asked

    def _choose(
        self, graph: Graph, context: Context, coupling: Coupling, curves: Sequence[tuple[Dimension, Curve]],
        asked: Mapping[str, int] | None, state: _State, progress: float,
    ) -> dict[Dimension, np.ndarray]:
        if asked is not None:
            return {d: np.sort(c.order[: d.size - asked[d.name]]) for d, c in curves}
        least = [max(1, math.ceil(self.least * state.sizes[d.name])) for d, _ in curves]
        if self.flops is None:
            gone = [self._share(d, low, context) for (d, _), low in zip(curves, least)]
        else:
            target = state.operations * self.flops**progress
            gone = self._by_operations(graph, context, coupling, curves, least, target)
        return {d: np.sort(c.order[:count]) for (d, c), count in zip(curves, gone)}

    def _share(self, dimension: Dimension, least: int, context: Context) -> int:
        """How many units of a dimension go by its ratio; a remark where that is none of them."""
        ratio = context.option(dimension.nodes[0], "ratio", self.ratio)
        count = uniform(dimension.size, ratio, self._step(dimension), least)
        if ratio and not count:
            step, units = step_of(dimension.size, self._step(dimension)), f"{dimension.size} {dimension.kind}"
            reason = f"{ratio:.0%} of its {units} is none: {least} stay at least, by steps of {step}"
            context.missed("prune", dimension.nodes[0], reason, "raise ratio, or lower granularity or least")
        return count

    def _step(self, dimension: Dimension) -> int:
        return 1 if dimension.kind == "heads" else self.granularity

    def _by_operations(
        self, graph: Graph, context: Context, coupling: Coupling, curves: Sequence[tuple[Dimension, Curve]],
        least: Sequence[int], target: float,
    ) -> list[int]:
        operations = Operations(graph, coupling)
        allowed = [points(d.size, self._step(d), low) for (d, _), low in zip(curves, least)]
        allowed = [a[a < len(c.errors)] for a, (_, c) in zip(allowed, curves)]
        errors = [c.errors[a] for a, (_, c) in zip(allowed, curves)]
        counts = cheapest(operations, [d.index for d, _ in curves], allowed, errors, target)
        reached = operations.total(counts)
        if reached > target:
            context.missed("prune", graph.name, f"{reached:,} operations stay, not {target:,.0f}: nothing more can go",
                           "lower least, or widen what")
        return [d.size - int(counts[d.index]) for d, _ in curves]

    def _tell(
        self, graph: Graph, context: Context, dimension: Dimension, units: np.ndarray, error: float, saved: int,
        later: Mapping[str, float],
    ) -> None:
        stays = dimension.size - len(units)
        detail = f"{stays} of {dimension.size} {dimension.kind} stay, by {self.score}"
        readers = [c.node for c in dimension.consumers]
        drift = max((later[n.name] for n in readers if n.name in later), default=None)
        if drift is not None:
            detail += f", refitted: {drift:.1%} off the dense model's layer"
        node = readers[0] if readers else dimension.nodes[0]
        context.record(graph, LedgerEntry("prune", dimension.nodes[0].layer, node.name, error, saved, detail=detail))
        context.remark("applied", "prune", dimension.nodes[0], detail)


@dataclass
class _State:
    """What rounds of narrowing share: the dense graph and its operations, sizes of dimensions when they were first seen, and
    by the name of what a layer gives, which of the dense layer's outputs are left."""

    dense: Graph
    operations: int
    sizes: dict[str, int] = field(default_factory=dict)
    kept: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Cut:
    """What one round took: the units of each dimension, their errors (None: second moments do not tell), the graph before
    where one of them does not, the position from which layers are to be fitted, and the bytes of constants that went."""

    chosen: Mapping[Dimension, np.ndarray]
    errors: Mapping[Dimension, float | None]
    before: Graph
    first: int
    saved: int


def _known_error(dimension: Dimension, curve: Curve, count: int) -> float | None:
    """The error of what reads a dimension when so many units go; None where second moments do not tell: where nothing that
    reads it has any, and where statistics over its units change."""
    if curve.lost is None or (dimension.note and dimension.kind != "stream"):
        return None
    return float(curve.lost[count] ** 0.5)


def _named_like(name: str, names: Collection[str]) -> str:
    """What to write for a name that there is not."""
    found = difflib.get_close_matches(name, names, n=3) or list(names)[:5]
    return f"name one of those that can, such as {', '.join(found)}" if found else "none can: choose other kinds in what"


def kept_outputs(graph: Graph, removal: Removal) -> dict[str, np.ndarray]:
    """By the name of what a linear, conv or batch_norm gives, which of its channels stay, where not all do."""
    found = {}
    for node in graph.nodes:
        if node.op.name in ("linear", "conv", "batch_norm"):
            kept = removal.kept(node.result, node.type.rank - 1 if node.op.name == "linear" else 1)
            if kept is not None:
                found[node.result.name] = kept
    return found


def _output_error(graph: Graph, dense: Graph, context: Context, limit: int) -> float:
    """The relative L2 error of the outputs: for layers whose own error second moments do not tell."""
    assert context.calibration is not None
    return relative_error(context.calibration.outputs(graph, limit=limit), context.calibration.outputs(dense, limit=limit))

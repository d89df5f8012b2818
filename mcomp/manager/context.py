"""What passes share while a pipeline runs: options per layer, remarks, calibration data, analyses."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir.graph import Graph, LedgerEntry, Node
from mcomp.manager.analysis import Analyses, Analysis

if TYPE_CHECKING:
    from mcomp.runtime.calibration import Calibration


PROGRESS, DEADLINE, INTERRUPTED = "progress", "deadline", "interrupted"
CHECKPOINTS, STUDENTS, TRAINING, TRAINED = "checkpoints", "students", "training", "trained"
UNMEASURED = "unmeasured"
"""Keys of `Context.shared`: a function that hears what goes on; the monotonic time when work must end; set by a pass whose
work the user interrupted; a folder for states to go on from; tuples of modules that the user gave to take the places of
others, by path; seconds that a search may spend on training; how trainings went; whether backends leave aside what they
measured on this machine, so that they generate the same code whatever that is."""


@dataclass(frozen=True, slots=True)
class Remark:
    """What was done, or not done, to a layer, by which rule, and why. kind: applied, missed, note or warning."""

    kind: str
    rule: str
    layer: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.kind}: {self.rule}: {self.layer or '-'}: {self.reason}"
        return text + (f" ({self.remedy})" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """Options by module path pattern: `layers={"encoder.*.fc1": {"bits": 4}}`, and patterns to leave alone.

    A pattern matches a path when it equals it, matches it as a shell pattern, or names one of its parents.
    """

    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()

    def excluded(self, path: str) -> str | None:
        """The pattern that excludes a module path, or None."""
        return next((p for p in self.exclude if matches(p, path)), None)

    def options(self, path: str) -> dict[str, Any]:
        """The options for a module path; later patterns win."""
        merged: dict[str, Any] = {}
        for pattern, options in self.layers.items():
            if matches(pattern, path):
                merged.update(options)
        return merged


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern is the path, a shell pattern for it, or either of these for one of its parents."""
    parts = path.split(".")
    parents = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return any(p == pattern or fnmatch.fnmatchcase(p, pattern) for p in parents)


class Context:
    """Passed to every pass.

    `target` names the backend that will run the result. `calibration` is None without calibration data. `budget`
    is whatever the planner shares with passes. `rng` draws the same numbers for the same `seed`.
    """

    def __init__(
        self,
        *,
        target: str = "cpu",
        objective: str = "latency",
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        exclude: Iterable[str] = (),
        calibration: Calibration | None = None,
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.objective = objective
        self.layer_options = LayerOptions(dict(layers or {}), tuple(exclude))
        self.calibration = calibration
        self.threads = threads
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.remarks: list[Remark] = []
        self.rewrite_limit: int | None = None
        """How many rewrites may be applied in all (None: any number); set by bisecting."""
        self.rewrites = 0
        """How many rewrites were applied."""
        self.last_rewrite = ""
        """The label of the last rewrite that was applied."""
        self.pass_seconds = 0.0
        """How long the last pass took."""
        self._remarked: set[Remark] = set()
        self.skip: dict[str, set[str]] = {}
        """Names of nodes that a rule must leave alone, by rule: how the planner keeps single layers as they are."""
        self.shared: dict[str, Any] = {}
        """Room for passes to leave things for later passes, by a key of their own."""

    def take_up(self, remarks: Iterable[Remark], shared: Mapping[str, Any], random: Any) -> None:
        """Go on from where passes left off in another context of the same kind: their remarks, what they left for later
        passes (what is known here already counts), and the state of the random numbers."""
        for remark in remarks:
            if remark not in self._remarked:
                self._remarked.add(remark)
                self.remarks.append(remark)
        self.shared = {**shared, **self.shared}
        self.rng.bit_generator.state = random

    def analyses(self, graph: Graph) -> Analyses:
        """The analysis cache of a graph."""
        found = graph.analyses.get(self)
        if found is None:
            found = graph.analyses[self] = Analyses(graph, self)
        return found

    def analyze(self, graph: Graph, analysis: Analysis) -> Any:
        """The result of an analysis for the graph as it is now."""
        return self.analyses(graph).get(analysis)

    def remark(self, kind: str, rule: str, node: Node | str, reason: str, remedy: str = "") -> None:
        """Leave a remark; the same remark is kept once."""
        layer = node if isinstance(node, str) else node.layer
        remark = Remark(kind, rule, layer, reason, remedy)
        if remark not in self._remarked:
            self._remarked.add(remark)
            self.remarks.append(remark)

    def allow_rewrite(self, label: str) -> bool:
        """Whether a rewrite may be applied; counts it if so. Passes ask before each atomic edit that changes what a graph
        computes with, so that bisecting can stop after the first n."""
        if self.rewrite_limit is not None and self.rewrites >= self.rewrite_limit:
            return False
        self.rewrites += 1
        self.last_rewrite = label
        return True

    def missed(self, rule: str, node: Node | str, reason: str, remedy: str) -> None:
        """Leave a remark about something that could not be done, and what would help."""
        self.remark("missed", rule, node, reason, remedy)

    def excluded(self, rule: str, node: Node) -> bool:
        """Whether the user excluded the node's layer (or `layers` sets `{rule: False}`), or the planner did; leaves a
        remark if so."""
        if node.name in self.skip.get(rule, ()):
            self.remark("note", rule, node, "kept as it is: it would cost too much of the budget")
            return True
        for path in node.loc.paths or (node.layer,):
            pattern = self.layer_options.excluded(path)
            if pattern is not None:
                self.remark("note", rule, node, f'excluded by "{pattern}"')
                return True
            if self.layer_options.options(path).get(rule) is False:
                self.remark("note", rule, node, f"switched off by layers={{...: {{{rule!r}: False}}}}")
                return True
        return False

    def option(self, node: Node, name: str, default: Any) -> Any:
        """A per-layer option for a node, or the default."""
        found = default
        for path in node.loc.paths or (node.layer,):
            found = self.layer_options.options(path).get(name, found)
        return found

    def record(self, graph: Graph, entry: LedgerEntry) -> None:
        """Write an approximate change to the graph's ledger."""
        graph.ledger.append(entry)

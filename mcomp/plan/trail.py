"""Pipelines that begin alike: what their common passes made is made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.ir.graph import Graph
from mcomp.ir.store import WeightStore
from mcomp.manager.context import INTERRUPTED, Context, Remark
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass, PassResult
from mcomp.manager.pipeline import Fixpoint, Step, passes_of
from mcomp.manager.run import PassManager

_KEPT = 12


@dataclass(frozen=True)
class _Place:
    """Where passes left off: the graph, and what they left in the context."""

    graph: Graph
    remarks: tuple[Remark, ...]
    shared: dict[str, Any]
    random: Any


class Trail:
    """Runs pipelines on one graph, from where an earlier one left off that began with the same passes.

    A pass gives the same for the same graph and context, so a pipeline does, too. `instruments` see only the passes that
    run. The last few places are kept. What a run adds to the weights goes when nothing has it any more.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[Step, ...], _Place] = {}

    def run(self, graph: Graph, steps: Sequence[Step], context: Context, instruments: Sequence[Instrument] = ()) -> Graph:
        """The graph after a pipeline; `graph` itself stays as it is."""
        known = tuple(steps)
        for item in passes_of(known):
            item.check(graph, context)
        count = next((n for n in range(len(known), 0, -1) if self._at(known[:n]) is not None), 0)
        place = self._at(known[:count])
        start = graph if place is None else place.graph
        work = start.clone(store=WeightStore(start.store))
        if place is not None:
            self._places[known[:count]] = self._places.pop(known[:count])
            context.take_up(place.remarks, place.shared, place.random)
        recorder = _Recorder(self, known, count)
        PassManager(known[count:], (*instruments, recorder)).run(work, context, checked=True)
        return work

    def forget(self) -> None:
        """Let all places go."""
        self._places.clear()

    def _at(self, steps: tuple[Step, ...]) -> _Place | None:
        try:
            return self._places.get(steps)
        except TypeError:  # an option that cannot be compared, such as a list
            return None

    def keep(self, steps: tuple[Step, ...], graph: Graph, context: Context) -> None:
        """Remember what these passes came to."""
        place = _Place(
            graph.clone(), tuple(context.remarks), dict(context.shared), context.rng.bit_generator.state,
        )
        try:
            self._places[steps] = place
        except TypeError:
            return
        while len(self._places) > _KEPT:
            del self._places[next(iter(self._places))]


class _Recorder(Instrument):
    """Keeps the places behind the passes of a pipeline, as far as they run one after another."""

    def __init__(self, trail: Trail, steps: tuple[Step, ...], start: int) -> None:
        self.trail, self.steps, self.done = trail, steps, start

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        expected = self.steps[self.done] if self.done < len(self.steps) else None
        if expected is not item or isinstance(expected, Fixpoint) or context.shared.get(INTERRUPTED):
            self.done = len(self.steps)
            return
        self.done += 1
        if result.changed:
            self.trail.keep(self.steps[: self.done], graph, context)

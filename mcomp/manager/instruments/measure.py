"""Time and counts per pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass, PassResult


@dataclass(frozen=True)
class PassTime:
    """One run of a pass: its text, seconds, and nodes before and after."""

    index: int
    text: str
    seconds: float
    nodes_before: int
    nodes_after: int


class Timing(Instrument):
    """Collects the time of every pass in `passes`: that of the pass alone, without what other instruments do."""

    def __init__(self) -> None:
        self.passes: list[PassTime] = []
        self._nodes = 0

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        self._nodes = len(graph)

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        self.passes.append(PassTime(index, item.text(), context.pass_seconds, self._nodes, len(graph)))

    def __str__(self) -> str:
        return "\n".join(
            f"{p.index:4} {p.seconds * 1e3:9.1f} ms {p.nodes_before:6} -> {p.nodes_after:<6} {p.text}" for p in self.passes
        )


class Statistics(Instrument):
    """Sums the counts that passes report, by pass name, in `counts`."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        self.counts.setdefault(item.name, Counter()).update(result.statistics)

    def __str__(self) -> str:
        return "\n".join(
            f"{count:8} {name}: {what}" for name, counts in self.counts.items() for what, count in counts.items()
        )

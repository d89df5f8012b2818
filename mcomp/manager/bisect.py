"""Finding the pass, and the rewrite in it, that breaks a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.errors import PassError
from mcomp.ir.edit import Rewrite
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.instruments.limit import RewriteLimit, Skip
from mcomp.manager.passes import Pass, PassResult
from mcomp.manager.run import PassManager

Check = Callable[[Graph], bool]


@dataclass(frozen=True)
class Culprit:
    """Where a pipeline goes wrong: the pass (counted from 1), its text, and, where the pass asks before each rewrite, the
    number and the record of the first rewrite after which the check fails."""

    index: int
    text: str
    rewrite: int | None = None
    record: Rewrite | None = None

    def __str__(self) -> str:
        text = f"pass {self.index}, {self.text}"
        if self.record is not None:
            text += f", rewrite {self.record}"
        return text


def bisect(
    graph: Graph, pipeline: str | Sequence[Any], check: Check, make_context: Callable[[], Context] = Context
) -> Culprit | None:
    """The first pass after which `check(graph)` is false, and the rewrite in it; None when the check holds to the end.

    `graph` is not changed: every trial runs on a clone with a fresh context. Required passes run in every trial; where they
    alone break the check, the first of them that does is named. Raises PassError when the check fails before any pass.
    Needs about log2(passes) + log2(rewrites) runs.
    """
    if not check(graph.clone()):
        raise PassError("the check fails on the graph before any pass", code="MC0221",
                        help="give a check that holds before the pipeline and fails after it")
    whole = Skip(1 << 30)
    if check(_run(graph, pipeline, make_context, whole)):
        return None
    broken = _broken_by_required(graph, pipeline, check, make_context)
    if broken is not None:
        return broken
    texts = dict(whole.run)
    index = _first_failure(max(texts), lambda n: check(_run(graph, pipeline, make_context, Skip(n))))
    everything = RewriteLimit(None, index)
    _run(graph, pipeline, make_context, Skip(index), everything)

    def holds(count: int) -> bool:
        return check(_run(graph, pipeline, make_context, Skip(index), RewriteLimit(count, index)))

    if everything.made == 0 or not holds(0):
        return Culprit(index, texts[index])
    number = _first_failure(everything.made, holds)
    limited = RewriteLimit(number, index)
    _run(graph, pipeline, make_context, Skip(index), limited)
    return Culprit(index, texts[index], number, limited.last)


def _broken_by_required(
    graph: Graph, pipeline: str | Sequence[Any], check: Check, make_context: Callable[[], Context]
) -> Culprit | None:
    """The first required pass after which the check fails where only those run; they cannot be left out."""
    required = Skip(0)
    trial = _run(graph, pipeline, make_context, required)
    if not required.run or check(trial):
        return None
    watch = _Watch(check)
    _run(graph, pipeline, make_context, Skip(0), watch)
    return watch.found


class _Watch(Instrument):
    """Finds the first pass after which a check fails."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.found: Culprit | None = None

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        if self.found is None and not self.check(graph.clone()):
            self.found = Culprit(index, item.text())


def _run(
    graph: Graph, pipeline: str | Sequence[Any], make_context: Callable[[], Context], *instruments: Any
) -> Graph:
    trial = graph.clone()
    PassManager(pipeline, instruments).run(trial, make_context())
    return trial


def _first_failure(count: int, holds: Callable[[int], bool]) -> int:
    """The smallest n in 1..count with holds(n) false, where holds(0) is true and holds(count) is false."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return high



"""Finding the pass, and the rewrite in it, that breaks a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.errors import PassError
from mcomp.ir.edit import Rewrite
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instruments.limit import RewriteLimit, Skip
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

    `graph` is not changed: every trial runs on a clone with a fresh context. Raises PassError when the check fails before
    any pass. Needs about log2(passes) + log2(rewrites) runs.
    """
    if not check(graph.clone()):
        raise PassError("the check fails on the graph before any pass", code="MC0221",
                        help="give a check that holds before the pipeline and fails after it")
    whole = Skip(1 << 30)
    if check(_run(graph, pipeline, make_context, whole)[0]):
        return None
    texts = whole.run
    index = _first_failure(len(texts), lambda n: check(_run(graph, pipeline, make_context, Skip(n))[0]))
    _, before = _run(graph, pipeline, make_context, Skip(index - 1))
    _, after = _run(graph, pipeline, make_context, Skip(index))
    low, high = before.rewrites, after.rewrites

    def holds(extra: int) -> bool:
        trial, _ = _run(graph, pipeline, make_context, Skip(index), RewriteLimit(low + extra))
        return check(trial)

    if high == low or not holds(0):
        return Culprit(index, texts[index - 1])
    number = _first_failure(high - low, holds)
    trial, _ = _run(graph, pipeline, make_context, Skip(index), RewriteLimit(low + number))
    return Culprit(index, texts[index - 1], number, trial.journal[-1] if trial.journal else None)


def _run(
    graph: Graph, pipeline: str | Sequence[Any], make_context: Callable[[], Context], *instruments: Any
) -> tuple[Graph, Context]:
    trial, context = graph.clone(), make_context()
    PassManager(pipeline, instruments).run(trial, context)
    return trial, context


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



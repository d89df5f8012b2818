"""Running only the beginning of a pipeline: what bisecting needs."""

from __future__ import annotations

from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass


class Skip(Instrument):
    """Leaves out every pass after the first `limit`; required passes run all the same."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.run: list[str] = []

    def skip(self, item: Pass, index: int, graph: Graph, context: Context) -> bool:
        if index <= self.limit:
            self.run.append(item.text())
        return index > self.limit


class RewriteLimit(Instrument):
    """Allows only the first `limit` rewrites of the pipeline (None: all); see `Context.allow_rewrite`."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit

    def start(self, graph: Graph, context: Context) -> None:
        context.rewrite_limit = self.limit
        context.rewrites = 0

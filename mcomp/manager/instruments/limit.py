"""Running only the beginning of a pipeline: what bisecting needs."""

from __future__ import annotations

from mcomp.ir.edit import Rewrite
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass, PassResult


class Skip(Instrument):
    """Leaves out every pass after the first `limit`; required passes run all the same. `run` holds the index and the text of
    every pass that ran."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.run: list[tuple[int, str]] = []

    def skip(self, item: Pass, index: int, graph: Graph, context: Context) -> bool:
        return index > self.limit

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        self.run.append((index, item.text()))


class RewriteLimit(Instrument):
    """Allows only the first `limit` rewrites (None: all) of the pipeline or, with `index`, of the pass of that index; see
    `Context.allow_rewrite`. `made` and `last` are then how many rewrites that pass made, and the record of its last."""

    def __init__(self, limit: int | None, index: int | None = None) -> None:
        self.limit = limit
        self.index = index
        self.made = 0
        self.last: Rewrite | None = None
        self._edits = 0

    def start(self, graph: Graph, context: Context) -> None:
        context.rewrite_limit = self.limit if self.index is None else None
        context.rewrites = 0

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        if index == self.index:
            self.made, self._edits = context.rewrites, len(graph.journal)
            context.rewrite_limit = None if self.limit is None else context.rewrites + self.limit

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        if index == self.index:
            self.made = context.rewrites - self.made
            self.last = graph.journal[-1] if len(graph.journal) > self._edits else None
            context.rewrite_limit = None

"""Running a pipeline over a graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass
from mcomp.manager.pipeline import Fixpoint, Step, parse_pipeline, passes_of, pipeline_text


class PassManager:
    """Runs passes in order. `instruments` see every pass run."""

    def __init__(self, pipeline: str | Sequence[Any], instruments: Sequence[Instrument] = ()) -> None:
        self.steps = parse_pipeline(pipeline)
        self.instruments = tuple(instruments)
        self._index = 0

    def run(self, graph: Graph, context: Context | None = None, *, checked: bool = False) -> bool:
        """Change `graph` in place; returns whether anything changed.

        Every pass's `check` runs first, so that what is infeasible fails before any work (`checked`: it did already, on the
        graph that the whole pipeline began with). A pass that raises leaves the
        graph as its last finished edit left it; instruments are told, then the error goes on.
        """
        context = context or Context()
        if not checked:
            for item in passes_of(self.steps):
                item.check(graph, context)
        self._index = 0
        for instrument in self.instruments:
            instrument.start(graph, context)
        changed = self._run(self.steps, graph, context)
        for instrument in self.instruments:
            instrument.finish(graph, context)
        return changed

    def _run(self, steps: Sequence[Step], graph: Graph, context: Context) -> bool:
        changed = False
        for step in steps:
            if isinstance(step, Fixpoint):
                for _ in range(step.limit):
                    if not self._run(step.items, graph, context):
                        break
                    changed = True
                else:
                    context.remark("warning", "fixpoint", "", f"{pipeline_text(step.items)} still changed the graph "
                                   f"after {step.limit} rounds")
            else:
                changed |= self._run_one(step, graph, context)
        return changed

    def _run_one(self, item: Pass, graph: Graph, context: Context) -> bool:
        self._index += 1
        index = self._index
        if not item.required and any(i.skip(item, index, graph, context) for i in self.instruments):
            return False
        for analysis in item.requires:
            context.analyze(graph, analysis)
        for instrument in self.instruments:
            instrument.before(item, index, graph, context)
        version = graph.version
        start = time.perf_counter()
        try:
            result = item.run(graph, context)
            context.pass_seconds = time.perf_counter() - start
        except BaseException as e:
            for instrument in self.instruments:
                instrument.failed(item, index, graph, e, context)
            raise
        if graph.version != version:
            context.analyses(graph).preserve(result.preserved, version)
        for instrument in self.instruments:
            instrument.after(item, index, graph, result, context)
        return result.changed

    def __str__(self) -> str:
        return pipeline_text(self.steps)

"""Instruments watch a pipeline run; nothing of the kind is code in a pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcomp.ir.graph import Graph

if TYPE_CHECKING:
    from mcomp.manager.context import Context
    from mcomp.manager.passes import Pass, PassResult


class Instrument:
    """Base of instruments; every hook does nothing by default.

    Passes inside `fixpoint(...)` are reported one by one, each time they run. `index` counts passes run, from 1.
    """

    def start(self, graph: Graph, context: Context) -> None:
        """Before the first pass."""

    def skip(self, item: Pass, index: int, graph: Graph, context: Context) -> bool:
        """Whether to leave this pass out (bisecting). Required passes are never asked about."""
        return False

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        """Before a pass."""

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        """After a pass that returned."""

    def failed(self, item: Pass, index: int, graph: Graph, error: BaseException, context: Context) -> None:
        """After a pass that raised. The graph may hold some of its finished edits."""

    def finish(self, graph: Graph, context: Context) -> None:
        """After the last pass."""

"""Verifying the graph after every pass."""

from __future__ import annotations

from mcomp.errors import VerifyError
from mcomp.ir.graph import Graph
from mcomp.ir.verifier import verify
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass, PassResult


class Verify(Instrument):
    """Raises VerifyError naming the pass after which the graph is malformed, or which lies about having changed it."""

    def __init__(self) -> None:
        self._version = 0

    def start(self, graph: Graph, context: Context) -> None:
        verify(graph)

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        self._version = graph.version

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        try:
            verify(graph)
        except VerifyError as e:
            raise VerifyError(
                f"after pass {index}, {item}: {e.message}", where=e.where, ir=e.ir, help=e.help
            ) from e
        if result.changed and graph.version == self._version:
            raise VerifyError(f"pass {index}, {item}, says it changed the graph, and did not")
        if not result.changed and graph.version != self._version:
            raise VerifyError(f"pass {index}, {item}, changed the graph, and says it did not",
                              help="return PassResult(changed=True)")

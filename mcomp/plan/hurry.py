"""Giving up work when the time is up."""

from __future__ import annotations

from collections.abc import Callable

from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass


class OutOfTime(Exception):
    """The time limit has passed; what was going on is given up, the best version so far counts."""


class Hurry(Instrument):
    """Raises OutOfTime before a pass when the time is up."""

    def __init__(self, late: Callable[[], bool]) -> None:
        self.late = late

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        if self.late():
            raise OutOfTime

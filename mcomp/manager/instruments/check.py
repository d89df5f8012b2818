"""Numbers before and after each pass, compared by the pass's effect class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.errors import PassError
from mcomp.ir.graph import Graph
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass, PassEffect, PassResult

ROUNDING = 1e-5
"""Relative L2 error that a rounding pass may make in float32."""


class NumericError(PassError):
    """A pass changed the numbers by more than its effect class allows."""

    default_code = "MC0220"


@dataclass(frozen=True)
class Difference:
    """The error that one pass made: relative L2 over the floating-point outputs, and whether all bits are equal."""

    index: int
    text: str
    error: float
    identical: bool


class NumericCheck(Instrument):
    """Interprets the graph on given inputs after every pass that changed it.

    exact passes must keep every bit, rounding passes an error of `rounding`, approximate ones `approximate` (None: any);
    the graph before the pass is the reference. Every run draws the same random numbers. `differences` keeps what was found.
    Raises NumericError.
    """

    def __init__(
        self, inputs: Sequence[Any], *, rounding: float = ROUNDING, approximate: float | None = None
    ) -> None:
        self.inputs = list(inputs)
        self.rounding = rounding
        self.approximate = approximate
        self.differences: list[Difference] = []
        self._expected: list[Any] = []

    def start(self, graph: Graph, context: Context) -> None:
        self._expected = self._run(graph)

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        if not result.changed:
            return
        from mcomp.plan.quality import relative_error

        found = self._run(graph)
        difference = Difference(
            index, item.text(), relative_error([found], [self._expected]), _identical(found, self._expected)
        )
        self.differences.append(difference)
        limit = {PassEffect.EXACT: 0.0, PassEffect.ROUNDING: self.rounding}.get(item.effect, self.approximate)
        broken = not difference.identical if item.effect is PassEffect.EXACT else (
            limit is not None and not difference.error <= limit
        )
        if broken:
            changed = f"the outputs by {difference.error:.3g}" if difference.error else "bits of the outputs"
            raise NumericError(
                f"pass {index}, {item}, is {item.effect.value}, but changed {changed}",
                help="mcomp bisect finds the rewrite",
            )
        self._expected = found

    def _run(self, graph: Graph) -> list[Any]:
        import torch

        from mcomp.ops.evaluate import run_graph

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [t.clone() for t in run_graph(graph, self.inputs)]


def _identical(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether all bits are equal; any NaN equals any NaN."""
    import torch

    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        if x.is_floating_point() or x.is_complex():
            x, y = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t.double() for t in (x, y))
            same = (x == y) & (torch.signbit(x) == torch.signbit(y)) | (torch.isnan(x) & torch.isnan(y))
            if not bool(same.all()):
                return False
        elif not torch.equal(x, y):
            return False
    return True

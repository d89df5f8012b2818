"""Sizes of a call, checked against what the operators of a graph ask of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcomp.errors import CallError
from mcomp.ir.condition import Condition

if TYPE_CHECKING:
    from mcomp.ir.graph import Graph


class SizeChecks:
    """The conditions of a graph, found when they are first needed; without a graph, those `known`. `data`: those in which
    sizes are that only values tell."""

    def __init__(self, graph: Graph | None, *, data: bool = False, known: tuple[Condition, ...] = ()) -> None:
        self._graph = graph
        self._data = data
        self._conditions: tuple[Condition, ...] | None = known if graph is None else None

    @staticmethod
    def from_json(data: Any) -> SizeChecks:
        """Read what `to_json` gave. Raises TypeError, ValueError or ParseError for other data."""
        return SizeChecks(None, known=tuple(Condition.from_json(one) for one in data))

    def to_json(self) -> list[list[str]]:
        """The conditions as plain data."""
        return [one.to_json() for one in self.conditions]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is checked."""
        if self._conditions is None:
            from mcomp.ops.conditions import conditions_of

            assert self._graph is not None
            self._conditions = conditions_of(self._graph, data=self._data)
        return self._conditions

    def check(self, symbols: Mapping[str, int]) -> None:
        """Raise CallError where a condition does not hold, of those whose symbols are all known."""
        if self._data:
            self._check_bounds(symbols)
        for one in self.conditions:
            if one.symbols <= symbols.keys() and not one.holds(symbols):
                sizes = ", ".join(f"{s} = {symbols[s]}" for s in sorted(one.symbols))
                must = "equal" if one.relation == "==" else "be at most"
                raise CallError(
                    f"the sizes {sizes} do not fit: {one.left} must {must} {one.right}", code="MC0406",
                    where=one.where or None, ir=one.line,
                    help="the model itself fails for these sizes, or was captured for others",
                )

    def _check_bounds(self, symbols: Mapping[str, int]) -> None:
        """Sizes from values, unlike those of inputs, were compared with nothing."""
        assert self._graph is not None
        for name, value in symbols.items():
            bounds = self._graph.symbols.get(name)
            if bounds is not None and bounds.high is not None and value > bounds.high:
                raise CallError(f"a size that the model computes is {value}, more than {bounds.high}", code="MC0406")

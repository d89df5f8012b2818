"""What symbolic sizes must satisfy: compared when the sizes of a call are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.terms import parse_dim

Relation = Literal["==", "<="]


@dataclass(frozen=True)
class Condition:
    """`left` is to be equal to `right`, or at most that, for the node whose line of IR is `line` and whose place in the
    model is `where` (empty: unknown)."""

    relation: Relation
    left: Dim
    right: Dim
    where: str
    line: str

    @property
    def symbols(self) -> frozenset[str]:
        """The names of the symbols in it."""
        return dims.symbols(self.left) | dims.symbols(self.right)

    def holds(self, symbols: Mapping[str, int]) -> bool:
        """Whether it does for these sizes. A division by a size of zero counts as no."""
        try:
            left, right = dims.evaluate(self.left, symbols), dims.evaluate(self.right, symbols)
        except ZeroDivisionError:
            return False
        return left == right if self.relation == "==" else left <= right

    def to_json(self) -> list[str]:
        """Plain data."""
        return [self.relation, str(self.left), str(self.right), self.where, self.line]

    @staticmethod
    def from_json(data: Any) -> Condition:
        """Read what `to_json` gave. Raises TypeError, ValueError or ParseError for other data."""
        relation, left, right, where, line = data
        if relation not in ("==", "<="):
            raise ValueError(f"{relation!r} compares no sizes")
        return Condition(relation, parse_dim(left), parse_dim(right), str(where), str(line))

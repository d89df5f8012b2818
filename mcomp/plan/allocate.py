"""Allocation: one level for each group, so that the sum of errors stays within a budget and the sum of costs is least.

    front = pareto([[Level("f32", 0.0, 10.0), Level("int8", 0.1, 3.0)], ...])
    front.within(0.5)        # the cheapest choice whose errors sum to at most 0.5
    front[3].choice          # for each group the index of its level

Groups are merged one after another; of partial sums only those stay that no other beats in both error and cost. That is
dynamic programming with dominance, exact as long as the front has at most `limit` points; beyond, points are thinned to
one for each step of a geometric grid of errors, which costs at most the grid's step in error for each group merged. Partial
sums beyond what is wanted in the end go at once: errors only add up.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Level:
    """One way to treat a group: what it is called, the error it adds, and what it costs. Both are sums over groups: errors
    at least 0, costs in any unit (microseconds, bytes)."""

    name: str
    error: float
    cost: float


@dataclass(frozen=True, slots=True)
class Point:
    """A choice of levels, by index, one for each group, with its sums."""

    error: float
    cost: float
    choice: tuple[int, ...]


@dataclass(frozen=True)
class Front:
    """Choices that no other beats, by rising error and falling cost."""

    points: tuple[Point, ...]

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __getitem__(self, index: int) -> Point:
        return self.points[index]

    def within(self, budget: float) -> Point | None:
        """The cheapest choice with an error of at most `budget`; None when even the least error is more."""
        found = bisect.bisect_right([p.error for p in self.points], budget)
        return self.points[found - 1] if found else None


def pareto(groups: Sequence[Sequence[Level]], *, limit: int = 20_000, most: float = np.inf) -> Front:
    """All undominated choices of one level for each group, of those whose errors sum to at most `most`. Raises ValueError
    for a group without levels, and for levels whose error is negative or whose numbers are not finite."""
    for index, levels in enumerate(groups):
        if not levels:
            raise ValueError(f"group {index} has no levels")
        for level in levels:
            if not (np.isfinite(level.error) and np.isfinite(level.cost)) or level.error < 0:
                raise ValueError(f"group {index}: {level.name} has error {level.error} and cost {level.cost}")
    errors, costs = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []  # for each group: the point before, and the level taken
    for levels in groups:
        more_errors, more_costs = (errors[:, None] + [x.error for x in levels]), (costs[:, None] + [x.cost for x in levels])
        kept = _undominated(more_errors.ravel(), more_costs.ravel())
        kept = kept[more_errors.ravel()[kept] <= most]
        if kept.size > limit:
            kept = _thinned(kept, more_errors.ravel(), limit)
        errors, costs = more_errors.ravel()[kept], more_costs.ravel()[kept]
        steps.append((kept // len(levels), kept % len(levels)))
    return Front(tuple(
        Point(float(errors[i]), float(costs[i]), _choice(steps, i)) for i in range(errors.size)
    ))


def _undominated(errors: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Indices of points that no other beats, by rising error; of equal ones the first."""
    order = np.lexsort((np.arange(errors.size), costs, errors))
    ordered = costs[order]
    least = np.minimum.accumulate(ordered)
    first = np.ones(order.size, bool)
    first[1:] = ordered[1:] < least[:-1]
    return order[first]


def _thinned(kept: np.ndarray, errors: np.ndarray, limit: int) -> np.ndarray:
    """At most about `limit` of the points: the cheapest, which is the last, of each step of the grid."""
    positive = errors[kept][errors[kept] > 0]
    low, high = float(positive[0]), float(positive[-1])
    step = np.log(high / low) / limit if high > low else 1.0
    cell = np.where(errors[kept] > 0, np.floor(np.log(np.maximum(errors[kept], low) / low) / step), -1.0)
    last = np.ones(kept.size, bool)
    last[:-1] = cell[1:] != cell[:-1]
    return kept[last]


def _choice(steps: Sequence[tuple[np.ndarray, np.ndarray]], point: int) -> tuple[int, ...]:
    chosen: list[int] = []
    for before, level in reversed(steps):
        chosen.append(int(level[point]))
        point = int(before[point])
    return tuple(reversed(chosen))

"""How many units each dimension keeps: the same share of all, or what costs least error for the operations saved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcomp.passes.analysis.operations import Operations


def step_of(size: int, granularity: int) -> int:
    """What kept counts of a dimension are multiples of: `granularity`, but at most an eighth of the units."""
    return max(1, min(granularity, size // 8))


def points(size: int, granularity: int, least: int) -> np.ndarray:
    """How many units may go, ascending from 0: what is left is a multiple of the step and at least `least`."""
    step = step_of(size, granularity)
    kept = np.arange(size // step * step, 0, -step)
    gone = size - kept[kept >= max(1, least)]
    return np.unique(np.concatenate([[0], gone]))


def uniform(size: int, ratio: float, granularity: int, least: int) -> int:
    """How many units go when about the share `ratio` of them should."""
    allowed = points(size, granularity, least)
    return int(allowed[np.argmin(np.abs(allowed - ratio * size))])


def cheapest(
    operations: Operations, dimensions: Sequence[int], allowed: Sequence[np.ndarray], errors: Sequence[np.ndarray],
    target: float,
) -> np.ndarray:
    """Kept counts of all dimensions with at most `target` operations, where that can be reached.

    `dimensions[i]` may lose `allowed[i]` units, which makes the squared error `errors[i]` (as long). Goes along the lower
    convex hulls of the errors, always where an operation saved costs least; what one saves changes with the others.
    """
    counts = operations.sizes.copy()
    hulls = [_hull(a, e) for a, e in zip(allowed, errors)]
    at = [0] * len(hulls)
    left = operations.total(counts)
    while left > target:
        best, saving = -1, 0
        least = np.inf
        for i, hull in enumerate(hulls):
            if at[i] + 1 >= len(hull):
                continue
            here, there = hull[at[i]], hull[at[i] + 1]
            saved = operations.saved(counts, dimensions[i], int(allowed[i][there] - allowed[i][here]))
            price = (errors[i][there] - errors[i][here]) / max(saved, 1)
            if saved > 0 and price < least:
                best, least, saving = i, price, saved
        if best < 0:
            break
        here, there = hulls[best][at[best]], hulls[best][at[best] + 1]
        if left - saving < target:
            there = _enough(operations, counts, dimensions[best], allowed[best], here, there, left - target)
        fewer = int(allowed[best][there] - allowed[best][here])
        left -= operations.saved(counts, dimensions[best], fewer)
        counts[dimensions[best]] -= fewer
        at[best] += 1
    return counts


def _enough(
    operations: Operations, counts: np.ndarray, dimension: int, allowed: np.ndarray, here: int, there: int, wanted: float
) -> int:
    """The first point after `here` that saves as many operations as are wanted."""
    for point in range(here + 1, there):
        if operations.saved(counts, dimension, int(allowed[point] - allowed[here])) >= wanted:
            return point
    return there


def _hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices of the lower convex hull of points with ascending x."""
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[i] - x[b]) < (y[i] - y[b]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    return hull

"""What choices cost, and which choices are best by the additive model.

A choice's cost is a number: microseconds by the cost table, and bytes, each as a share of what the graph takes with all
layers in int8. (Shares of the untouched graph would make bytes count for more, where int8 saves more time than bytes.)
The objective says which of the two counts; the other one decides between choices that are nearly equal. Or both count alike.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mcomp.plan.allocate import Level, pareto
from mcomp.plan.costs import CostTable
from mcomp.plan.offers import Catalog, Choice

_SECOND = 0.05
"""What a share of the other objective counts beside a share of the one that is asked for."""
BESIDE_TIME = {"latency": _SECOND, "balanced": 1.0}
"""What a share of bytes counts beside a share of time, for the objectives of which time is one."""
Key = tuple[int, Choice]
"""A part, and the levels of the groups that touch it."""
_ROUNDS = 5
_KNOWN = 3
_POINTS = 3000
_SCALINGS, _NEAR = 4, 1.15
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Cost:
    """Microseconds (0 where only size matters) and bytes of the parts that choices change."""

    microseconds: float
    nbytes: int


@dataclass
class Correction:
    """What measuring taught of errors: a factor for each kind of level, and for single groups by their index."""

    kinds: dict[str, float] = field(default_factory=dict)
    groups: dict[int, float] = field(default_factory=dict)

    def factor(self, catalog: Catalog, group: int, level: int) -> float:
        """What a level's error is multiplied by."""
        return self.kinds.get(catalog.groups[group].options[level].kind, 1.0) * self.groups.get(group, 1.0)


class Pricing:
    """Costs and errors of a catalog's choices."""

    def __init__(
        self, catalog: Catalog, objective: str, table: CostTable | None, sizes: Mapping[str, int], say: object = None
    ) -> None:
        self.catalog, self.table, self.sizes = catalog, table, sizes
        self.say = say if callable(say) else lambda text: None
        self.correction = Correction()
        self._times: dict[Key, float] = {}
        self._bytes: dict[Key, int] = {}
        self._work: dict[Key, tuple[str, float]] = {}
        self._points: dict[tuple[int, str], list[tuple[float, float]]] = {}
        self.untouched: Choice = (0,) * len(catalog.groups)
        self._weights: Mapping[str, float] = {}
        """What errors of a kind are multiplied by where they are compared."""
        self._inner: list[list[int]] = [[] for _ in catalog.groups]
        """By group those that it takes away."""
        for g, group in enumerate(catalog.groups):
            for outer in group.inside:
                self._inner[outer].append(g)
        whole = self.cost(catalog.plain)
        fast = objective in BESIDE_TIME and table is not None
        self._per_us = (1.0 if fast else _SECOND if table is not None else 0.0) / max(whole.microseconds, 1e-9)
        self._per_byte = (BESIDE_TIME[objective] if fast else 1.0) / max(whole.nbytes, 1)

    # costs

    def number(self, cost: Cost) -> float:
        """The cost as what is minimized."""
        return cost.microseconds * self._per_us + cost.nbytes * self._per_byte

    def cost(self, choice: Choice) -> Cost:
        """What all parts take together, every one measured."""
        parts = range(len(self.catalog.touching))
        self._measure([(part, choice) for part in parts])
        return Cost(sum(self._time(part, choice) for part in parts), sum(self._nbytes(part, choice) for part in parts))

    def _key(self, part: int, choice: Choice) -> Key:
        return part, tuple(choice[g] for g in self.catalog.touching[part])

    def _nbytes(self, part: int, choice: Choice) -> int:
        key = self._key(part, choice)
        if key not in self._bytes:
            self._bytes[key] = self.catalog.nbytes(part, choice)
        return self._bytes[key]

    def _time(self, part: int, choice: Choice) -> float:
        """Microseconds of a part: measured, or between what was measured of it."""
        key = self._key(part, choice)
        if self.table is None:
            return 0.0
        if key in self._times:
            return self._times[key]
        how, operations = self._operations(part, choice)
        points = self._points[part, how]
        return float(np.interp(operations, [p[0] for p in points], [p[1] for p in points]))

    def _operations(self, part: int, choice: Choice) -> tuple[str, float]:
        key = self._key(part, choice)
        if key not in self._work:
            self._work[key] = self.catalog.operations(part, choice)
        return self._work[key]

    def _measure(self, wanted: Sequence[tuple[int, Choice]]) -> None:
        """Measure parts that were not."""
        if self.table is None:
            return
        missing = {self._key(*item): item for item in wanted if self._key(*item) not in self._times}
        pieces = {key: self.catalog.pieces(*item) for key, item in missing.items()}
        self.table.measure([p for some in pieces.values() for p in some], self.sizes, progress=self.say)
        for key, item in missing.items():
            self._times[key] = sum(self.table.microseconds(p, self.sizes) for p in pieces[key])
            how, operations = self._operations(*item)
            points = self._points.setdefault((item[0], how), [])
            bisect.insort(points, (operations, self._times[key]))

    def _cover(self, wanted: Sequence[tuple[int, Choice]]) -> None:
        """Measure so many parts that the times of all lie between measured ones: of those computed in the same way the ones
        with the least and the most operations, and one in the middle."""
        if self.table is None:
            return
        alike: dict[tuple[int, str], list[tuple[float, tuple[int, Choice]]]] = {}
        for item in wanted:
            how, operations = self._operations(*item)
            alike.setdefault((item[0], how), []).append((operations, item))
        chosen = []
        for key, some in alike.items():
            some.sort(key=lambda pair: pair[0])
            known = self._points.get(key, [])
            low, high = (known[0][0], known[-1][0]) if known else (math.inf, -math.inf)
            if some[0][0] < low:
                chosen.append(some[0][1])
            if some[-1][0] > high:
                chosen.append(some[-1][1])
            if len(known) < _KNOWN and len(some) > 2:
                chosen.append(some[len(some) // 2][1])
        self._measure(chosen)

    # errors

    def error(self, choice: Choice, *, corrected: bool = True) -> float:
        """The squared relative error of the outputs that is expected."""
        return sum(self.errors_by_group(choice, corrected=corrected))

    def errors_by_group(self, choice: Choice, *, corrected: bool = True) -> list[float]:
        """The part of each group."""
        return [self._error(g, level, choice, corrected) for g, level in enumerate(choice)]

    def kinds(self, choice: Choice) -> list[str]:
        """The kind of each group's level; empty where the group is left as it is."""
        return [g.options[level].kind if level else "" for g, level in zip(self.catalog.groups, choice, strict=True)]

    def _error(self, group: int, level: int, choice: Choice, corrected: bool = True) -> float:
        around = self.catalog.groups[group].inside
        if any(choice[g] > 0 for g in around):
            return 0.0
        factor = self.correction.factor(self.catalog, group, level) if corrected else 1.0
        option = self.catalog.groups[group].options[level]
        return factor * self._weights.get(option.kind, 1.0) * option.error

    # choosing

    def best(self, budget: float, start: Choice) -> Choice:
        """The cheapest choice found whose expected error is at most `budget`; the untouched one where nothing else fits.

        Costs of groups are added up around a choice, which holds near it only: the allocation is repeated around what it
        came to, and the best of these, added up exactly, is taken. The same catalog and times give the same choice.
        """
        found, least = self.untouched, self.number(self.cost(self.untouched))
        choice = start
        seen: set[Choice] = set()
        for _ in range(_ROUNDS):
            if self.error(choice) <= budget * (1 + 1e-9):
                number = self.number(self.cost(choice))
                if number < least:
                    found, least = choice, number
            if choice in seen:
                break
            seen.add(choice)
            possible, levels = self._levels(choice, budget)
            point = pareto(levels, limit=_POINTS, most=budget).within(budget) if all(levels) else None
            if point is None:
                break
            choice = tuple(own[level] for own, level in zip(possible, point.choice, strict=True))
        return found

    def best_trained(self, budget: float, start: Choice) -> Choice:
        """The cheapest choice found whose expected error before a training is about `budget`, where errors of kinds of which
        training leaves more count for more."""
        if not self.catalog.lasting:
            return self.best(budget, start)
        scale, found = 1.0, []
        for _ in range(_SCALINGS):
            self._weights = self.catalog.lasting
            try:
                choice = self.best(budget * scale, start)
            finally:
                self._weights = {}
            ratio = max(self.error(choice), 1e-30) / budget
            found.append((max(ratio, 1.0 / ratio), choice))
            if choice == self.untouched or found[-1][0] < _NEAR:
                break
            scale /= ratio
        return min(found, key=lambda pair: pair[0])[1]

    def _levels(self, choice: Choice, budget: float) -> tuple[list[list[int]], list[list[Level]]]:
        """For every group its levels whose error is within the budget, by index, and with what the whole would cost if this
        group alone changed."""
        touched: list[list[int]] = [[] for _ in self.catalog.groups]
        for part, groups in enumerate(self.catalog.touching):
            for g in groups:
                touched[g].append(part)
        moves = {
            (g, level): (*choice[:g], level, *choice[g + 1 :])
            for g, group in enumerate(self.catalog.groups) for level in range(len(group.options))
        }
        self._cover([(part, moved) for (g, _), moved in moves.items() for part in touched[g]])
        possible: list[list[int]] = [[] for _ in self.catalog.groups]
        found: list[list[Level]] = [[] for _ in self.catalog.groups]
        for (g, level), moved in moves.items():
            error = self._moved_error(g, level, choice)
            if not (math.isfinite(error) and error <= budget):
                continue
            parts = [Cost(self._time(part, moved), self._nbytes(part, moved)) for part in touched[g]]
            possible[g].append(level)
            found[g].append(Level(self.catalog.groups[g].options[level].name, error, sum(map(self.number, parts))))
        return possible, found

    def _moved_error(self, group: int, level: int, choice: Choice) -> float:
        """The error of a level; of one that takes other groups away, less what these add now."""
        own = self._error(group, level, choice)
        inner = self._inner[group]
        if not inner or level == 0:
            return own
        kept = (*choice[:group], 0, *choice[group + 1 :])
        now = [self._error(g, choice[g], kept) for g in inner]
        return max(0.0, own - sum(error for error in now if math.isfinite(error)))

    # learning

    def learn(self, choice: Choice, measured: float) -> None:
        """Take a measured squared error of a choice into account. Kinds of levels that were never measured are corrected, so
        that the sum agrees; where all were, the one that is expected to add most."""
        shares: dict[str, float] = {}
        for group, error in enumerate(self.errors_by_group(choice)):
            kind = self.catalog.groups[group].options[choice[group]].kind
            if 0.0 < error < math.inf:
                shares[kind] = shares.get(kind, 0.0) + error
        if not shares or not 0.0 < measured < math.inf:
            return
        fresh = [k for k in shares if k not in self.correction.kinds] or [max(shares, key=lambda k: shares[k])]
        open_share = sum(shares[k] for k in fresh)
        wanted = measured - sum(v for k, v in shares.items() if k not in fresh)
        if wanted > _LEAST_SHARE * measured:
            self._scale(fresh, wanted / open_share)
        else:
            self._scale(shares, measured / sum(shares.values()))

    def _scale(self, kinds: Iterable[str], ratio: float) -> None:
        for kind in kinds:
            self.correction.kinds[kind] = self.correction.kinds.get(kind, 1.0) * ratio

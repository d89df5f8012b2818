"""Aiming: how large the next error should be, from what the errors tried so far did to the budget.

    aim = Aim(); aim.add(0.01, 0.4); aim.next(0.01)

An attempt has a squared output error and a load: what was measured, as a share of the budget (at most 1: within it; at most
0: nothing lost). The load is taken to rise with the error, along a power of it between attempts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

WANTED = 0.93
"""The load aimed at: a little under the budget."""
ENOUGH = 0.9
"""A load from which on nothing more is tried."""
CLOSE = 1.12
"""Errors that differ by less than this factor are not told apart."""
_LEAST, _MOST, _LEAP = 0.1, 4.0, 10.0
_NOTHING = 0.05
_FLAT, _STEEP = 0.4, 2.5
_EDGE = 0.15


@dataclass
class Aim:
    """Attempts, and what to try next."""

    attempts: list[tuple[float, float]] = field(default_factory=list)

    def add(self, error: float, load: float) -> None:
        """An attempt: its squared error, more than 0, and its load. One with an error that is not finite tells nothing."""
        if not math.isfinite(error):
            return
        self.attempts.append((max(error, 1e-12), load))

    @property
    def within(self) -> float | None:
        """The largest error within the budget that is below all that break it; None where there is none."""
        broken = self.broken
        fits = [e for e, load in self.attempts if load <= 1.0 and (broken is None or e < broken)]
        return max(fits, default=None)

    @property
    def broken(self) -> float | None:
        """The least error that breaks the budget."""
        return min((e for e, load in self.attempts if load > 1.0), default=None)

    def next(self) -> float | None:
        """The squared error to try; None where the budget is nearly used up, or nothing is left between what holds and what
        breaks it."""
        low, high = self.within, self.broken
        if low is None and high is None:
            return None
        if low is not None and self._load(low) >= ENOUGH:
            return None
        if high is None:
            assert low is not None
            return low * self._step(self._load(low))
        if low is None:
            return high * min(0.8, max(_LEAST, (WANTED / self._load(high)) ** (1 / self._slope())))
        if high / low < CLOSE:
            return None
        span = math.log(high / low)
        small, large = max(self._load(low), 1e-3), max(self._load(high), 1.001)
        share = math.log(WANTED / small) / math.log(large / small) if small < WANTED else _EDGE
        share = min(1 - _EDGE, max(_EDGE, share)) if math.isfinite(share) else 0.5
        return low * math.exp(span * share)

    def _slope(self) -> float:
        """The power with which the load rises, from the last two attempts that tell."""
        telling = [(e, load) for e, load in self.attempts if 0.0 < load < math.inf]
        if len(telling) < 2 or telling[-1][0] == telling[-2][0]:
            return 1.0
        (e, load), (f, other) = telling[-2:]
        return min(_STEEP, max(_FLAT, math.log(other / load) / math.log(f / e)))

    def _load(self, error: float) -> float:
        return next(load for e, load in reversed(self.attempts) if e == error)

    def _step(self, load: float) -> float:
        if load <= _NOTHING:
            return _LEAP
        return min(_MOST, max(CLOSE, (WANTED / load) ** (1 / self._slope())))

"""How long training takes: what it takes anyway, and for each step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_FEW = 8
_FIRST = 2
_GROWTH = 5
_TELLS = 0.5
"""How much longer than a short training a longer one must take, as a share, to tell how long a step takes."""
_SHARE = 0.12
"""Of the time that there is, what finding out may take before longer trainings are tried no more."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a training besides its steps, and of each step; `spent`: those that finding out took."""

    fixed: float
    step: float
    spent: float

    def steps_in(self, seconds: float) -> int:
        """How many steps a training of so many seconds has; negative where there is not even time for the rest."""
        return int((seconds - self.fixed) / self.step)


def pace_of(train: Callable[[int], object], seconds: float, clock: Callable[[], float] = time.monotonic) -> Pace:
    """Train for a few steps, several times: once to do what is done once, then for as many steps as it takes until the steps
    are what takes the time, in about a tenth of `seconds`."""
    begin = clock()

    def took(steps: int) -> float:
        start = clock()
        train(steps)
        return clock() - start

    took(_FIRST)
    few, steps = took(_FEW), _FEW
    while True:
        steps *= _GROWTH
        many = took(steps)
        spent = clock() - begin
        if many - few > _TELLS * few or spent + _GROWTH * (many - few) > _SHARE * seconds:
            break
    each = max(1e-5, (many - few) / (steps - _FEW))
    return Pace(max(0.0, few - _FEW * each), each, spent)

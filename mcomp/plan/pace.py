"""How long training takes: what it takes anyway, and for each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

_FEW = 8
_GROWTH = 5
_TELLS = 1.0
"""Seconds of steps that tell how long one takes."""
_SHARE = 0.1
"""Of the time that there is, what finding out may take before longer trainings are tried no more."""
_MOST = 1 << 30


class Training(Protocol):
    """One training of a pipeline, as it went: what the pace is told from."""

    @property
    def steps(self) -> int:
        """How many it took."""

    @property
    def seconds(self) -> float:
        """How long it took."""

    @property
    def step_seconds(self) -> float:
        """How long a step took."""

    @property
    def began(self) -> float:
        """By the clock, when it began."""

    @property
    def rate(self) -> float:
        """The rate that it went at."""

    @property
    def kind(self) -> str:
        """What a rate is of use for: other trainings of the same kind."""

    @property
    def improved(self) -> bool:
        """Whether it brought anything."""

    @property
    def cut(self) -> bool:
        """Whether the time or the user ended it early."""

    def seconds_for(self, steps: int, *, rated: bool = False) -> float:
        """How long one of so many steps would take; rated: at a rate that is given."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a pipeline besides its trainings (`fixed`; `before` the first one, what its next run need not spend again),
    the trainings of a trial with `asked` steps, and the seconds `spent` on finding out."""

    before: float
    fixed: float
    trainings: tuple[Training, ...]
    asked: int
    spent: float

    def seconds(self, steps: int, *, rated: bool = False) -> float:
        """Seconds that the pipeline takes with so many steps in all, each training its share; rated: at a given rate."""
        return self.fixed + sum(t.seconds_for(round(steps * t.steps / self.asked), rated=rated) for t in self.trainings)

    def steps_in(self, seconds: float, *, again: bool = False, rated: bool = False) -> int:
        """How many steps the pipeline has time for; 0 where there is not even time for the rest, or nothing to train. again:
        what comes before the first training is there already. rated: no rates are tried."""
        seconds += self.before if again else 0.0
        low, high = 0, _MOST
        if not any(t.steps for t in self.trainings) or self.seconds(high, rated=rated) <= seconds:
            return 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.seconds(middle, rated=rated) <= seconds else (low, middle)
        return low


def pace_of(
    train: Callable[[int], Sequence[Training]], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Pace:
    """Run the pipeline with a few steps, and with more until steps are told well, in about a tenth of `seconds` (one run
    takes what it takes). `train(steps)` gives its trainings. What comes before the first training may be there already from
    the second run on: it counts as in the first."""
    begin, steps = clock(), _FEW
    before: float | None = None
    while True:
        start = clock()
        done = tuple(train(steps))
        took, spent = clock() - start, clock() - begin
        fixed = max(0.0, took - sum(t.seconds for t in done))
        stepping = sum(t.steps * t.step_seconds for t in done)
        now = min(fixed, max(0.0, done[0].began - start)) if done else 0.0
        before = now if before is None else before
        if stepping >= _TELLS or not stepping or spent + took + _GROWTH * stepping > _SHARE * seconds:
            kept = max(0.0, before - now)
            once = steps == _FEW  # then nothing tells what of it comes again
            return Pace(before if once else kept, fixed + kept, done, steps, spent)
        steps *= _GROWTH

"""How long training takes, from short trainings."""

import pytest

from mcomp.plan.pace import pace_of


class Clock:
    """A clock that only training moves: so many seconds besides steps, once more at first, and for each step."""

    def __init__(self, fixed: float, step: float, once: float = 0.0) -> None:
        self.now, self.fixed, self.step, self.once = 0.0, fixed, step, once
        self.trained: list[int] = []

    def __call__(self) -> float:
        return self.now

    def train(self, steps: int) -> None:
        self.now += self.once + self.fixed + self.step * steps
        self.once = 0.0
        self.trained.append(steps)


def test_short_steps_are_timed_in_longer_trainings() -> None:
    clock = Clock(fixed=1.0, step=0.002, once=50.0)
    pace = pace_of(clock.train, 1000.0, clock)
    assert pace.step == pytest.approx(0.002)
    assert pace.fixed == pytest.approx(1.0)
    assert max(clock.trained) == 1000
    assert pace.steps_in(21.0) == pytest.approx(10_000, abs=1)


def test_long_steps_are_timed_in_few() -> None:
    clock = Clock(fixed=1.0, step=2.0)
    pace = pace_of(clock.train, 1000.0, clock)
    assert clock.trained == [2, 8, 40]
    assert pace.step == pytest.approx(2.0)
    assert pace.steps_in(0.5) <= 0


def test_finding_out_ends_before_it_takes_the_time() -> None:
    clock = Clock(fixed=10.0, step=1e-4)
    pace = pace_of(clock.train, 100.0, clock)
    assert pace.spent < 50.0
    assert pace.spent == clock.now

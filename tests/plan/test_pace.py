"""How long training takes, from short trainings."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mcomp.passes.compress.training.trainer import Outcome
from mcomp.plan.pace import pace_of


@dataclass(frozen=True)
class Took:
    steps: int
    step_seconds: float
    began: float = 0.0
    rate: float = 1e-3
    kind: str = "plain"
    improved: bool = True
    cut: bool = False

    @property
    def seconds(self) -> float:
        return self.step_seconds * self.steps

    def seconds_for(self, steps: int, *, rated: bool = False) -> float:
        return self.step_seconds * steps * (1.0 if rated else 1.25)


class Clock:
    """A clock that only training moves: so many seconds besides, and two trainings with a half of the steps each."""

    def __init__(self, fixed: float, step: float) -> None:
        self.now, self.fixed, self.step = 0.0, fixed, step
        self.asked: list[int] = []

    def __call__(self) -> float:
        return self.now

    def train(self, steps: int) -> list[Took]:
        self.asked.append(steps)
        began = self.now + 0.7 * self.fixed
        done = [Took(steps // 2, self.step, began), Took(steps - steps // 2, 3 * self.step)] if self.step else []
        self.now += self.fixed + sum(t.seconds for t in done)
        return done


def test_short_steps_are_timed_in_longer_trainings() -> None:
    clock = Clock(fixed=1.0, step=0.001)
    pace = pace_of(clock.train, 1000.0, clock)
    assert pace.fixed == pytest.approx(1.0)
    assert clock.asked == [8, 40, 200, 1000]
    assert pace.steps_in(26.0) == pytest.approx(10_000, abs=2)
    assert pace.seconds(10_000) == pytest.approx(26.0)
    assert pace.steps_in(21.0, rated=True) == pytest.approx(10_000, abs=2)


def test_one_run_is_enough_where_it_takes_long() -> None:
    clock = Clock(fixed=90.0, step=0.1)
    pace = pace_of(clock.train, 400.0, clock)
    assert clock.asked == [8]
    assert pace.steps_in(215.0) == pytest.approx(500, abs=2)
    assert pace.steps_in(50.0) == 0
    assert pace.steps_in(215.0 - 63.0, again=True) == pytest.approx(500, abs=2)


def test_nothing_to_train_has_no_pace() -> None:
    clock = Clock(fixed=1.0, step=0.0)
    assert pace_of(clock.train, 100.0, clock).steps_in(50.0) == 0
    assert clock.asked == [8]


def test_trying_rates_and_checks_take_time_too() -> None:
    """Five rates are tried, each in a fortieth of the steps, and the held-out loss is taken 20 times and for each rate."""
    known = Outcome(steps=8, step_seconds=0.1, check_seconds=1.0)
    assert known.seconds_for(4000) == pytest.approx(400 + 21)
    known.probed = True
    assert known.seconds_for(4000) == pytest.approx(400 * (1 + 5 / 40) + 26)
    assert known.seconds_for(400) == pytest.approx(0.1 * (400 + 5 * 24) + 26)
    assert known.seconds_for(4000, rated=True) == pytest.approx(400 + 21)


def test_few_steps_have_few_checks() -> None:
    """Sixteen held-out minibatches cost about five steps, and at most a quarter of the steps: a check after 22."""
    known = Outcome(steps=8, step_seconds=0.1, check_seconds=1.0, held=16)
    assert known.seconds_for(66) == pytest.approx(6.6 + 3 + 1)
    assert known.seconds_for(4400) == pytest.approx(440 + 20 + 1)
    assert known.seconds_for(0) == 0.0


class Kept(Clock):
    """What comes before the first training, 0.7 of the fixed part, is kept from the first run on."""

    def train(self, steps: int) -> list[Took]:
        done = super().train(steps)
        if len(self.asked) > 1:
            self.now -= 0.7 * self.fixed
            done = [Took(t.steps, t.step_seconds, t.began - 0.7 * self.fixed) for t in done]
        return done


def test_what_is_kept_of_the_first_run_counts_in_a_fresh_one() -> None:
    clock = Kept(fixed=1.0, step=0.001)
    pace = pace_of(clock.train, 1000.0, clock)
    assert len(clock.asked) > 1
    assert (pace.before, pace.fixed) == (pytest.approx(0.7), pytest.approx(1.0))
    assert pace.steps_in(26.0 - 0.7, again=True) == pytest.approx(10_000, abs=2)

"""Aiming at a budget: the next attempt lies between what holds it and what breaks it."""

import pytest

from mcomp.plan.aim import ENOUGH, Aim


def run(load_of: object, first: float, most: int = 12) -> Aim:
    """Attempts with a known load until nothing is left."""
    aim, target = Aim(), first
    for _ in range(most):
        aim.add(target, load_of(target))  # type: ignore[operator]
        found = aim.next()
        if found is None:
            break
        target = found
    return aim


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("first", [1e-4, 0.01, 1.0])
def test_it_comes_close_to_the_budget_from_both_sides(power: float, first: float) -> None:
    aim = run(lambda e: (e / 0.02) ** power, first)
    assert aim.within is not None
    assert max(load for _, load in aim.attempts if load <= 1) >= ENOUGH
    assert len(aim.attempts) <= 8


def test_while_nothing_is_lost_steps_are_large() -> None:
    aim = Aim()
    aim.add(0.01, -0.3)
    assert aim.next() == pytest.approx(0.1)
    assert aim.broken is None


def test_a_broken_budget_gives_smaller_errors_until_one_holds() -> None:
    aim = Aim()
    aim.add(0.5, 3.0)
    assert 0.05 <= aim.next() <= 0.4  # type: ignore[operator]
    assert aim.within is None


def test_noise_does_not_trap_it() -> None:
    """A larger error that held the budget by luck does not count above one that broke it."""
    aim = Aim()
    for error, load in ((0.01, 0.2), (0.05, 0.9), (0.03, 1.2)):
        aim.add(error, load)
    assert (aim.within, aim.broken) == (0.01, 0.03)
    assert 0.01 < aim.next() < 0.03  # type: ignore[operator]


def test_a_budget_of_nothing_ends() -> None:
    aim = run(lambda e: float("inf"), 0.1)
    assert aim.within is None
    assert all(error > 0 for error, _ in aim.attempts)


@pytest.mark.parametrize("error", [float("inf"), float("nan")])
def test_an_error_that_is_not_finite_tells_nothing(error: float) -> None:
    """A metric may be fine all the same."""
    aim = Aim()
    for attempt in ((error, 0.5), (0.01, 0.4), (error, 2.0)):
        aim.add(*attempt)
    assert aim.attempts == [(0.01, 0.4)]
    assert 0.01 < aim.next() < 0.1  # type: ignore[operator]

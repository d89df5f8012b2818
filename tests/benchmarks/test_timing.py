"""Bursts, turns and ratios, on clocks that the tests drive."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks import timing


class FakeClock:
    """A clock that only moves when the timed call moves it."""

    def __init__(self, cost_ns: int) -> None:
        self.now = 0
        self.cost_ns = cost_ns
        self.calls = 0

    def __call__(self) -> int:
        return self.now

    def work(self) -> None:
        self.calls += 1
        self.now += self.cost_ns


def test_measure_reports_the_time_of_one_call() -> None:
    clock = FakeClock(2_000_000)
    burst = timing.measure(clock.work, 0.1, clock=clock)
    assert burst.milliseconds == pytest.approx(2.0)
    assert burst.calls == 50


def test_measure_groups_short_calls_into_slices() -> None:
    clock = FakeClock(1_000)
    burst = timing.measure(clock.work, 0.001, clock=clock)
    assert burst.milliseconds == pytest.approx(0.001)
    assert burst.calls % 50 == 0


def test_measure_warms_up_before_it_counts() -> None:
    clock = FakeClock(1_000_000_000)
    burst = timing.measure(clock.work, 0.5, warmup=4, clock=clock)
    assert (clock.calls, burst.calls) == (5, 1)


def test_measure_takes_the_median_not_the_mean() -> None:
    clock = FakeClock(1_000_000)

    def work() -> None:
        clock.work()
        if clock.calls == 20:
            clock.now += 50_000_000

    assert timing.measure(work, 0.1, clock=clock).milliseconds == pytest.approx(1.0)


def _taken(names: str, rounds: int, seed: int = 0) -> tuple[list[str], dict[str, list[float]]]:
    """The order of turns by round, and what they returned: how many had been taken."""
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    result = timing.interleave({name: partial(turn, name) for name in names}, rounds, seed=seed)
    return ["".join(order[i : i + len(names)]) for i in range(0, len(order), len(names))], result


def test_interleave_takes_every_turn_once_a_round() -> None:
    rounds, result = _taken("abc", 3)
    assert ["".join(sorted(taken)) for taken in rounds] == ["abc"] * 3
    assert result == {name: [3.0 * i + taken.index(name) + 1 for i, taken in enumerate(rounds)] for name in "abc"}


def test_interleave_draws_the_order_anew_each_round_the_same_for_the_same_seed() -> None:
    rounds, _ = _taken("abcd", 15)
    assert rounds == _taken("abcd", 15)[0] != _taken("abcd", 15, seed=1)[0]
    before = {name: {taken[taken.index(name) - 1] for taken in rounds if taken.index(name)} for name in "abcd"}
    assert before == {name: set("abcd") - {name} for name in "abcd"}


def test_interleave_tells_after_each_round_what_there_is() -> None:
    seen: list[list[int]] = []
    turns = {"a": lambda: 0.0, "b": lambda: 0.0}
    timing.interleave(turns, 2, after=lambda results: seen.append([len(values) for values in results.values()]))
    assert seen == [[1, 1], [2, 2]]


def test_interleave_pauses_before_each_turn() -> None:
    events: list[str] = []

    def turn() -> float:
        events.append("turn")
        return 0.0

    timing.interleave({"a": turn, "b": turn}, 2, lambda: events.append("pause"))
    assert events == ["pause", "turn"] * 4


def test_interleave_of_nothing_is_nothing() -> None:
    assert timing.interleave({}, 3) == {}


def test_speedup_compares_within_rounds() -> None:
    spread = timing.speedup([1.0, 10.0, 2.0], [2.0, 20.0, 5.0])
    assert (spread.median, spread.low, spread.high) == (2.0, 2.0, 2.5)


def test_speedup_refuses_other_rounds() -> None:
    with pytest.raises(ValueError, match="3 rounds beside 2"):
        timing.speedup([1.0, 1.0, 1.0], [1.0, 1.0])


def test_spread_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        timing.Spread.of([])

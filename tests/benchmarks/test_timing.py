"""Bursts, turns and ratios, on clocks that the tests drive."""

from __future__ import annotations

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


def test_interleave_takes_every_turn_once_a_round_and_rotates_the_order() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    result = timing.interleave({name: lambda name=name: turn(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert result == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


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

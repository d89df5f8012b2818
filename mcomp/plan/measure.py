"""Measuring on a noisy machine: interleaved rounds, medians, ratios per round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

_TURN = 0.002
"""Seconds of a turn, where a call is shorter."""
_MOST_CALLS = 1000
_WAKING = 0.0005
"""Seconds of calls before a turn of short calls: a thread that sleeps takes some 50 us to wake."""
_REST, _PAUSE = 0.006, 0.0005
"""Seconds after which idle threads sleep: those of OpenMP (measured: 4 to 6 ms), and our own (50 us)."""


@dataclass(frozen=True)
class Timing:
    """Times of several runners taken in turns. `seconds[i]` are the rounds of runner i."""

    seconds: tuple[tuple[float, ...], ...]

    def median(self, index: int) -> float:
        """Median seconds per call of one runner."""
        return statistics.median(self.seconds[index])

    def ratio(self, slow: int, fast: int) -> float:
        """Median over rounds of time(slow) / time(fast): how many times faster `fast` is."""
        return statistics.median(s / f for s, f in zip(self.seconds[slow], self.seconds[fast]))


def interleave(
    runners: Sequence[Callable[..., object]], *, budget: float = 1.0, rounds: int = 15, warmup: int = 2,
    prepare: Callable[[], object] | None = None, spinning: Collection[int] = (),
) -> Timing:
    """Time runners in turns, `rounds` times, in at most about `budget` seconds.

    Each round calls a runner often enough that the clock's resolution does not matter, and takes the mean. `prepare` makes
    what a runner is called with, before every single call and outside of the clock. `spinning`: runners whose threads go on
    spinning after a call; a short call after one of them waits until they sleep. Before short calls a runner's own threads
    are woken. A rest comes before it all, since what ran before may have left such threads behind.
    """
    time.sleep(_REST)
    repeats: list[int] = []
    total = 0.0
    for i, run in enumerate(runners):
        _seconds(run, warmup, prepare)
        _settle(i - 1 in spinning)
        once = max(_least(run, prepare), 1e-7)
        repeats.append(max(1, min(_MOST_CALLS, int(_TURN / once))))
        total += once * repeats[-1]
        if repeats[-1] > 1:
            total += _WAKING + (_REST if i - 1 in spinning else _PAUSE)
    count = max(3, min(rounds, int(budget / max(total, 1e-9))))
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(count):
        for i, run in enumerate(runners):
            if repeats[i] > 1:
                _settle(i - 1 in spinning)
                _seconds(run, max(1, int(repeats[i] * _WAKING / _TURN)), prepare)
            seconds[i].append(_seconds(run, repeats[i], prepare) / repeats[i])
    return Timing(tuple(tuple(s) for s in seconds))


def _settle(spinning: bool) -> None:
    """Wait until the threads of what ran before sleep: a thread that wakes while they spin is put on the core of the one
    that waits for it, and stays there for a while."""
    time.sleep(_REST if spinning else _PAUSE)


def _least(run: Callable[..., object], prepare: Callable[[], object] | None) -> float:
    """Seconds of the shortest of some calls: the first ones find threads asleep."""
    end = time.perf_counter() + _WAKING
    least = _seconds(run, 1, prepare)
    while time.perf_counter() < end:
        least = min(least, _seconds(run, 1, prepare))
    return least


def _seconds(run: Callable[..., object], count: int, prepare: Callable[[], object] | None) -> float:
    if prepare is None:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return time.perf_counter() - start
    total = 0.0
    for _ in range(count):
        given = prepare()
        start = time.perf_counter()
        run(given)
        total += time.perf_counter() - start
    return total

"""Measuring on a noisy machine: interleaved rounds, medians, ratios per round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


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
    prepare: Callable[[], object] | None = None,
) -> Timing:
    """Time runners in turns, `rounds` times, in at most about `budget` seconds.

    Each round calls a runner often enough that the clock's resolution does not matter, and takes the mean. `prepare` makes
    what a runner is called with, before every single call and outside of the clock.
    """
    repeats: list[int] = []
    total = 0.0
    for run in runners:
        _seconds(run, warmup, prepare)
        once = max(_seconds(run, 1, prepare), 1e-7)
        repeats.append(max(1, min(200, int(0.002 / once))))
        total += once * repeats[-1]
    count = max(3, min(rounds, int(budget / max(total, 1e-9))))
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(count):
        for i, run in enumerate(runners):
            seconds[i].append(_seconds(run, repeats[i], prepare) / repeats[i])
    return Timing(tuple(tuple(s) for s in seconds))


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

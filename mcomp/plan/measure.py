"""Measuring on a noisy machine: interleaved rounds, medians, ratios per round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

_TURN = 0.002
"""Seconds of a turn, where a call is shorter."""
_MOST_CALLS = 1000
_SHORT = 0.03
"""Seconds of a call from which waking threads, and what others left spinning, do not matter."""
_WAKING = 0.0005
"""Seconds of calls before a turn of short calls: a thread that sleeps takes some 50 us to wake."""
_PAUSE = 0.0005
"""Seconds after which our own idle threads sleep (they spin for 50 us)."""
_TICK, _LOOK, _LONGEST_REST = 0.011, 0.001, 0.06
"""Those of OpenMP spin for 4 to 12 ms, by how long the processor pauses. What a thread on another core takes is only added
to the time of the process at the system's next tick, 10 ms at most: when so long nothing was added, all sleep."""
_IDLE = 0.2
"""Most of the time that an idle process takes for looking at the clock."""


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
    _rest()
    repeats: list[int] = []
    short: list[bool] = []
    total = 0.0
    for i, run in enumerate(runners):
        _seconds(run, warmup, prepare)
        rested = _settle(i - 1 in spinning)
        once = max(_least(run, prepare), 1e-7)
        repeats.append(max(1, min(_MOST_CALLS, int(_TURN / once))))
        short.append(once < _SHORT)
        total += once * repeats[-1]
        if short[-1]:
            total += max(_WAKING, once) + (_LONGEST_REST if not i and len(runners) - 1 in spinning else rested)
    count = max(3, min(rounds, int(budget / max(total, 1e-9))))
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(count):
        for i, run in enumerate(runners):
            if short[i]:
                _settle((i - 1) % len(runners) in spinning)
                _seconds(run, max(1, int(repeats[i] * _WAKING / _TURN)), prepare)
            seconds[i].append(_seconds(run, repeats[i], prepare) / repeats[i])
    return Timing(tuple(tuple(s) for s in seconds))


def _settle(spinning: bool) -> float:
    """Wait until the threads of what ran before sleep: a thread that wakes while they spin is put on the core of the one
    that waits for it, and stays there for a while. Returns the seconds that it took."""
    if spinning:
        return _rest()
    time.sleep(_PAUSE)
    return _PAUSE


def _rest() -> float:
    """Wait until no thread of this process runs any more, as far as its processor time tells, and not for ever. Returns the
    seconds that it took."""
    begin = time.perf_counter()
    since, used = begin, time.process_time()
    while (now := time.perf_counter()) - since < _TICK and now - begin < _LONGEST_REST:
        time.sleep(_LOOK)
        taken = time.process_time()
        if taken - used > _IDLE * _LOOK:
            since = time.perf_counter()
        used = taken
    return time.perf_counter() - begin


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

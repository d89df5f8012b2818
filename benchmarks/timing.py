"""Clocks for comparing runners: bursts of calls, taken in turns, and ratios taken within each round.

One slow moment of the machine then hits every runner of that round alike and leaves the ratios in place.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Clock = Callable[[], int]

MIN_SLICE_NS = 50_000
"""Calls are timed in slices of at least this long, so that reading the clock costs under 0.2 % of a slice."""


@dataclass(frozen=True)
class Burst:
    """One turn of a runner: the median milliseconds of a call over its slices, and how many calls were timed."""

    milliseconds: float
    calls: int


def measure(call: Callable[[], object], seconds: float, warmup: int = 3, clock: Clock = time.perf_counter_ns) -> Burst:
    """Time `call` for about `seconds`, after `warmup` calls and as much again as a tenth of `seconds`."""
    started = clock()
    done = 0
    while done < warmup or clock() - started < seconds * 1e8:
        call()
        done += 1
    per_call = max(1, (clock() - started) // done)
    inner = max(1, -(-MIN_SLICE_NS // per_call))
    slices: list[float] = []
    begin = clock()
    while not slices or clock() - begin < seconds * 1e9:
        before = clock()
        for _ in range(inner):
            call()
        slices.append((clock() - before) / inner)
    return Burst(statistics.median(slices) / 1e6, inner * len(slices))


def interleave(
    turns: Mapping[str, Callable[[], float]], rounds: int, pause: Callable[[], None] = lambda: None,
    after: Callable[[Mapping[str, Sequence[float]]], None] = lambda results: None, seed: int = 0,
) -> dict[str, list[float]]:
    """Take every turn once a round, `rounds` times; returns what the turns returned, in order of rounds.

    The order is drawn anew each round, the same for the same seed, so that no runner always follows the same one. `pause`
    runs before each turn, `after` with what there is after each round.
    """
    names, draw = list(turns), random.Random(seed)
    results: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in draw.sample(names, len(names)):
            pause()
            results[name].append(turns[name]())
        after(results)
    return results


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some numbers."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Raises ValueError when there are none."""
        if not values:
            raise ValueError("no values to summarize")
        return Spread(statistics.median(values), min(values), max(values))


def speedup(times: Sequence[float], reference: Sequence[float]) -> Spread:
    """How many times faster than `reference` each round was; both hold one time per round of the same run."""
    if len(times) != len(reference):
        raise ValueError(f"{len(times)} rounds beside {len(reference)}: ratios need the same rounds")
    return Spread.of([base / time for time, base in zip(times, reference, strict=True)])

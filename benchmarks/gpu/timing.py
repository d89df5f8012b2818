"""Times of runners taken in turns, by CUDA events."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

from benchmarks.gpu.runners import Runner


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Mean time of one call, on the device."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / repeats


def interleave(runners: Sequence[Runner], *, rounds: int = 15, seconds: float = 0.05) -> dict[str, list[float]]:
    """Milliseconds of each runner in each round; a round gives every runner one turn, in an order that rotates."""
    repeats = {}
    for runner in runners:
        for _ in range(5):
            runner.call()
        repeats[runner.name] = max(1, min(200, int(seconds * 1e3 / max(milliseconds(runner.call, 3), 1e-3))))
    times: dict[str, list[float]] = {r.name: [] for r in runners}
    for i in range(rounds):
        turn = i % len(runners)
        for runner in (*runners[turn:], *runners[:turn]):
            times[runner.name].append(milliseconds(runner.call, repeats[runner.name]))
    return times


def speed(times: dict[str, list[float]], of: str, against: str) -> float:
    """How many times faster one runner is than another: the median over rounds."""
    return statistics.median(b / a for a, b in zip(times[of], times[against]))

"""One process per runner: it prepares, answers, scores and times its model, and waits asleep between its turns."""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import machine, models, peers, timing
from benchmarks.case import Array
from benchmarks.peers.base import Candidate, Runner, Setup

SELECTION_TOLERANCE = 1.0
"""A lossy candidate may lose this many points to fp32 on the selection split and still be preferred for its speed."""
REST_S = 1.0
"""Pause before candidates are timed: what prepared them has threads that are still awake."""
SETTLE_S = 0.1
"""Pause before each turn: idle threads of the runtimes compared here spin for 40 ms at most before they sleep."""
BURSTS = 3
"""Each candidate is timed so often, in turns with the others; the median counts."""
SPARE = 0.25
"""Candidates are kept for timing together while at least this share of the memory is available."""


@dataclass(frozen=True)
class Job:
    """What a worker makes: a variant of a peer for a case, with how many threads and where it may write; with `setting`, by
    that one alone."""

    case: str
    peer: str
    variant: str
    options: models.Options
    threads: int
    scratch: Path
    quick: bool
    setting: str = ""


@dataclass(frozen=True)
class Tried:
    """What came of one candidate: seconds of preparation, milliseconds a call, points on the selection split."""

    name: str
    prepare_s: float
    milliseconds: float | None = None
    selection: float | None = None
    error: str | None = None
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """The chosen candidate and all that were tried."""

    chosen: str
    prepare_s: float
    size_bytes: int | None
    versions: dict[str, str]
    tried: tuple[Tried, ...]
    details: dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """A burst, and which share of one core the process used while it should have slept since its last turn."""

    burst: timing.Burst
    idle_cores: float


def choose(tried: list[Tried], reference: float | None) -> Tried:
    """The fastest candidate within the tolerance of `reference`, or the best one where none is within it.

    Candidates without a selection score count as within. Raises ValueError when all failed.
    """
    alive = [entry for entry in tried if entry.error is None]
    if not alive:
        raise ValueError("; ".join(f"{entry.name}: {entry.error}" for entry in tried) or "nothing to try")
    floor = -float("inf") if reference is None else reference - SELECTION_TOLERANCE
    kept = [entry for entry in alive if entry.selection is None or entry.selection >= floor]
    if kept:
        return min(kept, key=lambda entry: entry.milliseconds or 0.0)
    return max(alive, key=lambda entry: entry.selection or 0.0)


def _others(tried: list[Tried], reference: float | None) -> list[Tried]:
    """All but the one that is chosen."""
    best = choose(tried, reference) if tried else None
    return [entry for entry in tried if entry is not best]


def _reason(error: Exception) -> str:
    """An error in one line; its traceback goes to the log."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


class Worker:
    """Holds one runner; its public methods are the commands of the controller."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.case = models.load(job.case, job.options)
        self.runner: Runner | None = None
        self.call: Callable[[], object] | None = None
        self.calls: dict[models.Options, Callable[[], object]] = {}
        self.slept = (time.perf_counter(), time.process_time())

    def prepare(self, reference: float | None, burst: float) -> Prepared:
        """Make every candidate, keep the one that `choose` takes. `reference`: fp32 points on the selection split.

        Candidates are timed in turns, all together, or where memory is short as many as it holds with the best of those
        before.
        """
        peer = peers.module(self.job.peer)
        setup = Setup(self.case, self.job.threads, self.job.scratch, self.job.quick, self.job.options.kept)
        found: list[Candidate] = peer.candidates(self.job.variant, setup)
        if self.job.setting:
            found = [candidate for candidate in found if candidate.name == self.job.setting]
        if not found:
            raise models.Unavailable(f"{self.job.peer} {self.job.variant}: nothing to do for {self.case.name}")
        tried: dict[str, Tried] = {}
        alive: dict[str, Runner] = {}
        for candidate in found:
            tried[candidate.name], runner = self._try(candidate, reference if len(found) > 1 else None)
            if runner is not None:
                alive[candidate.name] = runner
            del runner
            if machine.available_memory() < SPARE or candidate is found[-1]:
                self._time(tried, alive, burst)
                for other in _others([tried[name] for name in alive], reference):
                    del alive[other.name]
            gc.collect()
        chosen = choose([entry for entry in tried.values() if entry.name in alive or entry.error is not None], reference)
        self.runner = alive[chosen.name]
        return Prepared(
            chosen.name, chosen.prepare_s, self.runner.size_bytes, peer.versions(), tuple(tried.values()),
            dict(self.runner.details),
        )

    def _try(self, candidate: Candidate, reference: float | None) -> tuple[Tried, Runner | None]:
        """Make a candidate, and score it where there is a reference."""
        started = time.perf_counter()
        try:
            runner = candidate.make()
            seconds = time.perf_counter() - started
            selection = None if reference is None else self.case.score(runner, self.case.selection)
        except Exception as error:
            return Tried(candidate.name, time.perf_counter() - started, error=_reason(error)), None
        return Tried(candidate.name, seconds, None, selection, None, dict(candidate.settings)), runner

    def _time(self, tried: dict[str, Tried], alive: dict[str, Runner], burst: float) -> None:
        """Time runners in turns after a rest; one that fails leaves `alive`."""
        calls: dict[str, Callable[[], object]] = {}

        def turn(name: str) -> float:
            if name not in alive:
                return float("nan")
            try:
                if name not in calls:
                    calls[name] = alive[name].bind(*self.case.example)
                with alive[name].context():
                    return timing.measure(calls[name], burst).milliseconds
            except Exception as error:
                tried[name] = dataclasses.replace(tried[name], error=_reason(error))
                del alive[name]
                return float("nan")

        if alive:
            time.sleep(REST_S)
        times = timing.interleave({name: partial(turn, name) for name in list(alive)}, BURSTS, lambda: time.sleep(SETTLE_S))
        for name in alive:
            tried[name] = dataclasses.replace(tried[name], milliseconds=statistics.median(times[name]))

    @property
    def _ready(self) -> Runner:
        if self.runner is None:
            raise RuntimeError("prepare has not been called")
        return self.runner

    def score(self, split: str) -> float | None:
        """Points on ``test`` or ``selection``."""
        return self.case.score(self._ready, getattr(self.case, split))

    def also(self) -> dict[str, float]:
        """The case's other scores."""
        return {name: score(self._ready) for name, score in self.case.also.items()}

    def outputs(self) -> Array:
        """Outputs on the case's probe inputs."""
        return self.case.outputs(self._ready, self.case.probe())

    def turn_at(self, options: models.Options, seconds: float) -> float:
        """Milliseconds of a call on the example inputs of the case at other sizes, by the same artifact."""
        if options not in self.calls:
            self.calls[options] = self._ready.at(*models.load(self.job.case, options).example)
        with self._ready.context():
            return timing.measure(self.calls[options], seconds).milliseconds

    def turn(self, seconds: float) -> Turn:
        """Time the runner on the example inputs."""
        wall, used = self.slept
        idle = (time.process_time() - used) / max(1e-9, time.perf_counter() - wall)
        if self.call is None:
            self.call = self._ready.bind(*self.case.example)
            idle = 0.0
        with self._ready.context():
            burst = timing.measure(self.call, seconds)
        self.slept = (time.perf_counter(), time.process_time())
        return Turn(burst, idle)


def serve(connection: Connection, job: Job, log: Path) -> None:
    """Run a worker: receive ``(command, arguments)``, answer ``(True, result)`` or ``(False, reason)``.

    Whatever the runtimes print goes to `log`. Their compile caches start empty: preparation is never taken from an
    earlier run.
    """
    os.environ["XDG_CACHE_HOME"] = str(job.scratch / "cache")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(job.scratch / "inductor")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, sys.stdout.fileno())
    os.dup2(handle, sys.stderr.fileno())
    worker: Worker | None = None
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        try:
            worker = worker or Worker(job)
            connection.send((True, getattr(worker, command)(*arguments)))
        except Exception as error:
            traceback.print_exc()
            connection.send((False, f"{type(error).__name__}: {str(error).strip()[:500]}"))


def as_json(prepared: Prepared) -> dict[str, Any]:
    """Plain data of what was prepared."""
    return dataclasses.asdict(prepared)

"""Checks models of the zoo in worker processes, so that none can stop the table."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks import zoo
from benchmarks.zoo_table import BATCHES, Row


def check_all(
    names: Sequence[str], target: str, limit: float, jobs: int = 1, batches: Sequence[int] = BATCHES
) -> Iterator[Row]:
    """Rows in the order in which models finish. One that takes more than `limit` seconds, or that ends its process,
    gives a row that says so."""
    waiting = list(reversed(names))
    workers = [_Worker(target, jobs, batches) for _ in range(min(jobs, len(names)))]
    try:
        while waiting or any(worker.name for worker in workers):
            for worker in workers:
                if not worker.name and waiting:
                    worker.give(waiting.pop())
            wait([worker.channel for worker in workers if worker.name], timeout=1.0)
            for worker in workers:
                row = worker.row(limit) if worker.name else None
                if row is not None:
                    yield row
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that checks one model after another; `name` is the one it is at, empty when idle."""

    def __init__(self, target: str, jobs: int, batches: Sequence[int]) -> None:
        self.target = target
        self.jobs = jobs
        self.batches = batches
        self.name = ""
        self.since = 0.0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.channel, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, self.target, self.jobs, self.batches), daemon=True)
        self.process.start()
        far.close()

    def give(self, name: str) -> None:
        """Let the process check this model."""
        self.name, self.since = name, time.monotonic()
        self.channel.send(name)

    def row(self, limit: float) -> Row | None:
        """The row of the model at hand when there is one, None while it is being made."""
        if self.channel.poll():
            try:
                row = Row(**self.channel.recv())
            except EOFError:
                self.process.join(5)
                return self._failed(f"the process ended with code {self.process.exitcode}")
            self.name = ""
            return row
        if time.monotonic() - self.since > limit:
            return self._failed(f"stopped after {limit:.0f} seconds")
        return None

    def _failed(self, reason: str) -> Row:
        row = Row(zoo.find(self.name).name, zoo.find(self.name).family, failure=reason)
        self.stop()
        self.name = ""
        self._start()
        return row

    def stop(self) -> None:
        """End the process and the compilers that it started."""
        if self.process.pid is not None and self.process.is_alive():
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.process.kill()
        self.process.join()
        self.channel.close()


def _serve(channel: Connection, target: str, jobs: int, batches: Sequence[int] = BATCHES) -> None:
    """Check the models whose names come in, until the other end closes."""
    os.setsid()
    import torch

    from benchmarks.zoo_check import check

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    while True:
        try:
            name: Any = channel.recv()
        except EOFError:
            return
        channel.send(asdict(check(zoo.find(name), target, batches)))

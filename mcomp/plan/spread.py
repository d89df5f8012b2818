"""Spreading work over an executor: tasks that fail, or kill their worker, cost themselves only.

    results, failures = Spread(executor)(function, [task, ...])

`executor` is any `concurrent.futures.Executor`; None works here, one task after another.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Failure:
    """A task that gave nothing, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class Spread:
    """Runs functions on many tasks. `say` hears how many are done."""

    executor: Executor | None = None
    say: Callable[[str], None] = lambda text: None

    @property
    def here(self) -> bool:
        """Whether work is done in this thread."""
        return self.executor is None

    def __call__(
        self, function: Callable[[_Task], _Result], tasks: Sequence[_Task], what: str = "layers"
    ) -> tuple[list[_Result | None], list[Failure]]:
        """Results in the order of tasks (None where a task failed), and the failures.

        Where a worker dies, executors of processes give up all tasks that were not done. These are run again, each in a
        process of its own: the one that kills its worker again has failed.
        """
        results: list[_Result | None] = [None] * len(tasks)
        failures: list[Failure] = []
        if self.executor is None:
            for index, task in enumerate(tasks):
                self.say(f"{what}: {index} of {len(tasks)}")
                self._keep(index, lambda task=task: function(task), results, failures)  # type: ignore[misc]
            return results, failures
        lost: list[int] = []
        futures: list[Future[_Result] | None] = []
        for task in tasks:
            try:
                futures.append(self.executor.submit(_run, function, task))
            except BrokenExecutor:
                futures.append(None)
        try:
            for index, future in enumerate(futures):
                self.say(f"{what}: {index} of {len(tasks)}")
                if future is None:
                    lost.append(index)
                    continue
                try:
                    self._keep(index, future.result, results, failures)
                except BrokenExecutor:
                    lost.append(index)
        except BaseException:
            for future in futures:
                if future is not None:
                    future.cancel()
            raise
        for index in lost:
            self.say(f"{what} whose worker died: {index} of {len(tasks)}")
            try:
                with ProcessPoolExecutor(1) as alone:
                    self._keep(index, alone.submit(_run, function, tasks[index]).result, results, failures)
            except BrokenExecutor:
                failures.append(Failure(index, "its worker died"))
        return results, failures

    @staticmethod
    def _keep(index: int, get: Callable[[], Any], results: list[Any], failures: list[Failure]) -> None:
        try:
            results[index] = get()
        except BrokenExecutor:
            raise
        except Exception as e:
            failures.append(Failure(index, f"{type(e).__name__}: {e}"))


def _run(function: Callable[[_Task], _Result], task: _Task) -> _Result:
    """Do a task, in a process of its own on one thread: a forked child waits forever for threads that its parent had."""
    if multiprocessing.parent_process() is not None:
        import torch

        torch.set_num_threads(1)
    return function(task)

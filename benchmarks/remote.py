"""The controller's side of a worker process."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.worker import Job, serve


class WorkerFailed(Exception):
    """A worker answered with an error or died; the message holds the reason."""


class Remote:
    """A worker process. ``remote("command", ...)`` waits for its answer; leaving the ``with`` block ends it."""

    def __init__(self, job: Job, limit_s: float = 1800) -> None:
        """Start the process. A command that takes longer than `limit_s` seconds ends it and fails."""
        self.limit_s = limit_s
        job.scratch.mkdir(parents=True, exist_ok=True)
        self.log: Path = job.scratch / "log.txt"
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, job, self.log))
        self.process.start()
        theirs.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __call__(self, command: str, *arguments: object) -> Any:
        try:
            self.connection.send((command, arguments))
            if not self.connection.poll(self.limit_s):
                self.process.terminate()
                raise WorkerFailed(f"{command} took longer than {self.limit_s:.0f} s: {self.tail()}")
            good, answer = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.process.join(5)
            raise WorkerFailed(f"worker died with exit code {self.process.exitcode}: {self.tail()}") from error
        if not good:
            raise WorkerFailed(str(answer))
        return answer

    def tail(self, lines: int = 3) -> str:
        """The last lines that the worker printed."""
        if not self.log.exists():
            return ""
        return " / ".join(self.log.read_text(encoding="utf8", errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """End the process: it leaves when its connection closes, and is terminated when it does not."""
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()

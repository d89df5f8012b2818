"""What long work is at: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import Any, TextIO

LINE_S = 2.0
"""Seconds between plain lines, and before the first one: quick work says nothing."""

_COUNT = re.compile(r"(\d+) of (\d+)\Z")


class Progress:
    """Shows on standard error what is going on while it is entered: on a terminal a bar with the time taken, elsewhere a
    line every few seconds. `wanted=False` shows nothing."""

    def __init__(self, wanted: bool, stream: TextIO | None = None) -> None:
        self.wanted = wanted
        self._stream = stream if stream is not None else sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._last = 0.0

    def __enter__(self) -> Progress:
        self._last = time.monotonic()
        if self.wanted and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                SpinnerColumn(), TextColumn("mcomp: {task.description}", markup=False), BarColumn(bar_width=24),
                MofNCompleteColumn(), TimeElapsedColumn(), console=Console(file=self._stream), transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def note(self, text: str) -> None:
        """Say at once what is to stay there to be read."""
        if self._bar is not None:
            self._bar.console.print(f"mcomp: {text}", markup=False, highlight=False)
        elif self.wanted:
            print(f"mcomp: {text}", file=self._stream, flush=True)

    def step(self, text: str) -> None:
        """Say what comes next. A text that ends in a count, `3 of 40`, moves the bar; others leave its end open."""
        if self._bar is not None:
            count = _COUNT.search(text)
            self._bar.tasks[0].total = int(count.group(2)) if count else None  # `update` cannot open the end again
            self._bar.update(self._task, description=text, completed=int(count.group(1)) if count else 0)
        elif self.wanted and time.monotonic() - self._last >= LINE_S:
            self._last = time.monotonic()
            print(f"mcomp: {text}", file=self._stream, flush=True)

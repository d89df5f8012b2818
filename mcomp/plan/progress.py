"""A status line on a terminal; nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Shows what is going on while it is entered; silent when standard error is no terminal."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted and sys.stderr.isatty()
        self._status: Any = None

    def __enter__(self) -> Progress:
        if self.wanted:
            from rich.console import Console

            self._status = Console(stderr=True).status("mcomp")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def step(self, text: str) -> None:
        """Say what comes next."""
        if self._status is not None:
            self._status.update(f"mcomp: {text}")

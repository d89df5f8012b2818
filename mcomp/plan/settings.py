"""What the user asked `optimize` for, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcomp.errors import BudgetError, PassError

OBJECTIVES = ("latency", "size", "memory")


@dataclass(frozen=True)
class Settings:
    """The options of `mcomp.optimize`; see there."""

    dynamic: Any = None
    target: str = "cpu"
    objective: str = "latency"
    calibration: Iterable[Any] | None = None
    evaluate: Callable[[Any], Any] | None = None
    max_drop: float | None = None
    max_error: float | None = None
    pipeline: Any = None
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    threads: int | None = None
    time_limit: float | None = None
    executor: Any = None
    progress: bool = True
    instruments: Sequence[Any] = ()
    seed: int = 0

    @property
    def lossy(self) -> bool:
        """Whether loss is allowed: a budget was given."""
        return self.max_drop is not None or self.max_error is not None

    def check(self) -> None:
        """Raise BudgetError or PassError for options that contradict each other."""
        if self.objective not in OBJECTIVES:
            raise PassError(f"objective is {self.objective!r}", code="MC0210", help=f"use one of {', '.join(OBJECTIVES)}")
        if self.max_drop is not None and self.evaluate is None:
            raise BudgetError("max_drop needs evaluate, whose result may drop by that much", code="MC0510",
                              help="pass evaluate=..., or use max_error=... to bound the output error instead")
        if self.evaluate is not None and not callable(self.evaluate):
            raise BudgetError(f"evaluate is {type(self.evaluate).__name__}, which cannot be called", code="MC0511",
                              help="pass a function that takes a model and returns a number, higher is better")
        for name, value in (("max_drop", self.max_drop), ("max_error", self.max_error)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))
                                      or not math.isfinite(value) or value < 0):
                raise BudgetError(f"{name} is {value!r}; it must be a number, zero or more", code="MC0512")
        if self.threads is not None and (isinstance(self.threads, bool) or self.threads < 1):
            raise PassError(f"threads is {self.threads!r}; it must be 1 or more", code="MC0211")
        if isinstance(self.exclude, str):
            raise PassError("exclude is a text; it must be a list of patterns", code="MC0212",
                            help=f"write exclude=[{self.exclude!r}]")

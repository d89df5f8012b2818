"""What the user asked `optimize` for, checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcomp.errors import BudgetError, PassError
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass, registered_passes
from mcomp.manager.pipeline import Step, misfit, parse_pipeline, passes_of
from mcomp.scalars import real_number, whole_number

OBJECTIVES = ("latency", "size", "memory", "balanced")
_LAYERS_HELP = 'write layers={"encoder.*.fc1": {"bits": 8}, "head": {"quantize": False}}'
_EXCLUDE_HELP = 'name layers by module path, such as exclude=["encoder.*.fc1", "head"]'
_STUDENTS_HELP = 'write students={"body": module}, or {"": module} for the whole model; or a list of modules'


Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """The options of `mcomp.optimize`; see there. `calibration` holds calls: (args, kwargs); `students` tuples."""

    dynamic: Any = None
    target: str = "cpu"
    objective: str = "latency"
    calibration: Sequence[Call] | None = None
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
    resume: str | os.PathLike[str] | None = None
    students: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lossy(self) -> bool:
        """Whether loss is allowed: a budget was given."""
        return self.max_drop is not None or self.max_error is not None

    def __post_init__(self) -> None:
        for name in ("exclude", "instruments"):
            value = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.students, Mapping):
            several = {k: tuple(v) if isinstance(v, (list, tuple)) else (v,) for k, v in self.students.items()}
            object.__setattr__(self, "students", several)
        for name in ("max_drop", "max_error", "time_limit"):
            object.__setattr__(self, name, real_number(getattr(self, name)))
        for name in ("threads", "seed"):
            object.__setattr__(self, name, whole_number(getattr(self, name)))

    def check(self) -> None:
        """Raise BudgetError, PassError or CaptureError for options of the wrong kind, or that contradict each other."""
        from mcomp.capture.sizes import check_dynamic

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
                raise BudgetError(f"{name} is {value!r}; it must be a number, zero or more", code="MC0512",
                                  help=f"write {name}=0.01, or another share or difference that may be lost")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads is True or self.threads < 1):
            raise PassError(f"threads is {self.threads!r}; it must be a whole number, 1 or more", code="MC0211",
                            help="write threads=4, or leave it out for all cores")
        limit = self.time_limit
        if limit is not None and (not isinstance(limit, (int, float)) or isinstance(limit, bool)
                                  or not 0 <= limit < math.inf):
            raise PassError(f"time_limit is {limit!r}; it must be a number of seconds", code="MC0211",
                            help="write time_limit=600 for ten minutes, or leave it out")
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise PassError(f"executor is {type(self.executor).__name__}, which is no executor", code="MC0211",
                            help="pass a concurrent.futures.Executor, such as ProcessPoolExecutor(4)")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise PassError(f"seed is {self.seed!r}; it must be a whole number, 0 or more", code="MC0211",
                            help="write seed=0, or another such number")
        if self.resume is not None and not isinstance(self.resume, (str, os.PathLike)):
            raise PassError(f"resume is {self.resume!r}, which names no folder", code="MC0211",
                            help='write resume="search", a folder in which the search is kept')
        check_dynamic(self.dynamic)
        self._check_instruments()
        self._check_students()
        self._check_exclude()
        self._check_layers()
        self.steps()

    def _check_instruments(self) -> None:
        if not isinstance(self.instruments, tuple) or not all(isinstance(item, Instrument) for item in self.instruments):
            raise PassError(f"instruments is {self.instruments!r}; it must be a list of instruments", code="MC0211",
                            help="write instruments=[Verify()]: objects of mcomp.manager.instruments, or of classes of your "
                            "own that extend mcomp.manager.Instrument")

    def _check_students(self) -> None:
        if not isinstance(self.students, Mapping):
            raise PassError(f"students is {type(self.students).__name__}; it must be a dict", code="MC0222",
                            help=_STUDENTS_HELP)
        for path, some in self.students.items():
            if not isinstance(path, str):
                raise PassError(f"students has {path!r}, which is no module path", code="MC0222", help=_STUDENTS_HELP)
            if not some:
                raise PassError(f"students has no module for {path!r}", code="MC0222", help=_STUDENTS_HELP)

    def _check_exclude(self) -> None:
        if isinstance(self.exclude, str):
            raise PassError("exclude is a text; it must be a list of patterns", code="MC0212",
                            help=f"write exclude=[{self.exclude!r}]")
        if not isinstance(self.exclude, tuple):
            raise PassError(f"exclude is {self.exclude!r}; it must be a list of patterns", code="MC0212", help=_EXCLUDE_HELP)
        for pattern in self.exclude:
            if not isinstance(pattern, str):
                raise PassError(f"exclude holds {pattern!r}, which is no pattern", code="MC0212", help=_EXCLUDE_HELP)

    def _check_layers(self) -> None:
        if not isinstance(self.layers, Mapping):
            raise PassError(f"layers is {type(self.layers).__name__}; it must be a dict", code="MC0212", help=_LAYERS_HELP)
        known = self._layer_options()
        for pattern, options in self.layers.items():
            if not isinstance(pattern, str) or not isinstance(options, Mapping):
                raise PassError(f"layers has {pattern!r}: {options!r}, not a pattern and a dict", code="MC0212",
                                help=_LAYERS_HELP)
            for name, value in options.items():
                if name not in known:
                    close = difflib.get_close_matches(str(name), known, n=1)
                    raise PassError(
                        f"no pass has an option {name!r}", code="MC0202", where=f"layers[{pattern!r}]",
                        help=f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}",
                    )
                _check_value(pattern, name, value, known[name])

    def _layer_options(self) -> dict[str, list[type[Pass]]]:
        """Names that `layers` may use, with the passes that have such an option; none for those of passes, which switch
        these off."""
        classes = dict.fromkeys([*registered_passes().values(), *(type(p) for p in passes_of(self.steps()))])
        known: dict[str, list[type[Pass]]] = {cls.name: [] for cls in classes}
        for cls in classes:
            for f in dataclasses.fields(cls):  # type: ignore[arg-type]
                known.setdefault(f.name, []).append(cls)
        return known

    def steps(self) -> tuple[Step, ...]:
        """The pipeline asked for, parsed; empty without one. Raises ParseError and PassError."""
        return () if self.pipeline is None else parse_pipeline(self.pipeline)


def _check_value(pattern: str, name: str, value: Any, classes: Sequence[type[Pass]]) -> None:
    """Raise PassError for a value that fits no option of this name, and for a switch of a pass that is no bool."""
    where = f"layers[{pattern!r}]"
    if not classes:
        if not isinstance(value, bool):
            raise PassError(f"{name} is {value!r}; it switches a pass on or off", code="MC0212", where=where,
                            help=f"write {{{name!r}: False}}")
        return
    kinds = [misfit(cls, name, value) for cls in classes]
    if None not in kinds:
        raise PassError(f"option {name} is {value!r}, not {' or '.join(dict.fromkeys(map(str, kinds)))}", code="MC0202",
                        where=where)

"""Models without example inputs: captured at the first call, and again when a call brings something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import CallError, CaptureError
from mcomp.plan.settings import Settings
from mcomp.runtime.compiled import Built
from mcomp.runtime.program import CompiledProgram

Call = tuple[tuple[Any, ...], dict[str, Any]]


MOST = 8
"""Programs kept for one model; calls that would need another one are refused."""


class FirstCall:
    """Compiles a model for the calls it gets.

    A call of other sizes compiles once more, with every size symbolic in which it differs from the calls before; where the
    model ties a size down, what was compiled for the other sizes is kept beside it. So is what was compiled for another
    structure, element type or rank. Not safe for several threads at once.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._kept: list[tuple[Call, Built]] = []

    def first(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Built:
        """Compile for the first call."""
        return self._compile((tuple(args), dict(kwargs)), [])

    def again(self, args: Sequence[Any], kwargs: Mapping[str, Any], error: CallError) -> Built | None:
        """What runs a call that the current program refused with `error`; None when the call is at fault: its arguments
        are not those of the model, or `MOST` programs are kept. What the model itself refuses raises `error`; nothing is
        lost by either.
        """
        programs = [(call, built, built.program) for call, built in self._kept if built.program is not None]
        fitting = next((built for _, built, program in programs if program.accepts(args, kwargs)), None)
        if fitting is not None:
            return None if fitting is self._kept[-1][1] else self._use(fitting)
        if len(self._kept) >= MOST or not any(_takes(program, args, kwargs) for _, _, program in programs):
            return None
        alike = [call for call, _, program in programs if program.differs_in_sizes(args, kwargs)]
        try:
            built = self._compile((tuple(args), dict(kwargs)), alike)
        except CaptureError as e:
            raise error from e
        if not alike:
            built.report.notes.append(
                "captured for a call of another structure, element type or rank than those before; "
                f"{len(self._kept)} programs are kept, {MOST} at most"
            )
        return built

    def _use(self, built: Built) -> Built:
        self._kept.sort(key=lambda pair: pair[1] is built)
        return built

    def _compile(self, call: Call, alike: list[Call]) -> Built:
        from mcomp.plan.build import build

        built = build(self._model, *call, self._settings, others=alike)
        self._kept.append((call, built))
        return built


def _takes(program: CompiledProgram, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the model has such parameters."""
    try:
        program.signature.bind(args, kwargs)
    except CallError:
        return False
    return True

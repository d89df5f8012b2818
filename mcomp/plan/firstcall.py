"""Models without example inputs: captured at the first call, and again when a call brings other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import CallError, CaptureError
from mcomp.plan.settings import Settings
from mcomp.runtime.compiled import Built

Call = tuple[tuple[Any, ...], dict[str, Any]]


class FirstCall:
    """Compiles a model for the calls it gets.

    A call of other sizes compiles once more, with every size symbolic in which it differs from the calls before; where the
    model ties a size down, what was compiled for the other sizes is kept beside it. Not safe for several threads at once.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._calls: list[Call] = []
        self._built: list[Built] = []

    def first(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Built:
        """Compile for the first call."""
        return self._compile((tuple(args), dict(kwargs)))

    def again(self, args: Sequence[Any], kwargs: Mapping[str, Any], error: CallError) -> Built | None:
        """What runs a call that the current program refused with `error`; None when the call is at fault.

        Only sizes are adapted to: another structure, element type or rank is an error, and so are sizes that the model
        itself refuses. Nothing is lost by either.
        """
        programs = [(built, built.program) for built in self._built if built.program is not None]
        fitting = next((built for built, program in programs if program.accepts(args, kwargs)), None)
        if fitting is not None:
            return None if fitting is self._built[-1] else self._use(fitting)
        if not any(program.differs_in_sizes(args, kwargs) for _, program in programs):
            return None
        try:
            return self._compile((tuple(args), dict(kwargs)))
        except CaptureError as e:
            raise error from e

    def _use(self, built: Built) -> Built:
        self._built.remove(built)
        self._built.append(built)
        return built

    def _compile(self, call: Call) -> Built:
        from mcomp.plan.build import build

        built = build(self._model, *call, self._settings, others=self._calls)
        self._calls.append(call)
        self._built.append(built)
        return built

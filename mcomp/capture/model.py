"""Capture of a model: whole when it can be, by module when not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mcomp.capture.parts import Host, capture_parts
from mcomp.capture.program import Call, Captured, CapturedProgram
from mcomp.capture.whole import capture_whole
from mcomp.errors import CaptureError
from mcomp.ir.store import WeightStore

_NOT_FOLLOWED = (
    "", "dynamic was not followed: the model is captured in parts, of which the batch is symbolic, and sizes that differ "
    "between calls are", "give calibration batches, or calls, of the sizes that are to come",
)


def capture_model(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, dynamic: Any, others: Sequence[Call],
    store: WeightStore | None,
) -> Captured:
    """See `mcomp.capture.capture`."""
    _check(model)
    weights = store or WeightStore()
    given = dict(kwargs)
    try:
        program = capture_whole(model, args, given, dynamic=dynamic, others=others, store=weights)
    except CaptureError as error:
        if error.code != CaptureError.default_code or error.help is not None:
            raise
        host = Host(model)
        calls = [(tuple(args), given), *others]
        parts, eager = capture_parts(host, calls, error.message, dynamic=dynamic, store=weights)
        notes = [note for part in parts.values() for note in _notes(part)]
        warnings = [warning for part in parts.values() for warning in _warnings(part)]
        if dynamic:
            notes.insert(0, _NOT_FOLLOWED)
        return Captured(None, parts, host, tuple(eager), tuple(notes), tuple(warnings))
    return Captured(program, {}, None, (), tuple(_notes(program)), tuple(_warnings(program)))


def _check(model: nn.Module) -> None:
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise CaptureError(
            "the model is in training mode", code="MC0302", where=training or "the model itself",
            help="call model.eval() first: dropout and batch norm behave differently when training",
        )


def _notes(program: CapturedProgram) -> list[tuple[str, str, str]]:
    notes = [(program.path, remark, "") for remark in program.remarks]
    for (operator, reason), count in program.opaque.items():
        times = "" if count == 1 else f" ({count} times)"
        notes.append((program.path, f"{operator}{times} runs in torch: {reason}", ""))
    return notes


def _warnings(program: CapturedProgram) -> list[tuple[str, str, str]]:
    return [
        (".".join(p for p in (program.path, path) if p), f"the assertion is not checked: {message}",
         "check what you give to the model before calling it")
        for path, message in program.unchecked
    ]

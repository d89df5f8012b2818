"""Why a model refuses arguments: which module fails on them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from mcomp.errors import BudgetError, CaptureError, McompError

Call = tuple[tuple[Any, ...], dict[str, Any]]


def refusal(model: Any, example: Call, calls: Sequence[Call]) -> McompError | None:
    """The error that says why the model cannot run the example or one of the calibration `calls`; None when it can."""
    found = failing_module(model, *example)
    if found is not None:
        where, error = found
        return CaptureError(
            f"the model fails on the example arguments: {type(error).__name__}: {error}", code="MC0305", where=where,
            help="model(*args, **kwargs) must run as it is: check shapes and element types",
        )
    for index, call in enumerate(calls):
        found = failing_module(model, *call)
        if found is not None:
            where, error = found
            return BudgetError(
                f"the model fails on calibration batch {index}: {type(error).__name__}: {error}", code="MC0505",
                where=where, help="each item is a tuple of the model's arguments, shaped as in a call",
            )
    return None


def failing_module(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Exception] | None:
    """Run a copy of the model in eager mode: the path of the innermost module that raises, and what it raised."""
    import torch

    trial = copy.deepcopy(model)
    open_modules: list[str] = []
    for path, module in trial.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: open_modules.append(path))
        module.register_forward_hook(lambda *_: open_modules.pop() and None)
    try:
        with torch.no_grad():
            trial(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as e:
        inner = [path for path in open_modules if path]
        return (inner[-1] if inner else type(model).__name__), e
    return None

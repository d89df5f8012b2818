"""`mcomp.optimize`: the door that users come through."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from mcomp.capture.signature import Signature
from mcomp.errors import CallError, CaptureError, PassError
from mcomp.manager.context import matches
from mcomp.plan.settings import Settings
from mcomp.runtime.calibration import check_calls, collect_calls
from mcomp.runtime.compiled import CompiledModel

if TYPE_CHECKING:
    from torch import nn

    from mcomp.manager.passes import Pass


def optimize(
    model: nn.Module,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Any = None,
    target: str = "cpu",
    objective: Literal["latency", "size", "memory", "balanced"] = "latency",
    calibration: Iterable[Any] | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    max_drop: float | None = None,
    max_error: float | None = None,
    pipeline: str | Sequence[str | Pass] | Pass | None = None,
    layers: Mapping[str, Mapping[str, Any]] | None = None,
    exclude: Iterable[str] | None = None,
    threads: int | None = None,
    time_limit: float | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    instruments: Sequence[Any] = (),
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    students: Mapping[str, nn.Module] | None = None,
) -> CompiledModel:
    """Compile a trained model. Lossless unless a budget (or a pipeline that says so) allows loss.

    model: an nn.Module in eval mode. Its weights are copied; changing it later changes nothing.
    args, kwargs: example arguments; their shapes are what is optimized for. `args` is a tuple, or one tensor. Without
        them the model is captured at its first call, again, with symbolic sizes, when a call brings other sizes, and once
        more for each other structure, element type or rank (a few of them are kept).
    dynamic: which sizes are symbolic besides the batch (and what differs between calibration batches): argument paths to
        axes, with a name, a name and bounds, or None for one that stays as it is: `{"input_ids": {1: ("S", 1, 512)}}`, or
        just axes: `{"input_ids": [1]}`; True for all, False for none.
    target: a backend: "cpu", "cuda" (NVIDIA GPUs, with triton installed) or "reference".
    objective: what to improve: latency (bytes decide between choices that are nearly equal); size, that of the weights;
        memory: as size, since weights are most of what a compiled model holds; or balanced: a share of the bytes of int8
        counts as much as one of its time.
    calibration: unlabelled batches: an iterable of argument tuples, tensors or keyword dicts.
    evaluate: called with a module; returns a number, higher is better, or an array of per-sample scores.
    max_drop: how much `evaluate` may drop, in its own unit.
    max_error: how large the relative L2 error of the outputs on calibration (or example) inputs may be.
    pipeline: passes to run instead of the planned ones: text such as "quantize{bits=8}", passes, or a list of both.
    layers, exclude: options per layer and layers to leave alone, by module path pattern.
    threads: threads of the compiled model; None for all cores.
    time_limit: seconds after which the search stops and the best model so far is returned. With calibration data it also
        allows training without labels in the time that the search leaves.
    executor: spreads per-layer work over a concurrent.futures.Executor; a worker that dies costs its own layer only.
    progress: show a progress bar on a terminal, and a line every few seconds elsewhere.
    instruments: objects (see `mcomp.manager.Instrument`) that watch every pass that runs.
    seed: of whatever is drawn at random: the same seed and cost table give the same plan.
    resume: a folder in which the search keeps what it measured and made; the same call (with the same metric) goes on from
        there after it was killed.
    students: modules that may take the places of others, by module path ("": the whole model): one for each, or a list to
        choose from. One gets what the other gets, in order, and is trained without labels to give what that gives. The
        planner, which needs a `time_limit` for it, chooses whether, and which; a pipeline says
        `distill{region=path,student=given}`, with `number=1` for the second of a list.

    Returns a CompiledModel. A budget that cannot be met still returns the best model found, and the report says so.
    Raises CaptureError (training mode, arguments the model refuses), CallError (arguments that its forward does not have, or
    lacks), BudgetError (unusable calibration or evaluate), PassError (unknown pass or option), ParseError (text that is no
    pipeline), BackendError (an unknown target, or "cuda" on a machine without a GPU).

    >>> fast = mcomp.optimize(model, (x,), calibration=batches, evaluate=accuracy, max_drop=0.01)
    >>> print(fast.report())
    """
    settings = Settings(
        dynamic=dynamic, target=target, objective=objective, evaluate=evaluate, max_drop=max_drop, max_error=max_error,
        pipeline=pipeline, layers=layers or {}, exclude=() if exclude is None else exclude,  # type: ignore[arg-type]
        threads=threads, time_limit=time_limit, executor=executor, progress=progress, instruments=instruments, seed=seed,
        resume=resume, students=students or {},
    )
    settings.check()
    _check_model(model)
    _check_students(model, settings)
    _check_target(target)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise CaptureError(f"kwargs is {type(kwargs).__name__}", code="MC0303", help="pass a dict of keyword arguments")
    _check_patterns(model, (*settings.exclude, *settings.layers))
    if calibration is not None:
        settings = replace(settings, calibration=collect_calls(calibration))
        check_calls(settings.calibration or (), Signature.of(model.forward))
    if args is None and kwargs is None:
        return _captured_at_first_call(model, settings)
    from mcomp.plan.build import build

    try:
        built = build(model, _as_args(args), dict(kwargs or {}), settings)
    except (CallError, CaptureError) as e:
        if not isinstance(args, Mapping):
            raise
        hint = "args is a dict, which is one argument; keyword arguments go into kwargs=: optimize(model, kwargs=tokens)"
        raise type(e)(
            e.message, code=e.code, where=e.where, ir=e.ir, help=f"{hint}; {e.help}" if e.help else hint,
        ) from e
    return CompiledModel(built, target=target, original=model)


def _as_args(args: Any) -> tuple[Any, ...]:
    if args is None:
        return ()
    if isinstance(args, tuple):
        return args
    if isinstance(args, list):
        raise CaptureError("args is a list", code="MC0303", help="pass a tuple of the model's arguments, such as (x,)")
    return (args,)


def _check_model(model: Any) -> None:
    import torch

    if not isinstance(model, torch.nn.Module):
        raise CaptureError(
            f"optimize takes an nn.Module, not {type(model).__name__}", code="MC0301",
            help="pass the module itself; for a plain function, wrap it in a module",
        )
    training = next((name for name, m in model.named_modules() if m.training), None)
    if training is not None:
        raise CaptureError(
            "the model is in training mode", code="MC0302", where=training or "the model itself",
            help="call model.eval() first: dropout and batch norm behave differently when training",
        )


def _check_patterns(model: nn.Module, patterns: Iterable[str]) -> None:
    """Raise PassError for a pattern of `exclude` or `layers` that matches no module: most likely it is misspelt."""
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            close = difflib.get_close_matches(pattern, paths, n=1)
            raise PassError(
                f"no module matches {pattern!r}, which exclude or layers names", code="MC0212",
                help=f"did you mean {close[0]!r}?" if close else "model.named_modules() lists what there is",
            )


def _check_students(model: nn.Module, settings: Settings) -> None:
    """Raise PassError for a student of a module that there is not."""
    import torch

    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    for path, some in settings.students.items():
        odd = [student for student in some if not isinstance(student, torch.nn.Module)]
        if odd:
            raise PassError(f"the student of {path!r} is {type(odd[0]).__name__}, not an nn.Module", code="MC0222",
                            help=f"write students={{{path!r}: module}}, with a module that was made, not its class")
        if path not in paths:
            close = difflib.get_close_matches(path, paths, n=1)
            raise PassError(
                f"there is no module {path!r}, for which a student was given", code="MC0222",
                help=f"did you mean {close[0]!r}?" if close else "model.named_modules() lists what there is",
            )


def _check_target(target: str) -> None:
    from mcomp.backend import backend_named

    backend = backend_named(target)
    reason = None if backend.replaceable else backend.available()
    if reason is not None:
        from mcomp.runtime.choose import cannot_run

        raise cannot_run(backend, reason)


def _captured_at_first_call(model: nn.Module, settings: Settings) -> CompiledModel:
    from mcomp.plan.firstcall import FirstCall

    calls = FirstCall(model, settings)
    return CompiledModel(
        None, target=settings.target, original=model, compile_call=calls.first, recompile=calls.again
    )

"""Single techniques beside which the planner's front is shown, with int8 behind them: as they are written, or with as much
of one as a budget allows."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import models
from benchmarks.case import Case, tensors
from benchmarks.cpu import say
from benchmarks.peers.ours import INT8_PIPELINE

if TYPE_CHECKING:
    import mcomp

ANALYSED = 128
"""Calibration batches that errors are measured on; training takes all."""
TRIES = 5
"""Models that are made to find how much of a technique a budget allows."""
_LEAST = 0.05


def compressed(
    pipeline: str, case: Case, batches: Sequence[tuple[Any, ...]], options: argparse.Namespace
) -> mcomp.CompiledModel:
    """The case's model after a pipeline."""
    import mcomp

    return mcomp.optimize(
        case.build(), tensors(case.example), calibration=batches[: None if "distill" in pipeline else ANALYSED],
        pipeline=pipeline, threads=options.threads, dynamic=case.dynamic,
    )


def told_of(model: mcomp.CompiledModel, pipeline: str, begin: float) -> dict[str, Any]:
    """What is to be told of an artifact that was begun at a time of `time.perf_counter`."""
    rows = model.report().rows
    return {"pipeline": pipeline, "seconds": time.perf_counter() - begin, "operations": sum(r.flops for r in rows)}


def tuned(
    name: str, technique: str, case: Case, batches: Sequence[tuple[Any, ...]], options: argparse.Namespace, drop: float,
    evaluate: Callable[[Any], float],
) -> tuple[mcomp.CompiledModel, dict[str, Any]]:
    """A technique with int8 behind it, of which the least share that keeps the budget is left, by the metric that a search
    is given too, in a few steps of bisection; and what is to be told of it. `technique`: a pipeline with `SHARE` in it.

    Raises Unavailable where no share that was tried keeps the budget.
    """
    begin, whole = time.perf_counter(), evaluate(case.build())
    best: tuple[mcomp.CompiledModel, str] | None = None
    low, high, tries = _LEAST, 1.0, []
    for _ in range(TRIES):
        share = (low + high) / 2
        say(f"  {case.name}: {name}, {share:.2f} of it left")
        pipeline = f"{technique.replace('SHARE', f'{share:.3f}')},{INT8_PIPELINE}"
        model = compressed(pipeline, case, batches, options)
        lost = whole - evaluate(model)
        tries.append({"share": share, "lost": lost})
        if lost <= drop:
            best, high = (model, pipeline), share
        else:
            low = share
    if best is None:
        raise models.Unavailable(f"{case.name}: {name}: with {high:.2f} of it left, the budget broke still")
    return best[0], {**told_of(*best, begin), "tries": tries}

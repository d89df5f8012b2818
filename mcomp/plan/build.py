"""From a model and settings to something that runs: capture, clean up, spend the budget, compile, measure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mcomp.errors import BudgetError, McompError
from mcomp.plan.account import Before, befores_of, fill_report
from mcomp.plan.captured import Work
from mcomp.plan.diagnose import refusal
from mcomp.plan.progress import Progress
from mcomp.plan.search import search
from mcomp.plan.settings import Settings
from mcomp.plan.telling import Outcome, frontier, idle_options, number_of, outcome_of, report_of
from mcomp.plan.work import Version, Workshop
from mcomp.report.report import Report
from mcomp.runtime.calibration import calibration_from
from mcomp.runtime.compiled import Built

if TYPE_CHECKING:
    from mcomp.capture.signature import Signature

Call = tuple[tuple[Any, ...], dict[str, Any]]
_SHOWN = 8
"""Calls beside the example whose sizes capture looks at, at most."""


def build(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], settings: Settings, *, others: Sequence[Call] = ()
) -> Built:
    """Compile a model for example arguments. `others` are further calls whose sizes must fit too.

    Raises CaptureError or BudgetError, naming the module, when the model itself cannot run the example or a calibration
    batch.
    """
    try:
        return _build(model, args, kwargs, settings, others)
    except McompError:
        raise
    except Exception as e:
        refused = refusal(model, (args, kwargs), settings.calibration or ())
        if refused is None:
            raise
        raise refused from e


def _build(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], settings: Settings, others: Sequence[Call]
) -> Built:
    from mcomp.capture import capture

    watch = Stopwatch()
    calls = list(settings.calibration or ())
    with Progress(settings.progress) as progress:
        progress.step("capturing the model")
        shown = _telling(model, (args, kwargs), calls) if calls else []
        captured = capture(model, args, kwargs, dynamic=settings.dynamic, others=[*others, *shown])
        if captured.program is None:
            kept = "; ".join(f"{e.path or 'the whole model'}: {e.reason}" for e in captured.eager[:3])
            progress.note(f"parts of the model stay eager, so that it cannot be saved: {kept}")
        works = works_of(captured, calls, args, kwargs)
        watch.lap("capture")
        workshop = Workshop(model, captured, works, (args, kwargs), settings, progress)
        if workshop.evaluator is not None:
            workshop.judge_original()
            watch.lap("evaluating the original")
        lossless = workshop.lossless()
        watch.lap("lossless")
        chosen = _choose(workshop, lossless)
        watch.lap("search")
        _measure(workshop, lossless, chosen)
        front = frontier(workshop, chosen)
        outcome = outcome_of(workshop, captured, chosen)
        try:
            befores = befores_of(workshop, lossless, timed=any(v is not lossless for v in front))
            report = _report(outcome, befores, outcome.kept, chosen)
        except KeyboardInterrupt:
            outcome.report.notes.append("measuring layers was interrupted: they have no times")
            befores = befores_of(workshop, lossless, timed=False)
            report = _report(outcome, befores, outcome.kept, chosen, timed=False)
        watch.lap("measuring")
        report.seconds = watch.seconds
        for version in front:
            version.built.report_later(partial(_report, outcome, befores, number_of(workshop, version), version))
        built = chosen.built
        built.report = report
        built.frontier = front
        workshop.install(chosen)
        workshop.close()
        return built


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """What went by since the last lap was spent on this."""
        now = time.perf_counter()
        self.seconds[name] = now - self._since
        self._since = now


def _telling(model: Any, example: Call, calls: Sequence[Call]) -> list[Call]:
    """Calls that show which sizes vary, and which are not always equal: each one shows what those before it, the example
    first, do not; `_SHOWN` at most."""
    from mcomp.capture.signature import Signature

    signature = Signature.of(model.forward)
    seen = _sizes(signature, example)
    found: list[Call] = []
    for call in calls:
        sizes = _sizes(signature, call)
        after = {place: seen.get(place, ()) + sizes.get(place, ()) for place in {**seen, **sizes}}
        if any(x > y for x, y in zip(_shown(after), _shown(seen))):
            found.append(call)
            seen = after
        if len(found) == _SHOWN:
            break
    return found


def _shown(sizes: Mapping[Any, tuple[int, ...]]) -> tuple[int, int, int]:
    """How many axes there are, how many vary, and how many can be told apart."""
    return len(sizes), sum(len(set(some)) > 1 for some in sizes.values()), len(set(sizes.values()))


def _sizes(signature: Signature, call: Call) -> dict[Any, tuple[int, ...]]:
    """The size of every axis of every tensor in a call's arguments, however nested."""
    from mcomp.capture import structure

    leaves: list[Any] = []
    paths = structure.leaf_paths(structure.describe(signature.bind(*call), leaves))
    return {(paths.get(i), axis): (int(n),) for i, leaf in enumerate(leaves) for axis, n in enumerate(leaf.shape)}


def works_of(captured: Any, calls: Sequence[Call], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Work]:
    """What there is to compile, with its calibration data (the example call where none was given)."""
    used = list(calls) or [(args, dict(kwargs))]
    if captured.program is not None:
        program = captured.program
        try:
            calibration = calibration_from(
                used, program.signature, program.arguments, program.graph, given=bool(calls)
            )
        except BudgetError as e:
            raise _with_fixed_sizes(e, program.remarks) from e
        return [Work("", program, calibration)]
    inputs = captured.part_inputs(used) if captured.parts else {}
    missed = calls and any(not inputs.get(path) for path in captured.parts)
    example = captured.part_inputs([(args, dict(kwargs))]) if missed else {}
    return [
        Work(
            path, program,
            calibration_from(
                inputs.get(path) or example.get(path) or [], program.signature, program.arguments, program.graph,
                given=bool(calls and inputs.get(path)),
            ),
        )
        for path, program in captured.parts.items()
    ]


def _with_fixed_sizes(error: BudgetError, remarks: Sequence[str]) -> BudgetError:
    """The error with what capture says of sizes that it could not keep symbolic, if it says anything."""
    fixed = [r for r in remarks if "is fixed at" in r]
    if not fixed:
        return error
    return BudgetError(
        error.message, code=error.code, where=error.where, ir=error.ir,
        help=f"{fixed[0]}; where the model itself bounds a size, say so: dynamic={{'x': {{1: ('S', 1, 512)}}}}; "
        "else give all batches the size of the example",
    )


def _choose(workshop: Workshop, lossless: Version) -> Version:
    settings = workshop.settings
    workshop.warnings += idle_options(settings)
    if settings.pipeline is not None:
        asked = workshop.make("as asked", settings.pipeline)
        if settings.lossy:
            workshop.try_budget(asked)
        return asked
    return search(workshop, lossless) if settings.lossy else lossless


def _measure(workshop: Workshop, lossless: Version, chosen: Version) -> None:
    """Time all versions, and evaluate the chosen one. Where the user interrupted, or the time is up, only what is kept and
    the lossless version are timed; so they are where some other version cannot be."""
    workshop.progress.step("measuring")
    few = [lossless] if chosen is lossless else [lossless, chosen]
    hurried = workshop.interrupted or workshop.out_of_time()
    try:
        for versions in [few] if hurried else [workshop.versions, few]:
            if _measured(workshop, versions, last=versions is few):
                break
        if not workshop.interrupted:
            workshop.try_quality(chosen)
    except KeyboardInterrupt:
        workshop.interrupted = True
        workshop.warnings.append("measuring was interrupted: what is kept was not measured to the end")


def _measured(workshop: Workshop, versions: Sequence[Version], *, last: bool) -> bool:
    """Whether versions could be timed. `last`: raises what came instead, which is noted else."""
    try:
        workshop.measure(versions)
    except KeyboardInterrupt:
        if last:
            raise
        workshop.interrupted = True
        workshop.warnings.append("measuring was interrupted: some versions have no time, or that of an earlier race")
        return False
    except Exception as e:
        if last:
            raise
        workshop.warnings.append(f"some versions have no time: {type(e).__name__} while they were timed: {e}")
        return False
    return True


def _report(
    outcome: Outcome, befores: Sequence[Before], number: int, version: Version, *, timed: bool = True
) -> Report:
    """The report of a version, by its number among all; the first one is the lossless one."""
    report = report_of(outcome, number, version)
    compared = befores if number else [replace(before, times={}) for before in befores]
    fill_report(report, compared, version, threads=outcome.threads, timed=timed)
    report.remarks += [dict(remark) for remark in outcome.captured]
    return report

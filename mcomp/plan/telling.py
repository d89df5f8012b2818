"""What is told of a search: budgets, verdicts and notes in words, and the front."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mcomp.manager.pipeline import passes_of
from mcomp.plan.settings import Settings
from mcomp.plan.work import Version, Workshop
from mcomp.report.report import Eager, Report, Stage


def budget_text(settings: Settings) -> str:
    """The budget in words."""
    parts = []
    if settings.max_drop is not None:
        parts.append(f"evaluate drops at most {settings.max_drop:g}")
    if settings.max_error is not None:
        parts.append(f"output error at most {settings.max_error:g}")
    return " and ".join(parts)


def idle_options(settings: Settings) -> list[str]:
    """Sentences about options that do nothing in a call that has no use for them."""
    if settings.pipeline is not None:
        asked = {getattr(p, "region", "") for p in passes_of(settings.steps()) if getattr(p, "student", None) == "given"}
        return [
            f"the student of {path or 'the model'} was not used: a pipeline takes it by {_distill(path)}"
            for path in settings.students if path not in asked
        ]
    if settings.lossy:
        return []
    given = {"time_limit": settings.time_limit, "executor": settings.executor, "students": settings.students or None}
    names = [name for name, value in given.items() if value is not None]
    return [f"{', '.join(names)} did nothing: without a budget, max_drop or max_error, there is no search"] if names else []


def _distill(path: str) -> str:
    return f"distill{{{f'region={path},' if path else ''}student=given}}"


@dataclass(frozen=True)
class Outcome:
    """How a search ended, as plain data: what the reports of all versions say alike, so that these last longer than what was
    searched with. report: that of the version that was kept, without what is only of it; kept: its number among all. fits:
    whether any version keeps the budget. asked: whether the pipeline was asked for. captured: remarks of capturing."""

    report: Report
    kept: int
    fits: bool
    asked: bool
    threads: int | None
    captured: tuple[dict[str, str], ...] = ()


def outcome_of(workshop: Workshop, captured: Any, best: Version) -> Outcome:
    """What is to be told of a search that kept a version."""
    settings = workshop.settings
    report = Report(
        target=settings.target, objective=settings.objective, model=type(workshop.model).__name__,
        budget=budget_text(settings), notes=list(workshop.warnings), faults=list(workshop.faults),
        evaluations=list(workshop.evaluator.calls) if workshop.evaluator else [],
    )
    report.eager_modules = [Eager(e.path, e.reason, e.remedy) for e in captured.eager]
    report.stages = [Stage("original", quality=workshop.original_quality, error=None,
                           latency_ms=workshop.original_ms, weight_bytes=workshop.original_bytes)]
    report.stages += [
        Stage(v.name, v.quality, v.error, v.latency_ms, v.weight_bytes, _verdict(workshop, v, best), v is best)
        for v in workshop.versions
    ]
    return Outcome(
        report, number_of(workshop, best), any(v.within_budget for v in workshop.versions), settings.pipeline is not None,
        settings.threads, tuple(
            {"kind": kind, "rule": "capture", "layer": layer, "reason": reason, "remedy": remedy}
            for kind, remarks in (("note", captured.notes), ("warning", captured.warnings))
            for layer, reason, remedy in remarks
        ),
    )


def number_of(workshop: Workshop, version: Version) -> int:
    """The number of a version among all."""
    return next(number for number, v in enumerate(workshop.versions) if v is version)


def report_of(outcome: Outcome, number: int, version: Version) -> Report:
    """The report of a version: the one that was kept, or another that the user picked; without rows, ledger and remarks."""
    stages = [replace(stage) for stage in outcome.report.stages]
    if number != outcome.kept:
        own, kept = stages[1 + number], stages[1 + outcome.kept]
        own.kept, own.verdict = True, f"picked; {version.verdict}" if version.verdict else "picked"
        kept.kept, kept.verdict = False, "kept by the search"
    notes = list(outcome.report.notes)
    if version.speedup is not None and version.speedup < 0.98:
        notes.append(f"on the example arguments the compiled model is {1 / version.speedup:.2f}x slower than the original")
    if version.within_budget is False:
        notes.append(_missed(outcome, version, picked=number != outcome.kept))
    return replace(
        outcome.report, pipeline=version.pipeline, within_budget=version.within_budget, stages=stages, notes=notes,
        rows=[], ledger=[], remarks=[], evaluations=list(outcome.report.evaluations),
    )


def _verdict(workshop: Workshop, version: Version, best: Version) -> str:
    """Why a version was kept or not, in words."""
    if version is best:
        return "kept"
    if version.verdict or version is workshop.versions[0]:
        return version.verdict
    if version.within_budget:
        return f"within budget, but {best.name} is better"
    return f"not judged: {best.name} fits" if best.within_budget and not workshop.interrupted else "not judged"


def _missed(outcome: Outcome, version: Version, *, picked: bool) -> str:
    """That a version does not keep the budget, in words."""
    own = f"does not keep the budget ({version.verdict})" if version.verdict else "does not keep the budget"
    if outcome.fits:
        return f"this version {own}; others do"
    if outcome.asked:
        return "the budget could not be met by this pipeline"
    if not picked:
        return "the budget could not be met; this is the nearest version found"
    return f"the budget could not be met; this version {own}"


def frontier(workshop: Workshop, chosen: Version) -> list[Version]:
    """The chosen version, and those that were measured and that no other beats in quality, latency and bytes at once; in
    error, where one of the two was not evaluated."""
    measured = [v for v in workshop.versions if v.latency_ms is not None and v.error is not None]
    beaten = {id(v) for v in measured if any(_dominates(o, v) for o in measured if o is not v)}
    front = {id(v) for v in measured} - beaten | {id(chosen)}
    return [v for v in workshop.versions if id(v) in front]


def _losses(a: Version, b: Version) -> tuple[float, float]:
    """What two versions lose: by their qualities, where both have one, by the errors of their outputs else."""
    if a.quality is not None and b.quality is not None:
        return -a.quality, -b.quality
    return a.error or 0.0, b.error or 0.0


def _dominates(a: Version, b: Version) -> bool:
    losses = _losses(a, b)
    left = (losses[0], a.latency_ms or 0.0, a.weight_bytes)
    right = (losses[1], b.latency_ms or 0.0, b.weight_bytes)
    return all(x <= y for x, y in zip(left, right)) and left != right

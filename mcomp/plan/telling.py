"""What is told of a search: budgets, verdicts and notes in words, and the front."""

from __future__ import annotations

from mcomp.plan.settings import Settings
from mcomp.plan.work import Version, Workshop


def budget_text(settings: Settings) -> str:
    """The budget in words."""
    parts = []
    if settings.max_drop is not None:
        parts.append(f"evaluate drops at most {settings.max_drop:g}")
    if settings.max_error is not None:
        parts.append(f"output error at most {settings.max_error:g}")
    return " and ".join(parts)


def verdict(workshop: Workshop, version: Version, best: Version, chosen: Version) -> str:
    """Why a version was kept or not, in words. best: the one that the search kept; chosen: the one that the user picked, in
    whose report this is said (the same, where none was)."""
    if version is best:
        return "kept" if best is chosen else "kept by the search"
    if version is chosen:
        return f"picked; {version.verdict}" if version.verdict else "picked"
    if version.verdict or version is workshop.versions[0]:
        return version.verdict
    if version.within_budget:
        return f"within budget, but {best.name} is better"
    return f"not judged: {best.name} fits" if best.within_budget and not workshop.interrupted else "not judged"


def notes(workshop: Workshop, best: Version, chosen: Version) -> list[str]:
    """Sentences about the outcome; best, chosen: as in `verdict`."""
    out = list(workshop.warnings)
    if chosen.speedup is not None and chosen.speedup < 0.98:
        out.append(f"on the example arguments the compiled model is {1 / chosen.speedup:.2f}x slower than the original")
    if chosen.within_budget is False:
        out.append(_missed(workshop, best, chosen))
    return out


def _missed(workshop: Workshop, best: Version, chosen: Version) -> str:
    """That a version does not keep the budget, in words."""
    own = f"does not keep the budget ({chosen.verdict})" if chosen.verdict else "does not keep the budget"
    if any(v.within_budget for v in workshop.versions):
        return f"this version {own}; others do"
    if workshop.settings.pipeline is not None:
        return "the budget could not be met by this pipeline"
    if chosen is best:
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

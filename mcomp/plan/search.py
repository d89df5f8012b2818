"""Spending a budget: which compression, and which layers stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.errors import BudgetError
from mcomp.plan.work import Version, Workshop

CANDIDATES = (
    ("int8", "quantize{bits=8}"),
    ("int8, dynamic", "quantize{bits=8,activations=dynamic}"),
)
"""Pipelines tried, in order of preference."""


def search(workshop: Workshop, lossless: Version) -> Version:
    """The best version within the budget.

    Candidates are made, timed against the lossless version and kept only where they are faster (objective latency) or
    smaller (size, memory). The most promising one is judged; when it breaks the budget, the layers with the largest
    measured error go back to float, as few as a bisection needs. The lossless version is the answer when nothing fits.
    An evaluate that fails on the original is an error; failing later, it ends the search with the best version so far.
    """
    if workshop.settings.max_drop is not None:
        workshop.judge_original()
    best = lossless
    try:
        useful = _useful(workshop, lossless)
        for candidate, pipeline in useful:
            if workshop.within_budget(candidate):
                return candidate
            found = _retreat(workshop, candidate, pipeline, lossless)
            if found is not None:
                best = _better(workshop, found, best)
            if workshop.out_of_time():
                workshop.warnings.append("the time limit ended the search; this is the best version so far")
                break
    except BudgetError as e:
        workshop.warnings.append(f"the search ended early: {e.message}")
    except KeyboardInterrupt:
        workshop.warnings.append("the search was interrupted; this is the best version so far")
    if best is lossless:
        workshop.try_budget(lossless)
        workshop.warnings.append("no compressed version was within the budget and better than the lossless one")
    return best


def _useful(workshop: Workshop, lossless: Version) -> list[tuple[Version, str]]:
    """Candidates that are faster or smaller than the lossless version, fastest or smallest first."""
    found: list[tuple[float, Version, str]] = []
    for name, pipeline in CANDIDATES:
        if found and workshop.out_of_time():
            break
        version = workshop.make(name, pipeline)
        if not version.ledger():
            version.verdict = "it changes nothing"
            continue
        gain = _gain(workshop, version, lossless)
        if gain <= 1.0:
            version.verdict = _not_worth(workshop, gain)
            continue
        found.append((gain, version, pipeline))
    found.sort(key=lambda item: -item[0])
    return [(version, pipeline) for _, version, pipeline in found]


def _not_worth(workshop: Workshop, gain: float) -> str:
    measure = "the speed of" if workshop.settings.objective == "latency" else "as small as"
    return f"not worth it: {gain:.2f}x {measure} lossless"


def _gain(workshop: Workshop, version: Version, base: Version) -> float:
    speedup = workshop.faster(version, base)
    if workshop.settings.objective == "latency":
        return speedup
    return base.weight_bytes / max(1, version.weight_bytes)


def _retreat(workshop: Workshop, candidate: Version, pipeline: str, lossless: Version) -> Version | None:
    """The candidate with as few layers back in float as the budget needs, or None when that leaves no gain."""
    ranked = _sensitivity(candidate)
    low, high = 1, len(ranked) - 1
    found: Version | None = None
    while low <= high and not workshop.out_of_time():
        count = (low + high) // 2
        skip: dict[str, set[str]] = {}
        for rule, node in ranked[:count]:
            skip.setdefault(rule, set()).add(node)
        version = workshop.make(f"{candidate.name}, {count} of {len(ranked)} layers in float", pipeline, skip)
        if workshop.within_budget(version):
            found, high = version, count - 1
        else:
            low = count + 1
    gain = 0.0 if found is None else _gain(workshop, found, lossless)
    if found is not None and gain <= 1.0:
        found.verdict = _not_worth(workshop, gain)
        return None
    return found


def _sensitivity(version: Version) -> Sequence[tuple[str, str]]:
    """(rule, node) of the ledger, the largest measured error first."""
    entries = sorted(version.ledger(), key=lambda e: -e.error)
    return list(dict.fromkeys((e.rule, e.node) for e in entries))


def _better(workshop: Workshop, a: Version, b: Version) -> Version:
    return a if _gain(workshop, a, b) > 1.0 else b

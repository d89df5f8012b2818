"""Spending a budget: which compression, and which layers stay as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcomp.errors import BudgetError
from mcomp.plan.work import Version, Workshop

CANDIDATES = (
    ("int8", "quantize{bits=8}"),
    ("int8, dynamic", "quantize{bits=8,activations=dynamic}"),
)
"""Pipelines tried, in order of preference."""
TELLING = 1.15
"""A ratio of times that noise does not explain."""


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
    """Candidates that are faster or smaller than the lossless version, fastest or smallest first; those that differ by less
    than the clock can tell, in order of preference."""
    made: list[tuple[Version, str]] = []
    for name, pipeline in CANDIDATES:
        if made and workshop.out_of_time():
            break
        version = workshop.make(name, pipeline)
        if version.ledger():
            made.append((version, pipeline))
        else:
            version.verdict = "it changes nothing"
    gains = _gains(workshop, [v for v, _ in made], lossless)
    useful = [(gain, item) for gain, item in zip(gains, made) if _pays(workshop, item[0], gain)]
    return [item for _, item in sorted(useful, key=lambda pair: -round(math.log(pair[0]) / math.log(TELLING)))]


def _pays(workshop: Workshop, version: Version, gain: float) -> bool:
    if gain > 1.0:
        return True
    measure = "the speed of" if workshop.settings.objective == "latency" else "as small as"
    version.verdict = f"not worth it: {gain:.2f}x {measure} lossless"
    return False


def _gains(workshop: Workshop, versions: Sequence[Version], base: Version) -> list[float]:
    """How much better versions are than another one, in what the objective asks for."""
    speedups = workshop.speedups(versions, base) if versions else []
    if workshop.settings.objective == "latency":
        return speedups
    return [base.weight_bytes / max(1, v.weight_bytes) for v in versions]


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
    if found is None or not _pays(workshop, found, _gains(workshop, [found], lossless)[0]):
        return None
    return found


def _sensitivity(version: Version) -> Sequence[tuple[str, str]]:
    """(rule, node) of the ledger, the largest measured error first."""
    entries = sorted(version.ledger(), key=lambda e: -e.error)
    return list(dict.fromkeys((e.rule, e.node) for e in entries))


def _better(workshop: Workshop, a: Version, b: Version) -> Version:
    return a if _gains(workshop, [a], b)[0] > 1.0 else b

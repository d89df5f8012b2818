"""Retreating: a pipeline that breaks the budget, with as many layers back in float as the budget needs."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.plan.standing import Standing
from mcomp.plan.work import Version, Workshop


def retreat(workshop: Workshop, standing: Standing, candidate: Version, pipeline: str) -> bool:
    """Bisect how many layers, those with the largest measured errors first, go back to float; whether a version within the
    budget was found."""
    ranked = _sensitivity(candidate)
    low, high = 1, len(ranked) - 1
    found = False
    while low <= high and not workshop.out_of_time():
        count = (low + high) // 2
        skip: dict[str, set[str]] = {}
        for rule, node in ranked[:count]:
            skip.setdefault(rule, set()).add(node)
        version = workshop.make(f"{candidate.name}, {count} of {len(ranked)} layers in float", pipeline, skip)
        if standing.judge(version):
            found, high = True, count - 1
        else:
            low = count + 1
    return found


def _sensitivity(version: Version) -> Sequence[tuple[str, str]]:
    """(rule, node) of the ledger, the largest measured error first."""
    entries = sorted(version.ledger(), key=lambda e: -e.error)
    return list(dict.fromkeys((e.rule, e.node) for e in entries))

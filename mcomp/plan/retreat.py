"""Retreating: a pipeline that breaks the budget, with as many layers back in float as the budget needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mcomp.manager.passes import Pass
from mcomp.manager.pipeline import Step, parse_pipeline, pipeline_text
from mcomp.plan.standing import Standing
from mcomp.plan.work import Version, Workshop


def retreat(workshop: Workshop, standing: Standing, candidate: Version, pipeline: str) -> bool:
    """Bisect how many layers, those with the largest measured errors first, go back to float; whether a version within the
    budget was found. The pipeline of each names the layers that its passes leave."""
    steps = parse_pipeline(pipeline)
    ranked = _sensitivity(candidate, {s.name for s in steps if isinstance(s, Pass) and hasattr(s, "leave")})
    low, high = 1, len(ranked) - 1
    found = False
    while low <= high and not workshop.out_of_time():
        count = (low + high) // 2
        name = f"{candidate.name}, {count} of {len(ranked)} layers in float"
        version = workshop.make(name, pipeline_text(_leaving(steps, ranked[:count])))
        if standing.judge(version):
            found, high = True, count - 1
        else:
            low = count + 1
    return found


def _sensitivity(version: Version, rules: set[str]) -> Sequence[tuple[str, str]]:
    """(rule, node) of the ledger, the largest measured error first."""
    entries = sorted(version.ledger(), key=lambda e: -e.error)
    return list(dict.fromkeys((e.rule, e.node) for e in entries if e.rule in rules))


def _leaving(steps: Sequence[Step], left: Sequence[tuple[str, str]]) -> list[Step]:
    """Steps whose passes leave these nodes, by rule and name, alone."""
    found: list[Step] = []
    for step in steps:
        if isinstance(step, Pass) and hasattr(step, "leave"):
            names = tuple(node for rule, node in left if rule == step.name)
            step = dataclasses.replace(step, leave=(*step.leave, *names))  # type: ignore[type-var]
        found.append(step)
    return found

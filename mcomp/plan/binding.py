"""What binds a search, in words: where the budget broke, and what adds most to the error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcomp.plan.aim import Aim
from mcomp.plan.offers import Choice
from mcomp.plan.pricing import Pricing
from mcomp.plan.work import Version, Workshop

NO_TIME = "there was no time to try a plan without training: the survey took it; a longer time_limit helps"
_NAMED = 3


def binding(pricing: Pricing, aim: Aim, best: Choice, ended: bool) -> str | None:
    """What binds where the best choice keeps the budget. ended: whether everything was tried that seemed to pay."""
    sources = _sources(pricing, best)
    if not sources:
        return None
    if aim.broken is None:
        found = f"nothing that {'would pay' if ended else 'was tried'} broke the budget"
    else:
        found = f"the budget binds at an output error of about {aim.broken**0.5:.2g}"
    return f"without training {found}; most of the error comes from {sources}"


def nearest(workshop: Workshop, pricing: Pricing, attempts: Sequence[tuple[Choice, Version]]) -> str | None:
    """What binds where no choice is the best: of those that do not keep the budget the one with the least error. None where
    one keeps it, or none was judged."""
    judged = [(v.error, v, choice) for choice, v in attempts if v.within_budget is not None and v.error is not None]
    if not judged or any(version.within_budget for _, version, _ in judged):
        return None
    error, version, choice = min(judged, key=lambda item: item[0])
    load, sources = workshop.load(version), _sources(pricing, choice)
    share = f"takes {load:.0%} of it" if math.isfinite(load) else "breaks it"
    return (
        f"without training no choice kept the budget: {version.name}, with the least output error ({error:.2g}), {share}"
        + (f"; most of that error comes from {sources}" if sources else "")
    )


def _sources(pricing: Pricing, choice: Choice) -> str:
    """The groups that most of a choice's error is expected to come from, with their shares."""
    errors = pricing.errors_by_group(choice)
    total = sum(errors)
    if not 0.0 < total < math.inf:
        return ""
    most = sorted(range(len(errors)), key=lambda g: -errors[g])[:_NAMED]
    return ", ".join(f"{pricing.catalog.groups[g].key} ({errors[g] / total:.0%})" for g in most if errors[g] > 0)

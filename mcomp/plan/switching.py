"""Switching levels of single groups, to see on the real loss what they add: what is expected of the group is corrected."""

from __future__ import annotations

import math
from collections.abc import Callable

from mcomp.plan.look import Looks
from mcomp.plan.offers import Catalog, Choice
from mcomp.plan.pricing import Pricing

TRUST = 10.0
"""By how much an estimate may be off, at most."""
_TELLING = 0.02
"""What a level must be expected to add, as a share of what is there without it, to be told apart from noise."""


def tighten(
    pricing: Pricing, best: Choice, whole: float, measure: Callable[[Choice], float], late: Callable[[], bool], count: int
) -> bool:
    """Switch `count` groups of a choice back by a level, those first that are expected to add most; whether there was time.
    whole: the squared error of the outputs; measure: that of another choice."""
    errors = pricing.errors_by_group(best)
    order = sorted((g for g, level in enumerate(best) if level), key=lambda g: -errors[g])
    for g in order[:count]:
        if late():
            return False
        other = stricter(pricing.catalog, g, best)
        gained = errors[g] - pricing.errors_by_group(other)[g]
        if gained > 0.0:
            _correct(pricing, g, (whole - measure(other)) / gained)
    return True


def loosen(
    looks: Looks, best: Choice, whole: float, measure: Callable[[Choice], float], late: Callable[[], bool], count: int
) -> None:
    """Switch `count` other groups of a choice a level further, those first that are expected to add least: what is expected
    to add too much is never chosen, nor measured. whole, measure: as in `tighten`."""
    pricing = looks.pricing
    errors, further = pricing.errors_by_group(best), []
    for g in range(len(errors)):
        other = looser(pricing.catalog, g, best)
        if other is None or g in pricing.correction.groups or not looks.is_possible(other):
            continue
        changed = [new - old for new, old in zip(pricing.errors_by_group(other), errors)]
        added = changed.pop(g)
        if added > _TELLING * whole:
            further.append((added, g, other, sum(changed)))
    for added, g, other, rest in sorted(further)[:count]:
        if late():
            return
        _correct(pricing, g, (measure(other) - whole - rest) / added)


def stricter(catalog: Catalog, group: int, choice: Choice) -> Choice:
    """The choice with the level of one group whose error is the next smaller."""
    options = catalog.groups[group].options
    own = options[choice[group]].error
    level = max((i for i, o in enumerate(options) if o.error < own), key=lambda i: options[i].error, default=0)
    return (*choice[:group], level, *choice[group + 1 :])


def looser(catalog: Catalog, group: int, choice: Choice) -> Choice | None:
    """The choice with the level of one group whose error is the next larger; None where there is none."""
    options = catalog.groups[group].options
    own = options[choice[group]].error
    larger = [i for i, o in enumerate(options) if own < o.error < math.inf]
    if not larger:
        return None
    return (*choice[:group], min(larger, key=lambda i: options[i].error), *choice[group + 1 :])


def _correct(pricing: Pricing, group: int, real: float) -> None:
    pricing.correction.groups[group] = min(TRUST, max(1 / TRUST, real))

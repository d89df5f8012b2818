"""What each kind of level really adds to the error: measured by itself, before anything is chosen by sums of estimates.

A whole model in which several kinds are wrong at once says only that their sum is off. One in which all layers are in int8
but for the levels of one kind says what that kind is off by.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mcomp.plan.offers import Catalog, Choice
from mcomp.plan.pricing import Pricing

TRUST = 30.0
"""By how much an estimate may be off, at most."""
_LEAST = 0.02
"""What a kind must be expected to add, as a share of what is there without it, to be measured."""


def alone(catalog: Catalog, choice: Choice, kind: str) -> Choice:
    """A choice's levels of one kind, and the plain ones of all other groups."""
    return tuple(
        level if group.options[level].kind == kind else plain
        for group, level, plain in zip(catalog.groups, choice, catalog.plain, strict=True)
    )


def settle_kinds(
    pricing: Pricing, choice: Choice, measure: Callable[[Choice], float], late: Callable[[], bool], leave: frozenset[str]
) -> None:
    """Correct the kinds of a choice's levels, but for those to `leave`, by what each adds alone. `measure(choice)` gives the
    squared error of the outputs. Does nothing where there is one kind only: the whole tells as much; nor where the plain
    choice gives outputs that are not finite."""
    catalog = pricing.catalog
    ours = {g.options[level].kind for g, level, plain in zip(catalog.groups, choice, catalog.plain) if level != plain}
    kinds = sorted(ours - leave)
    if len(ours) < 2 or late():
        return
    base, known = measure(catalog.plain), pricing.error(catalog.plain)
    if not math.isfinite(base + known):
        return
    for kind in kinds:
        if late():
            return
        single = alone(catalog, choice, kind)
        expected = pricing.error(single) - known
        if single == catalog.plain or expected <= _LEAST * known:
            continue
        found = max(measure(single) - base, expected / TRUST)
        ratio = min(TRUST, max(1 / TRUST, found / expected))
        pricing.correction.kinds[kind] = pricing.correction.kinds.get(kind, 1.0) * ratio

"""What kinds of levels add alone, on the made-up catalog of the tests of pricing."""

from __future__ import annotations

import pytest

from mcomp.plan.blame import TRUST, alone, settle_kinds
from mcomp.plan.offers import Choice
from mcomp.plan.pricing import Pricing
from tests.plan.test_pricing import Chain

MIXED: Choice = (2, 1, 2, 1, 1, 1)
"""Narrower, one layer in fewer bits, and without the branch."""
NOTHING: frozenset[str] = frozenset()


def real(factors: dict[str, float], asked: list[Choice]):
    """The error of a choice where estimates of kinds are off by factors."""
    catalog, pricing = Chain(), Pricing(Chain(), "size", None, {})

    def measure(choice: Choice) -> float:
        asked.append(choice)
        errors = pricing.errors_by_group(choice)
        return sum(
            e * factors.get(g.options[level].kind, 1.0) for e, g, level in zip(errors, catalog.groups, choice)
        )

    return measure


def test_one_kind_alone() -> None:
    assert alone(Chain(), MIXED, "width") == (2, 1, 1, 1, 1, 0)
    assert alone(Chain(), MIXED, "branch") == (0, 0, 1, 1, 1, 1)
    assert alone(Chain(), MIXED, "bits") == (0, 0, 2, 1, 1, 0)


def test_each_kind_is_corrected_by_what_it_adds() -> None:
    pricing, asked = Pricing(Chain(), "size", None, {}), []
    measure = real({"width": 0.2, "branch": 5.0}, asked)
    settle_kinds(pricing, MIXED, measure, lambda: False, NOTHING)
    assert pricing.correction.kinds["width"] == pytest.approx(0.2, rel=0.02)
    assert pricing.correction.kinds["branch"] == pytest.approx(5.0, rel=0.02)
    assert pricing.error(MIXED) == pytest.approx(measure(MIXED), rel=0.05)
    assert len(asked) == 5


def test_what_is_left_alone() -> None:
    """One kind only, kinds that train, and everything when it is late. No correction goes beyond what is trusted."""
    pricing, asked = Pricing(Chain(), "size", None, {}), []
    settle_kinds(pricing, (2, 1, 1, 1, 1, 0), real({}, asked), lambda: False, NOTHING)
    settle_kinds(pricing, MIXED, real({}, asked), lambda: True, NOTHING)
    assert not asked and not pricing.correction.kinds
    settle_kinds(pricing, MIXED, real({"width": 1e4}, asked), lambda: False, frozenset({"branch"}))
    assert pricing.correction.kinds["width"] == TRUST and "branch" not in pricing.correction.kinds


def test_outputs_that_are_not_finite_blame_no_kind() -> None:
    """Not those of the plain choice, from which others would be told; one kind's own, to the utmost."""
    pricing, measure = Pricing(Chain(), "size", None, {}), real({}, [])
    settle_kinds(pricing, MIXED, lambda choice: float("inf"), lambda: False, NOTHING)
    assert not pricing.correction.kinds

    def narrow(choice: Choice) -> float:
        return float("inf") if choice[0] else measure(choice)

    settle_kinds(pricing, MIXED, narrow, lambda: False, NOTHING)
    assert pricing.correction.kinds["width"] == TRUST
    assert pricing.correction.kinds["branch"] == pytest.approx(1.0, rel=0.02)

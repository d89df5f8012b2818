"""Refining on the real loss, on the made-up catalog of the tests of pricing: what one group really adds is found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from mcomp.plan.look import Looks
from mcomp.plan.offers import Choice
from mcomp.plan.planner import Planner
from mcomp.plan.pricing import Pricing
from tests.plan.test_pricing import Chain

TARGET = 0.03


@dataclass
class Shop:
    """A workshop and a standing in which single groups add so many times what is expected of them."""

    factors: dict[int, float]
    limit: float | None = None
    target: float = TARGET
    works: tuple[Any, ...] = (None,)
    made: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    best: Any = None

    def __post_init__(self) -> None:
        self.expected = Pricing(Chain(), "size", None, {})
        self.settings = SimpleNamespace(time_limit=self.limit, max_error=None)
        self.progress = SimpleNamespace(step=lambda text: None)

    def error(self, pipeline: str) -> float:
        errors = self.expected.errors_by_group(tuple(map(int, pipeline.split(","))))
        return sum(self.factors.get(g, 1.0) * e for g, e in enumerate(errors))

    def trial_error(self, work: None) -> Any:
        def measure(pipeline: str) -> float:
            self.looked.append(pipeline)
            return float(self.error(pipeline) ** 0.5)

        return measure

    def make(self, name: str, pipeline: str, *, hurry: bool = False) -> Any:
        self.made.append(pipeline)
        return SimpleNamespace(name=name, pipeline=pipeline)

    def judge_error(self, version: Any) -> float:
        return float(self.error(version.pipeline) ** 0.5)

    def load(self, version: Any) -> float:
        return self.error(version.pipeline) / self.target

    def judge(self, version: Any) -> bool:
        fits = self.load(version) <= 1.0
        self.best = version if fits else self.best
        return fits

    def seconds_left(self, share: float = 1.0) -> float | None:
        return None if self.limit is None else self.limit * share

    def out_of_time(self, share: float = 1.0) -> bool:
        return False


def switched(shop: Shop) -> tuple[Planner, Choice]:
    """A planner after switching, and the choice that it began with: the best as things were known."""
    planner: Any = Planner(shop, shop, None)  # type: ignore[arg-type]
    planner.catalog = Chain()
    planner.pricing = Pricing(planner.catalog, "size", None, {})
    planner.looks = Looks(planner.pricing, lambda pipeline: 0.0)
    start = planner.best = planner.pricing.best(shop.target, planner.catalog.plain)
    pipeline = planner.catalog.pipeline(start)
    planner.tried[pipeline] = SimpleNamespace(name="plan 1", pipeline=pipeline)
    planner.aim.add(shop.target, 0.5)
    planner.looks.learn(start, shop.error(pipeline))
    planner._switch()
    return planner, start


def test_a_group_whose_estimate_is_wrong_is_corrected_and_another_choice_made() -> None:
    """The widths of the first layer add a fifth of what is expected of them."""
    shop = Shop({0: 0.2})
    planner, start = switched(shop)
    assert start[0] > 0
    assert planner.pricing.correction.groups[0] == pytest.approx(0.2)
    assert all(f == pytest.approx(1.0) for g, f in planner.pricing.correction.groups.items() if g != 0)
    (made,) = shop.made
    assert made == planner.catalog.pipeline(planner.best) != planner.catalog.pipeline(start)
    assert shop.error(made) == pytest.approx(planner.pricing.error(planner.best))
    assert shop.error(made) <= TARGET
    assert planner.best[0] > start[0]
    assert planner.pricing.cost(planner.best).nbytes < planner.pricing.cost(start).nbytes


def test_what_would_cost_more_than_the_best_is_not_made() -> None:
    """They add four times as much: the budget holds all the same."""
    shop = Shop({0: 4.0})
    planner, start = switched(shop)
    assert planner.pricing.correction.groups[0] == pytest.approx(4.0)
    assert planner.best == start and not shop.made


def test_where_estimates_are_right_nothing_is_made() -> None:
    shop = Shop({})
    planner, start = switched(shop)
    assert len(shop.looked) > 2 and not shop.made
    assert planner.best == start


@pytest.mark.parametrize("limit", [None, 600.0])
def test_where_time_is_left_levels_that_were_not_chosen_are_looked_at(limit: float | None) -> None:
    """Without its branch the model loses a tenth of what is expected."""
    shop = Shop({5: 0.1}, limit, target=0.036)
    planner, start = switched(shop)
    assert start[5] == 0
    if limit is None:
        assert 5 not in planner.pricing.correction.groups and not shop.made
        return
    assert planner.pricing.correction.groups[5] == pytest.approx(0.1)
    (made,) = shop.made
    assert planner.best[5] == 1 and planner.catalog.pipeline(planner.best) == made
    assert shop.error(made) <= shop.target
    assert planner.pricing.cost(planner.best).nbytes < planner.pricing.cost(start).nbytes

"""Whether a version keeps the budget, and what of it it takes."""

from __future__ import annotations

from typing import Any

import pytest

from mcomp.errors import BudgetError
from mcomp.plan.aim import Aim
from mcomp.plan.quality import Evaluator
from mcomp.plan.standing import Standing
from mcomp.plan.work import Version, Workshop
from tests.api.models import batches, wide
from tests.plan.shops import shop_of


def judged(score: float, max_drop: float = 0.01, **options: Any) -> tuple[Workshop, Version]:
    """A version whose score is given; that of the original is 0.9."""
    results = {True: 0.9, False: score}
    shop = shop_of(wide(), batches(1)[0], calibration=batches(), max_drop=max_drop,
                   objective="size", evaluate=lambda model: results[model is shop.model], **options)
    version = shop.lossless()
    shop.within_budget(version)
    return shop, version


def test_a_budget_that_is_hit_exactly_is_kept_whoever_asks() -> None:
    """0.9 - 0.89 is a little more than 0.01."""
    shop, version = judged(0.89)
    assert 0.9 - 0.89 > 0.01
    assert version.within_budget is True
    assert shop.load(version) == 1.0
    aim = Aim()
    aim.add(0.01, shop.load(version))
    assert (aim.within, aim.broken) == (0.01, None)


@pytest.mark.parametrize(("score", "load"), [(0.895, 0.5), (0.88, 2.0), (0.91, -1.0)])
def test_what_is_lost_is_a_share_of_the_budget(score: float, load: float) -> None:
    shop, version = judged(score)
    assert version.within_budget is (load <= 1.0)
    assert shop.load(version) == pytest.approx(max(0.0, load))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_over_any_budget(score: float) -> None:
    shop, version = judged(score)
    assert version.within_budget is False and version.quality is None
    assert shop.load(version) == float("inf")


def test_a_version_that_evaluate_fails_on_counts_as_over_budget_once() -> None:
    """Two in a row end the search; one in between that can be judged starts the count anew."""
    shop, version = judged(0.9)
    failing, again = shop.make("a", "quantize{bits=8}"), shop.make("b", "quantize{bits=4}")
    standing, good = Standing(shop, version), shop.evaluator

    def fail(model: Any) -> float:
        raise ValueError("one class only")

    shop.evaluator = Evaluator(fail)
    assert standing.judge(failing) is False
    assert failing.verdict == "not judged: evaluate raised ValueError on a: one class only"
    assert shop.load(failing) == float("inf")
    shop.evaluator, version.within_budget, version.score = good, None, None
    standing.judge(version)
    shop.evaluator = Evaluator(fail)
    assert standing.judge(again) is False
    with pytest.raises(BudgetError, match="one class only"):
        standing.judge(shop.make("c", "quantize{bits=8,activations=dynamic}"))

"""What is tried first, and what the planner takes it for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mcomp.plan import search
from mcomp.plan.look import Looks
from mcomp.plan.planner import Planner
from mcomp.plan.pricing import Pricing
from mcomp.plan.search import CANDIDATES, TELLING
from tests.plan.test_pricing import Chain

STATIC, DYNAMIC = (name for name, _ in CANDIDATES)


def shop(gains: dict[str, float]) -> Any:
    """A workshop whose versions are so many times smaller than the lossless one."""
    made = {
        name: SimpleNamespace(name=name, weight_bytes=1e6 / gain, ledger=lambda: ["entry"], within_budget=None, verdict="")
        for name, gain in {"lossless": 1.0, **gains}.items()
    }
    return SimpleNamespace(
        make=lambda name, pipeline: made[name], out_of_time=lambda: False, warnings=[], made=made,
        settings=SimpleNamespace(objective="size"), speedups=lambda versions, base: [1.0] * len(versions),
    )


def order(gains: dict[str, float]) -> list[str]:
    workshop = shop(gains)
    return [version.name for version, _ in search._useful(workshop, workshop.made["lossless"])]


@pytest.mark.parametrize("edge", [TELLING**0.5, TELLING**3.5, TELLING**4])
def test_what_differs_by_noise_only_comes_in_the_order_of_preference(edge: float) -> None:
    assert order({STATIC: 0.995 * edge, DYNAMIC: 1.005 * edge}) == [STATIC, DYNAMIC]
    assert order({STATIC: 1.005 * edge, DYNAMIC: 0.995 * edge}) == [STATIC, DYNAMIC]


def test_what_is_clearly_better_comes_first() -> None:
    assert order({STATIC: 2.0, DYNAMIC: 2.4}) == [DYNAMIC, STATIC]
    assert order({STATIC: 0.9, DYNAMIC: 2.4}) == [DYNAMIC]


@pytest.mark.parametrize(("gains", "given"), [
    ({STATIC: 2.0, DYNAMIC: 2.0}, STATIC), ({STATIC: 2.0, DYNAMIC: 4.0}, None), ({STATIC: 0.9, DYNAMIC: 4.0}, None),
])
def test_only_what_the_first_pipeline_made_is_the_plain_choice(
    monkeypatch: pytest.MonkeyPatch, gains: dict[str, float], given: str | None
) -> None:
    seen: list[Any] = []

    def planner(workshop: Any, standing: Any, int8: Any) -> Any:
        seen.append(int8)
        return SimpleNamespace(run=lambda: None)

    workshop = shop(gains)
    standing = SimpleNamespace(best=workshop.made["lossless"], judge=lambda version: True)
    monkeypatch.setattr(search, "Planner", planner)
    monkeypatch.setattr(search, "retreat", lambda *args: False)
    monkeypatch.setattr(search, "offered", lambda workshop: None)
    search._search(workshop, standing)  # type: ignore[arg-type]
    assert [None if v is None else v.name for v in seen] == [given]


@pytest.mark.parametrize("kept", [True, False])
def test_int8_is_the_best_choice_only_where_it_was_kept(kept: bool) -> None:
    """It may keep the budget and still be slower than the lossless version."""
    int8 = SimpleNamespace(within_budget=True)
    workshop = SimpleNamespace(works=(None,), judge_error=lambda version: 0.02, load=lambda version: 0.3)
    planner = Planner(workshop, SimpleNamespace(best=int8 if kept else None), int8)  # type: ignore[arg-type]
    planner.catalog = Chain()
    planner.pricing = Pricing(planner.catalog, "size", None, {})
    planner.looks = Looks(planner.pricing, lambda pipeline: 0.0)
    planner._learn_from_int8()
    assert planner.best == (planner.catalog.plain if kept else None)
    assert planner.aim.attempts == [(pytest.approx(4e-4), 0.3)]

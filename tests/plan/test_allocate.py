"""Allocation finds what trying everything finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.plan.allocate import Level, pareto

NUMBERS = st.integers(0, 12).map(float)
GROUPS = st.lists(st.lists(st.builds(Level, st.just("x"), NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(groups=GROUPS, budget=st.integers(0, 60).map(float))
def test_it_is_as_good_as_trying_everything(groups: list[list[Level]], budget: float) -> None:
    fitting = [
        sum(x.cost for x in chosen) for chosen in itertools.product(*groups) if sum(x.error for x in chosen) <= budget
    ]
    found = pareto(groups).within(budget)
    assert (found is None) == (not fitting)
    if found is None:
        return
    assert found.cost == min(fitting)
    taken = [levels[i] for levels, i in zip(groups, found.choice, strict=True)]
    assert (found.error, found.cost) == (sum(x.error for x in taken), sum(x.cost for x in taken))


@settings(max_examples=150, deadline=None)
@given(groups=GROUPS, budget=st.integers(0, 60).map(float))
def test_what_is_beyond_the_budget_goes_at_once_and_changes_nothing(groups: list[list[Level]], budget: float) -> None:
    whole, cut = pareto(groups), pareto(groups, most=budget)
    assert [(p.error, p.cost) for p in cut] == [(p.error, p.cost) for p in whole if p.error <= budget]
    found, other = whole.within(budget), cut.within(budget)
    assert (None if found is None else (found.error, found.cost)) == (None if other is None else (other.error, other.cost))


def test_a_budget_leaves_the_grid_to_what_is_within_it() -> None:
    """Points beyond it take none of those that there may be."""
    rng = np.random.default_rng(2)
    groups = [[Level("f32", 0.0, 10.0), *(Level("x", float(e), float(c)) for e, c in rng.uniform(0.01, 5.0, (4, 2)))]
              for _ in range(30)]
    exact, near, blind = (pareto(groups, **o).within(2.0) for o in ({}, {"limit": 100, "most": 2.0}, {"limit": 100}))
    assert exact is not None and near is not None and blind is not None
    assert exact.cost <= near.cost < blind.cost


@given(groups=GROUPS)
def test_no_point_beats_another(groups: list[list[Level]]) -> None:
    points = list(pareto(groups))
    for before, after in itertools.pairwise(points):
        assert before.error < after.error and before.cost > after.cost


def test_a_long_front_is_thinned_and_stays_near_the_best() -> None:
    rng = np.random.default_rng(0)
    groups = [[Level("f32", 0.0, 10.0), *(Level("x", float(e), float(c)) for e, c in rng.uniform(0.01, 5.0, (4, 2)))]
              for _ in range(30)]
    whole, thin = pareto(groups), pareto(groups, limit=300)
    assert len(thin) < 400 < len(whole)
    for budget in (1.0, 5.0, 20.0):
        best, near = whole.within(budget), thin.within(budget)
        assert best is not None and near is not None and near.cost <= 1.05 * best.cost
    assert thin[0].error == whole[0].error == 0.0


def test_bad_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="group 1 has no levels"):
        pareto([[Level("a", 0.0, 1.0)], []])
    with pytest.raises(ValueError, match="int4 has error nan"):
        pareto([[Level("int4", float("nan"), 1.0)]])

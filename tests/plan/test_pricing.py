"""Pricing: the best choice by the additive model, on a made-up catalog whose costs multiply."""

import dataclasses
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from mcomp.ir.graph import Graph
from mcomp.plan.offers import Catalog, Choice, Group, Option
from mcomp.plan.pricing import Pricing
from mcomp.plan.standing import Standing

SHARES = (1.0, 0.75, 0.5, 0.25)
BITS = (32, 8, 4)


class Chain(Catalog):
    """Three layers between widths that two of them share; a branch that takes the last layer away."""

    def __init__(self) -> None:
        widths = [
            Group(f"d{i}", tuple(Option(str(s), (1 - s) ** 2 * scale, "width") for s in SHARES))
            for i, scale in enumerate((0.1, 0.02))
        ]
        layers = [
            Group(f"l{i}", tuple(Option(str(b), e, "bits") for b, e in zip(BITS, (0.0, 1e-4, 5e-3))), (5,) if i == 2 else ())
            for i in range(3)
        ]
        branch = Group("b", (Option("kept", 0.0, "branch"), Option("gone", 0.08, "branch")))
        self.groups = (*widths, *layers, branch)
        self.touching = ((0, 2), (0, 1, 3), (1, 4, 5))
        self.plain: Choice = (0, 0, 1, 1, 1, 0)

    def nbytes(self, index: int, choice: Choice) -> int:
        a, b = SHARES[choice[0]], SHARES[choice[1]]
        if index == 2 and choice[5]:
            return 0
        return round((a, a * b, b)[index] * (1000, 4000, 800)[index] * BITS[choice[2 + index]] / 32)

    def operations(self, index: int, choice: Choice) -> tuple[str, float]:
        return "", 0.0

    def pieces(self, index: int, choice: Choice) -> tuple[Graph, ...]:
        return ()

    def pipeline(self, choice: Choice) -> str:
        return ",".join(map(str, choice))


@pytest.fixture
def pricing() -> Pricing:
    return Pricing(Chain(), "size", None, {})


def choices() -> list[Choice]:
    return list(product(range(4), range(4), range(3), range(3), range(3), range(2)))


@pytest.mark.parametrize("budget", [1e-5, 2e-4, 3e-3, 0.02, 0.1, 0.3])
def test_the_best_choice_is_within_a_few_percent_of_all_tried(pricing: Pricing, budget: float) -> None:
    found = pricing.best(budget, pricing.catalog.plain)
    assert pricing.error(found) <= budget * (1 + 1e-9)
    fitting = [c for c in choices() if pricing.error(c) <= budget]
    least = min(pricing.cost(c).nbytes for c in fitting)
    assert pricing.cost(found).nbytes <= 1.1 * least


class Lasting(Chain):
    """Of rounding, training leaves much."""

    lasting = {"bits": 8.0}


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05, 0.08])
def test_where_training_follows_errors_that_it_leaves_count_for_more(budget: float) -> None:
    pricing = Pricing(Lasting(), "size", None, {})
    alone, trained = pricing.best(budget, Lasting().plain), pricing.best_trained(budget, Lasting().plain)
    shares = [sum(e for e, kind in zip(pricing.errors_by_group(c), pricing.kinds(c)) if kind == "bits") / pricing.error(c)
              for c in (alone, trained)]
    assert shares[1] < shares[0] and pricing.error(trained) < 1.5 * budget
    assert Pricing(Chain(), "size", None, {}).best_trained(budget, Chain().plain) == alone


def test_the_same_budget_gives_the_same_choice() -> None:
    first, second = (Pricing(Chain(), "size", None, {}).best(0.02, Chain().plain) for _ in range(2))
    assert first == second


def test_what_a_branch_takes_away_adds_no_error(pricing: Pricing) -> None:
    assert pricing.error((0, 0, 0, 0, 2, 1)) == pytest.approx(0.08)
    assert pricing.cost((0, 0, 0, 0, 2, 1)).nbytes == 5000


def test_kinds_that_were_never_measured_are_corrected(pricing: Pricing) -> None:
    pricing.learn((0, 0, 1, 1, 1, 0), 6e-4)
    assert pricing.error((0, 0, 1, 1, 1, 0)) == pytest.approx(6e-4)
    pricing.learn((1, 0, 1, 1, 1, 0), 0.0131)
    assert pricing.error((1, 0, 1, 1, 1, 0)) == pytest.approx(0.0131)
    assert pricing.error((0, 0, 1, 1, 1, 0)) == pytest.approx(6e-4)
    assert pricing.correction.kinds["width"] == pytest.approx(2.0)


def test_a_correction_changes_what_is_best(pricing: Pricing) -> None:
    before = pricing.best(0.02, pricing.catalog.plain)
    assert before[0] or before[1]
    pricing.learn((2, 2, 0, 0, 0, 0), 30.0)
    after = pricing.best(0.02, pricing.catalog.plain)
    assert after[:2] == (0, 0)
    assert any(after[2:5])


def test_corrections_do_not_depend_on_how_texts_are_hashed() -> None:
    """Sums of floats depend on their order: it is that of the groups."""
    errors = [1.0 / (3 * i + 7) ** (i % 5) for i in range(200)]
    groups = tuple(Group(f"g{i}", (Option("", 0.0, f"k{i}"), Option("", e, f"k{i}"))) for i, e in enumerate(errors))
    catalog: Any = SimpleNamespace(groups=groups, touching=(), plain=(0,) * 200)
    pricing = Pricing(catalog, "size", None, {})
    pricing.learn((1,) * 200, 1.0)
    assert set(pricing.correction.kinds.values()) == {1.0 / sum(errors)}


def test_a_measured_error_of_nothing_teaches_nothing(pricing: Pricing) -> None:
    pricing.learn(pricing.catalog.plain, 0.0)
    pricing.learn(pricing.untouched, 0.5)
    assert not pricing.correction.kinds


def test_outputs_that_are_not_finite_teach_nothing(pricing: Pricing) -> None:
    for measured in (float("inf"), float("nan"), 0.0):
        pricing.learn((2, 1, 2, 1, 1, 1), measured)
    assert not pricing.correction.kinds


class Broken(Chain):
    """Some levels give outputs that are not finite: one between others, and the usual integers of a layer of the branch."""

    def __init__(self) -> None:
        super().__init__()
        groups = list(self.groups)
        for group, level in ((0, 1), (4, 1)):
            options = list(groups[group].options)
            options[level] = dataclasses.replace(options[level], error=float("inf"))
            groups[group] = dataclasses.replace(groups[group], options=tuple(options))
        self.groups = tuple(groups)


@pytest.mark.parametrize("budget", [2e-4, 0.02, 0.1, 0.3])
def test_levels_with_errors_that_are_not_finite_are_not_chosen(budget: float) -> None:
    pricing = Pricing(Broken(), "size", None, {})
    pricing.learn(pricing.catalog.plain, 1e-3)
    assert pricing.correction.kinds["bits"] == pytest.approx(5.0)
    pricing.correction.kinds.clear()
    found = pricing.best(budget, pricing.catalog.plain)
    assert found[0] != 1 and (found[4] != 1 or found[5])
    assert pricing.error(found) <= budget * (1 + 1e-9)
    least = min(pricing.cost(c).nbytes for c in choices() if pricing.error(c) <= budget)
    assert pricing.cost(found).nbytes <= 1.1 * least


class Timed(Chain):
    """Each layer takes as many microseconds as its weights have bits, however wide it is."""

    def pieces(self, index: int, choice: Choice) -> tuple[Graph, ...]:
        return (BITS[choice[2 + index]],)  # type: ignore[return-value]


class Clock:
    def measure(self, pieces: Any, sizes: Any, progress: Any) -> None:
        pass

    def microseconds(self, piece: Any, sizes: Any) -> float:
        return float(piece)


@pytest.mark.parametrize(("objective", "beside"), [("latency", 0.05), ("balanced", 1.0)])
def test_bytes_count_beside_time_as_the_objective_says(objective: str, beside: float) -> None:
    """Fewer bytes of the same integers, in the same time."""
    pricing = Pricing(Timed(), objective, Clock(), {})  # type: ignore[arg-type]
    plain = pricing.cost(pricing.catalog.plain)
    half = pricing.cost((2, 0, 1, 1, 1, 0))
    assert half.microseconds == plain.microseconds
    share = half.nbytes / plain.nbytes
    assert pricing.number(half) == pytest.approx(1.0 + beside * share)
    cost = relative(objective, half.nbytes, plain.nbytes)
    assert cost == pytest.approx((1.0 + beside * share) / (1.0 + beside))


def relative(objective: str, nbytes: int, base: int) -> float:
    """What a version that takes as long as another one costs beside it."""
    versions = [SimpleNamespace(weight_bytes=n) for n in (nbytes, base)]
    shop = SimpleNamespace(settings=SimpleNamespace(objective=objective), speedups=lambda some, other: [1.0])
    return Standing(shop, versions[1]).relative_cost(*versions)  # type: ignore[arg-type]


def test_where_size_counts_time_does_not() -> None:
    assert relative("size", 30, 60) == relative("memory", 30, 60) == 0.5


def test_groups_that_take_others_away_are_looked_up_once() -> None:
    """Not for each level of each group."""
    reads = 0

    class Watched:
        options = (Option("kept", 0.0, ""), Option("less", 1e-3, ""))

        def __init__(self, key: str, inside: tuple[int, ...]) -> None:
            self.key, self.around = key, inside

        @property
        def inside(self) -> tuple[int, ...]:
            nonlocal reads
            reads += 1
            return self.around

    count = 60
    catalog: Any = SimpleNamespace(
        groups=tuple(Watched(f"g{i}", () if i % 2 else (i + 1,)) for i in range(count)), plain=(0,) * count,
        touching=tuple((g,) for g in range(count)), nbytes=lambda part, choice: 100 - 40 * choice[part],
        operations=lambda part, choice: ("", 0.0),
    )
    pricing = Pricing(catalog, "size", None, {})
    assert pricing._inner[1] == [0] and pricing._inner[0] == []
    found = pricing.best(0.0105, catalog.plain)
    assert sum(found) >= 10 and pricing.error(found) <= 0.0105
    assert reads < count * count

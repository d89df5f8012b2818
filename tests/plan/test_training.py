"""What is trained in the time that is left, on the made-up catalog of the tests of pricing and with a clock of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any

from mcomp.manager.context import TRAINED
from mcomp.plan.look import NEAR, Looks
from mcomp.plan.memory import Memory
from mcomp.plan.offers import Choice
from mcomp.plan.pricing import Pricing
from mcomp.plan.training import BEYOND, NEARER, Trainer
from tests.plan.test_pace import Took
from tests.plan.test_pricing import Chain

LOOK, STEP = 1.0, 0.05
RATE = 3e-3


class Trainable(Chain):
    def trained(self, choice: Choice, steps: int, rates: Mapping[str, float] = MappingProxyType({})) -> str | None:
        return f"{self.pipeline(choice)};{steps};{rates.get('plain')}"


@dataclass
class Shop:
    """A workshop in which what is measured of the whole is not what is expected of it: errors of widths count `wrong`
    times. A training gets the error down to a share."""

    wrong: float
    left: float = 600.0
    share: float = 0.1
    memory: Memory = field(default_factory=Memory)
    works: tuple[Any, ...] = (None,)
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    paced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.expected = Pricing(Trainable(), "size", None, {})

    def error(self, pipeline: str) -> float:
        choice = tuple(map(int, pipeline.split(";")[0].split(",")))
        errors = self.expected.errors_by_group(choice)
        return self.wrong * sum(errors[:2]) + sum(errors[2:])

    def seconds_left(self, share: float = 1.0) -> float:
        return max(0.0, self.left - (1.0 - share) * 600.0)

    def out_of_time(self) -> bool:
        return self.left <= 0.0

    def measure(self, pipeline: str) -> float:
        self.left -= LOOK
        self.looked.append(pipeline)
        return float(self.error(pipeline) ** 0.5)

    def context_of(self, work: None) -> Any:
        return SimpleNamespace(shared={})

    def trial(self, work: None, pipeline: str, context: Any) -> None:
        self.paced.append(pipeline)
        context.shared[TRAINED] = self._train(pipeline)

    def _train(self, pipeline: str) -> list[Took]:
        steps = int(pipeline.split(";")[1])
        self.left -= steps * STEP
        return [Took(steps, STEP, rate=RATE)]

    def make(self, name: str, pipeline: str) -> Any:
        self.made.append(pipeline)
        context = SimpleNamespace(shared={TRAINED: self._train(pipeline)})
        return SimpleNamespace(name=name, pipeline=pipeline, contexts={"": context})

    def judge_error(self, version: Any) -> float:
        return float((self.share * self.error(version.pipeline)) ** 0.5)

    def load(self, version: Any) -> float:
        """The budget is an error of 0.02."""
        return self.share * self.error(version.pipeline) / 0.02


START = (1, 0, 1, 1, 1, 0)


def trained(
    shop: Shop, load: float | None = 0.5, untrained: float = 0.0, measured: dict[str, float] | None = None,
    bound: float = 0.0,
) -> Trainer:
    catalog = Trainable()
    pricing = Pricing(catalog, "size", None, {})
    trainer = Trainer(
        shop, SimpleNamespace(judge=lambda version: None), catalog, pricing,  # type: ignore[arg-type]
        START, Looks(pricing, shop.measure, measured or {}), load, untrained=untrained, bound=bound,
    )
    trainer.run()
    return trainer


def test_what_is_trained_was_measured_to_be_where_it_should_be() -> None:
    """Widths add sixteen times what is expected: without a look they would have been cut too far."""
    shop, blind = Shop(wrong=16.0), Pricing(Trainable(), "size", None, {})
    target = BEYOND * blind.error(START)
    unseen = shop.error(Trainable().pipeline(blind.best(target, Trainable().plain)))
    trained(shop)
    assert unseen > 2.0 * target
    assert target / NEAR <= shop.error(shop.made[0]) <= target * NEAR


def test_how_far_to_go_is_told_by_what_was_measured_of_the_start() -> None:
    """Not by what is expected of it, which what was learned of other choices has changed since."""
    shop = Shop(wrong=1.0)
    least = shop.expected.error(START) / 3.0
    trained(shop, measured={Trainable().pipeline(START): least})
    assert shop.error(shop.made[0]) <= BEYOND * least * NEAR


def test_where_there_is_no_time_for_many_the_first_does_not_go_far() -> None:
    """What takes a quarter of the time without training leaves room for two."""
    near, far = Shop(wrong=16.0), Shop(wrong=16.0)
    trained(near, untrained=150.0)
    trained(far)
    target = NEARER * Pricing(Trainable(), "size", None, {}).error(START)
    assert near.error(near.made[0]) < far.error(far.made[0])
    assert near.error(near.made[0]) <= target * NEAR


def test_where_the_budget_is_hardly_used_without_training_it_goes_further() -> None:
    """The search without training had no time to come near the budget: what is expected to hold it counts."""
    shop, further = Shop(wrong=1.0), Shop(wrong=1.0)
    start = shop.expected.error(START)
    trained(shop, load=0.1)
    trained(further, load=0.1, bound=3.0 * start)
    assert further.error(further.made[0]) > shop.error(shop.made[0])
    assert further.error(further.made[0]) <= 3.0 * start * BEYOND * NEAR


def test_the_second_training_aims_at_what_the_budget_allows_once_trained() -> None:
    """What training gained with the first choice, it is taken to gain with the next: two fifths of the error are left, and a
    version whose error is 0.02 uses the budget up."""
    shop = Shop(wrong=1.0, share=0.4)
    trained(shop, load=0.33, untrained=150.0)
    first, second = (shop.share * shop.error(pipeline) for pipeline in shop.made[:2])
    assert first < 0.02 / NEAR / NEARER
    assert 0.93 * 0.02 / NEAR <= second <= 0.93 * 0.02 * NEAR


def test_what_held_without_training_does_not_lead_beyond_what_training_held() -> None:
    """The first trained version uses the budget up, with less error than what was allowed before: no other is trained."""
    shop = Shop(wrong=1.0, share=0.1)
    shop.load = lambda version: 0.94  # type: ignore[method-assign]
    trained(shop, load=0.6, measured={Trainable().pipeline(START): 0.05}, bound=0.05)
    assert len(shop.made) == 1 and shop.judge_error(SimpleNamespace(pipeline=shop.made[0])) ** 2 < 0.05


def test_the_first_trainings_last_about_as_long() -> None:
    """The first ones tell how far to go; what is kept at last is not to have had the least time."""
    shop = Shop(wrong=1.0, share=0.6)
    trained(shop)
    seconds = [int(pipeline.split(";")[1]) * STEP for pipeline in shop.made[:3]]
    assert len(seconds) == 3 and max(seconds) < 1.6 * min(seconds)


class Further(Trainable):
    def further(self, pipeline: str, steps: int, rate: float | None = None) -> str | None:
        return f"{pipeline}+{steps}"


def trained_on(loads: list[float], memory: Memory | None = None) -> list[str]:
    """What is made where the first choice, after each training, has these loads, and any other nothing to do with it."""
    shop = Shop(wrong=1.0, memory=memory or Memory())

    def load(version: Any) -> float:
        first = version.pipeline.startswith(shop.made[0])
        return loads[version.pipeline.count("+")] if first else 0.95

    shop.load = load  # type: ignore[method-assign]
    pricing = Pricing(Further(), "size", None, {})
    judged = SimpleNamespace(judge=lambda version: None, best=None)
    looks = Looks(pricing, shop.measure, {})
    Trainer(shop, judged, pricing.catalog, pricing, START, looks, 0.5).run()  # type: ignore[arg-type]
    return shop.made


def test_what_lost_a_little_more_than_the_budget_is_trained_on() -> None:
    memory = Memory()
    first, second, third = trained_on([1.2, 1.05, 0.95], memory)[:3]
    assert second.startswith(f"{first}+") and third.startswith(f"{second}+")
    assert trained_on([1.2, 1.05, 0.95], memory)[:3] == [first, second, third]  # a search that goes on makes the same
    for loads in ([0.95], [1.4], [1.2, 1.3, 0.9]):
        assert max(pipeline.count("+") for pipeline in trained_on(loads)) == len(loads[:2]) - 1


def test_steps_are_told_by_a_choice_of_about_the_same_cost() -> None:
    shop, pricing = Shop(wrong=1.0), Pricing(Trainable(), "size", None, {})
    trained(shop)

    def cost(pipeline: str) -> float:
        return pricing.number(pricing.cost(tuple(map(int, pipeline.split(";")[0].split(",")))))

    costs = [cost(pipeline) for pipeline in shop.made]
    assert max(costs) > 1.25 * min(costs)
    for own in costs:
        assert any(max(own, other) <= 1.25 * min(own, other) for other in map(cost, shop.paced))


def test_where_no_look_is_near_what_is_beyond_the_target_comes_last() -> None:
    pricing = Pricing(Trainable(), "size", None, {})
    below, above = (1, 0, 0, 0, 0, 0), (2, 3, 2, 2, 2, 0)
    errors = {pricing.catalog.pipeline(below): 0.1, pricing.catalog.pipeline(above): 0.5}
    looks = Looks(pricing, errors.__getitem__)
    further = iter([above, None])
    found = looks.near(0.1, below, lambda choice: next(further), lambda: False, 3)
    assert looks.off(above, 0.1) < looks.off(below, 0.1)
    assert found == below


def test_what_looks_are_off_by_is_learned_from_whole_models() -> None:
    """A whole model errs twice as much as a look said: so do others that were looked at; its own error is known."""
    pricing = Pricing(Trainable(), "size", None, {})
    first, second = (1, 0, 0, 0, 0, 0), (2, 3, 2, 2, 2, 0)
    found = {pricing.catalog.pipeline(first): 0.1, pricing.catalog.pipeline(second): 0.3}
    looks = Looks(pricing, found.__getitem__)
    for choice in (first, second):
        looks.near(found[pricing.catalog.pipeline(choice)] ** 2, choice, lambda choice: None, lambda: False, 1)
    looks.learn(first, 0.02)
    assert looks.error(first) == 0.02
    assert abs(looks.error(second) - 2.0 * 0.09) < 1e-12


def test_looks_are_few_and_not_repeated() -> None:
    shop = Shop(wrong=0.1)
    trained(shop)
    assert len(shop.looked) == len(set(shop.looked)) <= 4 * len(shop.made)


def test_later_trainings_go_at_the_rate_that_the_first_found() -> None:
    shop = Shop(wrong=1.0)
    trained(shop)
    assert len(shop.made) > 1
    rates = [pipeline.split(";")[2] for pipeline in shop.made]
    assert rates == ["None", *[str(RATE)] * (len(rates) - 1)]
    assert shop.memory.recall("rate", "trained") == {"plain": RATE}
    choices = [pipeline.split(";")[0] for pipeline in shop.made]
    assert len(set(choices)) == len(choices)


def test_nothing_is_trained_that_costs_more_than_what_holds_without() -> None:
    """However small its error is: floats beside integers."""
    dear, shop = (0, 0, 0, 0, 0, 0), Shop(wrong=1.0)
    catalog = Trainable()
    pricing = Pricing(catalog, "size", None, {})
    assert pricing.number(pricing.cost(dear)) >= pricing.number(pricing.cost(START))
    pricing.best_trained = lambda error, around: dear  # type: ignore[method-assign]
    for load, made in ((0.5, 0), (1.5, 1)):
        looks = Looks(pricing, shop.measure)
        Trainer(
            shop, SimpleNamespace(judge=lambda version: None), catalog, pricing, START, looks, load,  # type: ignore[arg-type]
        ).run()
        assert len(shop.made) == made


def test_an_interrupted_training_tells_no_rate() -> None:
    shop = Shop(wrong=1.0, interrupted=True)
    trained(shop)
    assert shop.made and shop.memory.recall("rate", "trained") is None


def test_where_nothing_pays_near_by_it_goes_further() -> None:
    """From a choice that loses nothing, some times its error holds nothing else."""
    shop = Shop(wrong=1.0)
    catalog = Trainable()
    pricing = Pricing(catalog, "size", None, {})
    trainer = Trainer(
        shop, SimpleNamespace(judge=lambda version: None), catalog, pricing,  # type: ignore[arg-type]
        pricing.best(6e-4, catalog.plain), Looks(pricing, shop.measure), 0.0,
    )
    assert pricing.best(6e-4, catalog.plain) == pricing.best(1e-4 * BEYOND, catalog.plain)
    trainer.run()
    assert shop.made


def test_a_training_that_breaks_the_budget_is_followed_by_one_nearer_to_what_held_it() -> None:
    shop = Shop(wrong=1.0, share=1.0)
    shop.load = lambda version: shop.error(version.pipeline) / 0.012  # type: ignore[method-assign]
    trained(shop, load=0.9)
    errors = [shop.error(pipeline) for pipeline in shop.made]
    assert shop.load(SimpleNamespace(pipeline=shop.made[0])) > 1.0
    assert errors[1] < errors[0]
    assert errors[1] > shop.expected.error(START)

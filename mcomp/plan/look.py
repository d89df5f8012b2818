"""Looks: what a choice does to the outputs, measured before anything long is begun with it.

Sums of errors fail where levels add to each other (ten branches less are worse than ten times one). To compile, time, judge
or train a model takes long, to run its passes and a few batches does not: so the whole is measured first, what is expected
is corrected by that, and another choice made, until what was measured is near what was aimed at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mcomp.plan.offers import Choice
from mcomp.plan.pricing import Pricing

NEAR = 1.4
"""By which factor an error may be off the one aimed at."""


@dataclass
class Looks:
    """measure: the relative error of the outputs after a pipeline. errors: the squared ones that were measured, by pipeline:
    choices that differ in what others take away come to the same."""

    pricing: Pricing
    measure: Callable[[str], float]
    errors: dict[str, float] = field(default_factory=dict)

    def near(
        self, target: float, choice: Choice, again: Callable[[Choice], Choice | None], late: Callable[[], bool], most: int
    ) -> Choice:
        """A choice whose squared error is near a target: the given one, or what `again` (the best as things are known then;
        None where there is none) gives after a look at the one before; of at most `most`, the nearest, those beyond the
        target last. Once it is `late` no more looks are begun."""
        looked: dict[str, Choice] = {}
        following: Choice | None = choice
        while following is not None and len(looked) < most and self.is_possible(following):
            key = self.pricing.catalog.pipeline(following)
            if key in looked or (key not in self.errors and late()):
                break
            if key not in self.errors:
                self.errors[key] = self.measure(key) ** 2
            looked[key] = following
            if self.off(following, target) <= NEAR:
                return following
            self.pricing.learn(following, self.errors[key])
            following = again(following)
        return min(looked.values(), key=lambda c: (self.error(c) > NEAR * target, self.off(c, target)), default=choice)

    def off(self, choice: Choice, target: float) -> float:
        """The factor between the error, measured or expected, and a target, at least 1."""
        ratio = max(self.error(choice), 1e-12) / target
        return max(ratio, 1.0 / ratio)

    def error(self, choice: Choice) -> float:
        """The squared error: measured, or what is expected."""
        known = self.errors.get(self.pricing.catalog.pipeline(choice))
        return self.pricing.error(choice) if known is None else known

    def is_possible(self, choice: Choice) -> bool:
        """Whether something was chosen, and nothing is trained in its pipeline."""
        trained = set(self.pricing.kinds(choice)) & set(self.pricing.catalog.trains)
        return choice != self.pricing.untouched and not trained

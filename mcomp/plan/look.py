"""Looks: what a choice does to the outputs, measured before anything long is begun with it.

Sums of errors fail where levels add to each other (ten branches less are worse than ten times one). To compile, time, judge
or train a model takes long, to run its passes on a part of the calibration data does not: so the whole is measured first,
what is expected is corrected by that, and another choice made, until what was measured is near what was aimed at. What looks
are off by, since passes see less data in them, is learned from whole models that were looked at before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from mcomp.plan.offers import Choice
from mcomp.plan.pricing import Pricing

NEAR = 1.4
"""By which factor an error may be off the one aimed at."""
_BIAS = 4.0
"""By which factor looks are taken to be off, at most."""


@dataclass
class Looks:
    """measure: the relative error of the outputs after a pipeline, as a look has it. errors, wholes: the squared ones that
    looks gave, and those of whole models, by pipeline: choices that differ in what others take away come to the same. bias:
    how many times what a look gave the error of the whole model was, of the last one."""

    pricing: Pricing
    measure: Callable[[str], float]
    errors: dict[str, float] = field(default_factory=dict)
    wholes: dict[str, float] = field(default_factory=dict)
    bias: float = 1.0

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
            known = key in self.errors or key in self.wholes
            if key in looked or (not known and late()):
                break
            if not known:
                self.errors[key] = self.measure(key) ** 2
            looked[key] = following
            if self.off(following, target) <= NEAR:
                return following
            self.pricing.learn(following, self.error(following))
            following = again(following)
        return min(looked.values(), key=lambda c: (self.error(c) > NEAR * target, self.off(c, target)), default=choice)

    def learn(self, choice: Choice, error: float) -> None:
        """Take in the squared error of a whole model."""
        key = self.pricing.catalog.pipeline(choice)
        self.wholes[key] = error
        look = self.errors.get(key, 0.0)
        if 0.0 < look < math.inf and 0.0 < error < math.inf:
            self.bias = min(_BIAS, max(1.0 / _BIAS, error / look))

    def off(self, choice: Choice, target: float) -> float:
        """The factor between the error, measured or expected, and a target, at least 1."""
        ratio = max(self.error(choice), 1e-12) / target
        return max(ratio, 1.0 / ratio)

    def error(self, choice: Choice) -> float:
        """The squared error: that of the whole model, what a look makes of it, or what is expected."""
        key = self.pricing.catalog.pipeline(choice)
        if key in self.wholes:
            return self.wholes[key]
        return self.bias * self.errors[key] if key in self.errors else self.pricing.error(choice)

    def is_possible(self, choice: Choice) -> bool:
        """Whether something was chosen, and nothing is trained in its pipeline."""
        trained = set(self.pricing.kinds(choice)) & set(self.pricing.catalog.trains)
        return choice != self.pricing.untouched and not trained

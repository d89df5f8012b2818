"""Training in the time that is left: choices beyond what the budget allows at once, brought back by distilling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcomp.manager.context import TRAINED
from mcomp.plan.aim import Aim
from mcomp.plan.look import Looks
from mcomp.plan.offers import Catalog, Choice
from mcomp.plan.pace import Pace, Training, pace_of
from mcomp.plan.pricing import Pricing
from mcomp.plan.standing import Standing
from mcomp.plan.work import Version, Workshop

BEYOND, NEARER = 3.0, 2.0
"""How many times the squared error that the budget allows without training the first choice that is trained may have before;
where there is no time for many: what the first one comes to must be of use then."""
LEAST_SECONDS = 5.0
"""Training that would get less time than this is not begun."""
_TRAININGS = 3
"""How many trainings the time that is left is shared out to; further ones get what these leave."""
_MOSTLY = 2.0
"""How many times as long as its passes besides a training must take to get a share of the time only: else it gets all."""
_MANY = 3.0
"""How many times as long as that the first training can take where there is time for many."""
_ALIKE = 1.25
"""By which factor the costs of choices may differ whose steps are taken to last as long."""
_DEARER = 1.15
"""By which factor what is trained may cost more than what holds without: expected costs are not exact."""
_RESERVE = 0.06
_FEW = 40
_SEVERAL = 8
_CAUTION = 0.9
_LOOKS, _LOOKING = 4, 0.1
"""How many choices are measured before one is trained, at most, and the share of the time that is left that it may take."""
_MOST, _FURTHER = 8, 4
_ROOM = 0.6
"""What a version with the error of the choice that training begins at is taken to lose at most, as a share of the budget: of
versions with the same error, those that were trained lose a little less."""
_ALMOST, _AGAIN = 1.25, 2
"""A trained version that lost at most so many times the budget is trained on, so often at most: that it was trained already
counts for more than another choice with a little less to bring back."""
_SLOWER = 0.5
"""The rate that training on takes, as a share of that before."""
_GAIN = 20.0
"""By how many times training is taken to lower a squared error, at most."""


class Trainer:
    """Trains choices of rising cost savings for as long as the time lasts. Steps are fixed before a training begins, so that
    the pipeline in the report gives the same model again."""

    def __init__(
        self, workshop: Workshop, standing: Standing, catalog: Catalog, pricing: Pricing, start: Choice,
        looks: Looks, load: float | None = None, longer: Sequence[Choice] = (), untrained: float = 0.0,
        bound: float = 0.0,
    ) -> None:
        """start, load: the best choice without training, and what it loses as a share of the budget. longer: choices of
        which a short training left a little too much, to begin with. untrained: seconds that a version without training
        takes to make and judge. bound: the squared error up to which the budget is expected to hold without training."""
        self.workshop, self.standing, self.catalog, self.pricing = workshop, standing, catalog, pricing
        self.start, self.load, self.longer, self.untrained, self.bound = start, load, longer, untrained, bound
        self.aim = Aim()
        """Of the squared errors that versions have once they are trained: what the budget allows is a matter of these,
        whether training or less compression led to them."""
        self.held: tuple[float, float] | None = None
        """Error and load of the best choice without training."""
        self.looks = looks
        self.tried: set[str] = set()
        """Pipelines before training."""
        self.count = self.made = 0
        """Choices that were to be trained, and those that were."""
        self.paces: dict[frozenset[int], tuple[Pace, Choice]] = {}
        """By the groups in which something is trained anyway, and of which choice."""
        self.rates: dict[str, float] = dict(workshop.memory.recall("rate", "trained") or {})
        """The rates that the first trainings found, by kind: later ones take them, but for those with students."""

    def run(self) -> None:
        """Train, as long as there is time for it."""
        for choice in self.longer:
            held = self.load is not None and self.load <= 1.0
            if held and self._number(choice) >= self._number(self.start):
                continue
            version = self._taught(choice)
            version = None if version is None else self._trained_on(version)
            if version is not None and self.standing.best is version:
                self.start, self.load = choice, self.workshop.load(version)
        self._rising()

    def _rising(self) -> None:
        """Choices as far as training brings back: the error that the budget allows, times what the last training gained."""
        left = self.workshop.seconds_left() or 0.0
        many = left > _SEVERAL * LEAST_SECONDS and left / _TRAININGS > _MANY * _MOSTLY * self.untrained
        far = BEYOND if many else NEARER
        error = self.looks.error(self.start)
        least = max(error, 1e-4) if math.isfinite(error) else 1e-4
        if self.load is not None and self.load <= 1.0:
            self.held = (least, min(_ROOM, max(0.0, self.load))) if math.isfinite(error) else None
            self.tried.add(self.catalog.pipeline(self.start))  # nothing is gained by training what fits without
        target: float | None = far * max(least, self.bound)
        choice = self.start
        while target is not None and self.count < _MOST:
            following = self._beyond(target, choice)
            version = None if following is None else self._taught(following)
            if following is None or version is None:
                return
            version = self._trained_on(version)
            choice, left_over = following, max(self.workshop.judge_error(version) ** 2, 1e-12)
            self.aim.add(left_over, self.workshop.load(version))
            gain = min(_GAIN, max(0.5, self.looks.error(following) / left_over))
            wanted = self._wanted()
            target = None if wanted is None else gain * wanted

    def _wanted(self) -> float | None:
        """The squared error that the next version is to have once it is trained. What held without training counts only as
        long as nothing trained holds: at the same error it is another model."""
        if self.aim.within is not None or self.held is None:
            return self.aim.next()
        return Aim([self.held, *self.aim.attempts]).next()

    def _taught(self, choice: Choice) -> Version | None:
        """The version with a choice, trained and judged; None where there is no time for it, or nothing to train."""
        self.tried.add(self.catalog.pipeline(choice))
        if not self._has_time():
            return None
        self.count += 1
        version = self._train(choice, self.count)
        if version is not None:
            self.made += 1
            self.standing.judge(version)
        return version

    def _trained_on(self, version: Version) -> Version:
        """A version that lost a little more than the budget, trained on as long as that brings it nearer and time lasts."""
        for _ in range(_AGAIN):
            load = self.workshop.load(version)
            if not 1.0 < load <= _ALMOST or not self._has_time():
                break
            further = self._further(version)
            if further is None:
                break
            self.standing.judge(further)
            nearer = self.workshop.load(further) < load
            version = further if nearer else version
            if not nearer:
                break
        return version

    def _further(self, version: Version) -> Version | None:
        """The version after a training more, at the pace of its last one; None where that is not known or too short."""
        text = self.workshop.memory.recall("further", version.pipeline)
        if text is None:
            done = [t for context in version.contexts.values() for t in context.shared.get(TRAINED, ())]
            if not done or done[-1].cut:
                return None
            last = done[-1]
            pace = Pace(0.0, 0.0, (last,), last.steps, 0.0)
            steps = pace.steps_in(_CAUTION * self._share(0.0, self.count + 1), rated=True)
            text = self.catalog.further(version.pipeline, steps, _SLOWER * last.rate) if steps >= _FEW else None
            if text is None:
                return None
            self.workshop.memory.keep("further", version.pipeline, text)
        self.count += 1
        return self.workshop.make(f"trained {self.count}", text)

    def _has_time(self) -> bool:
        return (self.workshop.seconds_left(1.0 - _RESERVE) or 0.0) >= LEAST_SECONDS

    def _beyond(self, target: float, start: Choice) -> Choice | None:
        """The cheapest choice that was not trained yet whose error before training is near a target, or beyond it where
        nothing broke the budget; None where there is none, no time, or only what costs more than what holds already."""
        if not self._has_time():
            return None
        until = (self.workshop.seconds_left() or 0.0) * (1.0 - _LOOKING)

        def late() -> bool:
            return (self.workshop.seconds_left() or 0.0) <= until

        def fresh(around: Choice) -> Choice | None:
            found = self.pricing.best_trained(target, around)
            return None if self.catalog.pipeline(found) in self.tried else found

        for _ in range(_FURTHER + 1):
            choice = fresh(start)
            found = None if choice is None else self.looks.near(target, choice, fresh, late, _LOOKS)
            if found is not None and self._pays(found):
                return found
            if self.aim.broken is not None or late():
                break
            target *= 2.0
        return None

    def _pays(self, choice: Choice) -> bool:
        """Whether a choice is not clearly dearer than the best one without training that holds, if one does."""
        return self.load is None or self.load > 1.0 or self._number(choice) <= _DEARER * self._number(self.start)

    def _share(self, fixed: float, number: int) -> float:
        """Seconds for a training by its number, from 1, whose passes besides take `fixed`."""
        left = self.workshop.seconds_left(1.0 - _RESERVE)
        assert left is not None
        share = left / max(1, _TRAININGS + 1 - number)
        return share if left - share > 2 * LEAST_SECONDS and share > _MOSTLY * fixed else left

    def _train(self, choice: Choice, number: int) -> Version | None:
        pipeline = self.workshop.memory.recall("trained", self.catalog.pipeline(choice))
        if pipeline is None:
            steps, rates = self._steps(choice), {} if self._students(choice) else self.rates
            pipeline = self.catalog.trained(choice, steps, rates) if steps >= _FEW else None
            if pipeline is None:
                return None
            self.workshop.memory.keep("trained", self.catalog.pipeline(choice), pipeline)
        version = self.workshop.make(f"trained {number}", pipeline)
        if not self._students(choice):
            self._learn_rate(version)
        return version

    def _students(self, choice: Choice) -> frozenset[int]:
        """The groups in which something is trained anyway: other trainings, of another pace."""
        return frozenset(g for g, kind in enumerate(self.pricing.kinds(choice)) if kind in self.catalog.trains)

    def _steps(self, choice: Choice) -> int:
        """How many steps the next training has time for, told by short trainings of the first choice like it."""
        students = self._students(choice)
        if students not in self.paces or not self._alike(choice, self.paces[students][1]):
            if self.catalog.trained(choice, 1) is None:
                return 0
            found = pace_of(lambda steps: self._try(choice, steps), self.workshop.seconds_left() or 0.0)
            self.paces[students] = found, choice
        pace, paced = self.paces[students]
        rated = not students and all(t.kind in self.rates for t in pace.trainings)
        return pace.steps_in(_CAUTION * self._share(pace.fixed, self.count), again=choice == paced, rated=rated)

    def _alike(self, choice: Choice, other: Choice) -> bool:
        """Whether two choices cost about the same, so that a step of one takes as long as of the other."""
        costs = [self._number(c) for c in (choice, other)]
        return max(costs) <= _ALIKE * min(costs)

    def _number(self, choice: Choice) -> float:
        return self.pricing.number(self.pricing.cost(choice))

    def _learn_rate(self, version: Version) -> None:
        """Take the rates over that trainings of a pipeline went at, of each kind the last one's."""
        for context in version.contexts.values():
            done: Sequence[Training] = context.shared.get(TRAINED, ())
            found = {t.kind: t.rate for t in done if t.improved and t.kind not in self.rates}
            if found and not self.workshop.interrupted:
                self.rates.update(found)
                self.workshop.memory.keep("rate", "trained", self.rates)

    def _try(self, choice: Choice, steps: int) -> Sequence[Training]:
        pipeline = self.catalog.trained(choice, steps)
        assert pipeline is not None
        work = self.workshop.works[0]
        context = self.workshop.context_of(work)
        self.workshop.trial(work, pipeline, context)
        found: Sequence[Training] = context.shared.get(TRAINED, ())
        return found

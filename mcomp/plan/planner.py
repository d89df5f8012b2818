"""The planner: menus, allocation, the whole model measured, errors corrected, the budget bisected, levels switched, and what
is left of the time spent on training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from mcomp.backend import backend_named
from mcomp.errors import BudgetError
from mcomp.plan.aim import Aim
from mcomp.plan.binding import NO_TIME, binding, nearest
from mcomp.plan.blame import settle_kinds
from mcomp.plan.costs import CostTable
from mcomp.plan.fault import calls_of, place_of
from mcomp.plan.hurry import OutOfTime
from mcomp.plan.look import Looks
from mcomp.plan.offers import Choice, Menu, registered_offers
from mcomp.plan.pricing import BESIDE_TIME, Pricing
from mcomp.plan.standing import Standing
from mcomp.plan.switching import loosen, tighten
from mcomp.plan.training import Trainer
from mcomp.plan.work import Version, Workshop

TRIALS = 6
"""Whole models made and judged on the way to the budget, at most, where no time limit says otherwise."""
_MORE_TRIALS = 10
SWITCHES = 4
"""Groups that are switched back to see what they really cost, at most, where no time limit says otherwise."""
_UNTRAINED = 0.3
"""Share of the time limit after which training begins."""
_ALL = 0.9
"""The same where nothing can be trained: the rest is for measuring what is kept."""
_WORTH = 0.99
_MOVES = 8
_STUDENTS, _HOPE = 0.6, 5.0
"""Share of the time limit after which students are not tried any more; and what one may lose, as a share of the budget, to
be trained longer."""
_LOOKS = 3
"""Choices that are measured before one is compiled and judged, at most."""
_FURTHER = 2.0
"""By which factor the budget may be expected to hold beyond what held, where nothing broke it."""


def offered(workshop: Workshop) -> str | None:
    """Why there is nothing for the planner to choose from; None where there is."""
    if not registered_offers():
        return "no plug-in offers anything else"
    if len(workshop.works) != 1:
        return f"the model runs in {len(workshop.works)} parts, which are not planned together"
    work = workshop.works[0]
    if not work.calibration.given:
        return "errors of layers need calibration data, calibration=[...]"
    return None if work.program_is_plain else "the model keeps state between calls"


class Planner:
    """One search. `int8`: the version that the catalog's plain choice comes to, where it is of use."""

    def __init__(self, workshop: Workshop, standing: Standing, int8: Version | None) -> None:
        self.workshop, self.standing, self.int8 = workshop, standing, int8
        self.work = workshop.works[0]
        self.tried: dict[str, Version] = {}
        """By pipeline: choices that differ in what others take away come to the same."""
        self.attempts: list[tuple[Choice, Version]] = []
        """Choices and what was made with them, int8 first."""
        self.plans = 0
        self.short = False
        """Whether there was no time to try anything else than int8 without training."""
        self.aim = Aim()
        self.best: Choice | None = None
        self.unfinished: list[Choice] = []
        """Students that a little more training may bring into the budget."""
        self.until = _UNTRAINED
        """The share of the time limit after which nothing is tried without training any more."""
        self.switched: Choice | None = None
        """Of which choice single groups were switched back."""
        self.teaching = 0.0
        """The share of the time limit that trying students took: searching without training is to have its own."""
        self.seconds = 0.0
        """What the last whole model took to make and judge."""

    def run(self) -> None:
        """Search until the budget is met closely, or the time is up. What goes wrong here is noted, and costs no more than
        the rest of the search."""
        if self.workshop.out_of_time():
            return
        try:
            self._run()
        except (BudgetError, OutOfTime):
            raise
        except Exception as e:
            self.workshop.faults.append(calls_of(e))
            self.workshop.warnings.append(
                f"the planner failed ({type(e).__name__}: {e}; {place_of(e)}); this is the best version before. It is a "
                "fault of mcomp: please report it, with report().faults, which has the traceback"
            )

    def _run(self) -> None:
        try:
            found = self._survey()
        except OutOfTime:
            self.workshop.warnings.append(NO_TIME)
            raise
        if not found:
            self.workshop.warnings.append("there is nothing to choose in this model")
            return
        ended = False
        try:
            self._search()
            ended = True
        finally:
            self._tell(ended)

    def _survey(self) -> bool:
        """Find out what could be done; whether there is anything."""
        settings = self.workshop.settings
        survey = registered_offers()[-1]
        assert self.work.cleaned is not None
        timed = settings.objective in BESIDE_TIME
        small = not timed or BESIDE_TIME[settings.objective] >= 1.0
        menu = Menu(fast=timed, small=small, thin=settings.time_limit is not None)
        catalog = survey(
            self.work.cleaned, self.workshop.context_of(self.work), menu, self.workshop.spread(), self.workshop.memory
        )
        self.workshop.warnings += catalog.notes
        if not catalog.groups:
            return False
        table = self._table()
        self.pricing = Pricing(catalog, settings.objective, table, self.workshop.hints(self.work), self.workshop.say)
        self.catalog = catalog
        self.looks = Looks(self.pricing, self._look)
        return True

    def _search(self) -> None:
        self._learn_from_int8()
        self._try_students()
        self._settle()
        self._bisect()
        self.short = self._late() and not self._planned()
        self._switch()
        if self.workshop.settings.time_limit is None or self.workshop.out_of_time() or self._train():
            return
        self.until, self.teaching = _ALL, 0.0
        self._bisect()
        self._switch()

    def _train(self) -> bool:
        """Use the time that is left for training; whether anything was trained."""
        start = self.best or self.catalog.plain
        known = self.tried.get(self.catalog.pipeline(start))
        load = None if known is None else self.workshop.load(known)
        trainer = Trainer(
            self.workshop, self.standing, self.catalog, self.pricing, start, self.looks, load,
            self._unfinished(), self._usual_seconds(), self._bound(),
        )
        trainer.run()
        return trainer.made > 0

    def _unfinished(self) -> list[Choice]:
        """Students to be trained longer, that which lost least first."""
        worth = [choice for choice in self.unfinished if self._worth(choice)]
        return sorted(worth, key=lambda choice: self.workshop.load(self.tried[self.catalog.pipeline(choice)]))

    def _bound(self) -> float:
        """The squared error up to which the budget is expected to hold without training: where nothing broke it, not much
        more than what held; 0 where nothing is known."""
        held = self.aim.within or 0.0
        expected = self.aim.next() or held
        return expected if self.aim.broken is not None else min(expected, _FURTHER * held)

    def _usual_seconds(self) -> float:
        """What a whole model takes to make and judge: in a search that goes on from disk, what it took then."""
        known = self.workshop.memory.recall("seconds", "attempt")
        if known is None:
            known = self.seconds
            self.workshop.memory.keep("seconds", "attempt", known)
        return float(known)

    def _table(self) -> CostTable | None:
        settings = self.workshop.settings
        if settings.objective not in BESIDE_TIME or backend_named(settings.target).available() is not None:
            return None
        return CostTable.load(settings.target, settings.threads)

    # whole models

    def _learn_from_int8(self) -> None:
        """The version with all layers in int8 is an attempt, too."""
        if self.int8 is None or self.int8.within_budget is None:
            return
        error = self.workshop.judge_error(self.int8) ** 2
        plain = self.catalog.plain
        self.pricing.learn(plain, error)
        self.looks.learn(plain, error)
        self.tried[self.catalog.pipeline(plain)] = self.int8
        self.attempts.append((plain, self.int8))
        self.aim.add(error, self.workshop.load(self.int8))
        if self.standing.best is self.int8:
            self.best = plain

    def _attempt(self, choice: Choice, name: str, *, aims: bool = True) -> bool:
        """Make, measure and judge the whole model with a choice; whether it keeps the budget. aims: whether what its error
        does to the budget tells of other choices."""
        start = time.monotonic()
        pipeline = self.catalog.pipeline(choice)
        version = self.tried[pipeline] = self.workshop.make(name, pipeline, hurry=True)
        self.attempts.append((choice, version))
        error = self.workshop.judge_error(version) ** 2
        self.pricing.learn(choice, error)
        self.looks.learn(choice, error)
        fits = self.standing.judge(version)
        if aims:
            self.aim.add(error, self.workshop.load(version))
        if self.standing.best is version:
            self.best = choice
        self.seconds = time.monotonic() - start
        return fits

    def _try_students(self) -> None:
        """What trains something of its own, each alone and with the rest in int8: who gives a student wants to know. One
        that did not get near the module at all is left out."""
        plain, begin = self.catalog.plain, time.monotonic()
        found = [
            (g, level, option) for g, group in enumerate(self.catalog.groups) for level, option in enumerate(group.options)
            if level and option.kind in self.catalog.trains
        ]
        for g, level, option in found:
            choice = (*plain[:g], level, *plain[g + 1 :])
            group = self.catalog.groups[g]
            name = group.key if len(group.options) == 2 else f"{group.key}, {option.name}"
            reason = self._not_tried(choice, option.error)
            if reason is not None:
                self.workshop.warnings.append(f"the {name} was not tried: {reason}")
                continue
            fits = self._attempt(choice, name, aims=False)
            if not fits and self.workshop.load(self.tried[self.catalog.pipeline(choice)]) <= _HOPE:
                self.unfinished.append(choice)
        self.teaching = (time.monotonic() - begin) / (self.workshop.settings.time_limit or 1.0)

    def _not_tried(self, choice: Choice, error: float) -> str | None:
        """Why a student is not tried, which leaves this squared error after a short training; None where it is."""
        if error >= 1.0:
            return f"after a short training it leaves the model's outputs {math.sqrt(error):.0%} off"
        if not self._worth(choice):
            return "what was best by then is expected to cost no more"
        return "there was no time" if self.workshop.out_of_time(_STUDENTS) else None

    def _look(self, pipeline: str) -> float:
        """The relative error of the outputs after a pipeline, as far as some calibration data tells."""
        known = self.workshop.memory.recall("look", pipeline)
        if known is None:
            self.workshop.progress.step("errors of the whole")
            known = self._glance()(pipeline)
            self.workshop.memory.keep("look", pipeline, known)
        return float(known)

    def _glance(self) -> Callable[[str], float]:
        """A function that tells about the relative error of the outputs after a pipeline."""
        error = self.workshop.trial_error(self.work)
        return lambda pipeline: error(self.catalog.glanced(pipeline))

    def _settle(self) -> None:
        """Find out what the kinds of levels in the first choice add by themselves."""
        target = self._first_target()
        if target is None or self._late():
            return
        choice = self.pricing.best(target, self.best or self.catalog.plain)
        error = self._glance()
        settle_kinds(
            self.pricing, choice, lambda c: error(self.catalog.pipeline(c)) ** 2, self._late, frozenset(self.catalog.trains),
        )

    def _bisect(self) -> None:
        """Aim at the largest error that the budget allows; after each attempt expected errors are corrected by what was
        measured of the whole."""
        target = self.aim.next() if self._planned() else self._first_target()
        start = self.best or self.catalog.plain
        for _ in range(self._trials()):
            choice = self._chosen(target, start)
            if choice is None:
                return
            self.plans += 1
            self._attempt(choice, f"plan {self.plans}")
            start = choice
            if self.aim.attempts:  # as long as no error was finite, what comes next is below the same target
                target = self.aim.next()

    def _chosen(self, target: float | None, start: Choice) -> Choice | None:
        """What to attempt next: a choice near a target, as far as some looks can tell."""
        found = self._untried(target, start)
        if found is None:
            return None
        choice, moved = found

        def again(around: Choice) -> Choice | None:
            other = self._untried(moved, around)
            return None if other is None else other[0]

        return self.looks.near(moved, choice, again, self._late, _LOOKS)

    def _untried(self, target: float | None, start: Choice) -> tuple[Choice, float] | None:
        """The best choice with an expected error near a target that is worth an attempt, and the target; None where there is
        none. Where the target comes to what was tried, or to nothing that would cost less than the best so far, it moves on
        as if that had been tried again."""
        aim = Aim([*self.aim.attempts])
        for _ in range(_MOVES):
            if target is None or self._late():
                return None
            choice = self.pricing.best(target, start)
            if choice == self.pricing.untouched:
                return None
            known = self.tried.get(self.catalog.pipeline(choice))
            if known is None and self.best is not None and not self._worth(choice):
                known = self.tried.get(self.catalog.pipeline(self.best))
            if known is None:
                return choice, target
            aim.add(target, self.workshop.load(known))
            target = aim.next()
        return None

    def _trials(self) -> int:
        return TRIALS if self.workshop.settings.time_limit is None else _MORE_TRIALS

    def _first_target(self) -> float | None:
        """The squared output error to begin with."""
        limit = self.workshop.settings.max_error
        if limit is not None:
            return float(0.95 * limit) ** 2 or None
        if self.aim.attempts:
            return self.aim.next()
        return 1e-3

    def _worth(self, choice: Choice) -> bool:
        """Whether a choice is expected to cost less than the best so far."""
        if self.best is None:
            return True
        price = self.pricing
        return price.number(price.cost(choice)) < _WORTH * price.number(price.cost(self.best))

    def _late(self) -> bool:
        return self.workshop.out_of_time(self.until + self.teaching)

    # refinement

    def _switch(self) -> None:
        """Refine on the real loss: switch single groups of the best choice back by a level, or further, measure what that
        gives, correct what is expected of them, and allocate again."""
        target = self.aim.within
        if self.best is None or target is None or self._late() or self.best == self.catalog.plain:
            return
        if not self.looks.is_possible(self.best) or self.best == self.switched:
            return
        error, best = self._glance(), self.best

        def measure(choice: Choice) -> float:
            return error(self.catalog.pipeline(choice)) ** 2

        whole = measure(best)
        if not math.isfinite(whole) or not tighten(self.pricing, best, whole, measure, self._late, self._switches()):
            return
        if self.workshop.settings.time_limit is not None:
            loosen(self.looks, best, whole, measure, self._late, self._switches())
        self.switched = best
        self.pricing.learn(best, self.looks.error(best))
        choice = self.pricing.best(target, best)
        tried = self.catalog.pipeline(choice) in self.tried
        if not tried and choice != self.pricing.untouched and self._worth(choice):
            self._attempt(choice, "plan, levels switched")

    def _switches(self) -> int:
        left = self.workshop.seconds_left(self.until + self.teaching)
        if left is None:
            return SWITCHES
        return min(2 * SWITCHES, int(0.5 * left / max(self.seconds, 0.1)))

    # telling

    def _planned(self) -> bool:
        """Whether anything else than int8 was tried."""
        return any(version is not self.int8 for _, version in self.attempts)

    def _tell(self, ended: bool) -> None:
        """Say what was decided, and what binds. ended: whether nothing broke the search off."""
        if not self._planned() and (self.short or self.workshop.out_of_time()):
            self.workshop.warnings.append(NO_TIME)
        if self.best is None:
            found = nearest(self.workshop, self.pricing, self.attempts)
        else:
            found = binding(self.pricing, self.aim, self.best, ended)
        if found is not None:
            self.workshop.warnings.append(found)

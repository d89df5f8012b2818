"""Spending a budget: the best version of a model that keeps it.

First int8, the cheapest to make. Then, where calibration data is given, the planner: everything that passes offer, decided
together. Whatever ends the search, the best version so far is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcomp.errors import BudgetError
from mcomp.plan.hurry import OutOfTime
from mcomp.plan.planner import Planner, offered
from mcomp.plan.pricing import BESIDE_TIME
from mcomp.plan.retreat import retreat
from mcomp.plan.standing import Standing
from mcomp.plan.work import Version, Workshop

CANDIDATES = (
    ("int8", "quantize{bits=8}"),
    ("int8, dynamic", "quantize{bits=8,activations=dynamic}"),
)
"""Pipelines tried first, in order of preference."""
TELLING = 1.15
"""A ratio of times that noise does not explain."""
_TIME_IS_UP = "the time limit ended the search; this is the best version so far"


def search(workshop: Workshop, lossless: Version) -> Version:
    """The best version within the budget; the lossless one when nothing fits.

    An evaluate that fails on the original is an error; failing later, it ends the search with the best version so far, as
    do the time limit and an interruption.
    """
    if workshop.settings.max_drop is not None:
        workshop.judge_original()
    standing = Standing(workshop, lossless)
    try:
        _search(workshop, standing)
        if workshop.out_of_time():
            workshop.warnings.append(_TIME_IS_UP)
    except OutOfTime:
        workshop.warnings.append(_TIME_IS_UP)
    except BudgetError as e:
        workshop.warnings.append(f"the search ended early: {e.message}")
    except KeyboardInterrupt:
        workshop.warnings.append("the search was interrupted; this is the best version so far")
    if standing.best is lossless:
        workshop.try_budget(lossless)
        workshop.warnings.append("no compressed version was within the budget and better than the lossless one")
    return standing.best


def _search(workshop: Workshop, standing: Standing) -> None:
    lossless = standing.best
    useful = _useful(workshop, lossless)
    first = next(iter(useful), None)
    if first is not None:
        standing.judge(first[0])
    reason = offered(workshop)
    if reason is None:
        Planner(workshop, standing, None if first is None else first[0]).run()
        return
    workshop.warnings.append(f"only int8 was tried: {reason}")
    for candidate, pipeline in useful:
        if standing.judge(candidate):
            return
        found = retreat(workshop, standing, candidate, pipeline)
        if found or workshop.out_of_time():
            return


def _useful(workshop: Workshop, lossless: Version) -> list[tuple[Version, str]]:
    """Candidates that are faster or smaller than the lossless version, fastest or smallest first; those that differ by less
    than the clock can tell, in order of preference."""
    made: list[tuple[Version, str]] = []
    for name, pipeline in CANDIDATES:
        if made and workshop.out_of_time():
            break
        version = workshop.make(name, pipeline)
        if version.ledger():
            made.append((version, pipeline))
        else:
            version.verdict = "it changes nothing"
    gains = _gains(workshop, [v for v, _ in made], lossless)
    useful = [(gain, item) for gain, item in zip(gains, made) if _pays(workshop, item[0], gain)]
    return [item for _, item in sorted(useful, key=lambda pair: -round(math.log(pair[0]) / math.log(TELLING)))]


def _pays(workshop: Workshop, version: Version, gain: float) -> bool:
    if gain > 1.0:
        return True
    measure = {"latency": "the speed of", "balanced": "as good, in time and bytes, as"}
    version.verdict = f"not worth it: {gain:.2f}x {measure.get(workshop.settings.objective, 'as small as')} lossless"
    return False


def _gains(workshop: Workshop, versions: Sequence[Version], base: Version) -> list[float]:
    """How much better versions are than another one, in what the objective asks for."""
    speedups = workshop.speedups(versions, base) if versions else []
    if workshop.settings.objective == "latency":
        return speedups
    smaller = [base.weight_bytes / max(1, v.weight_bytes) for v in versions]
    if workshop.settings.objective not in BESIDE_TIME:
        return smaller
    beside = BESIDE_TIME[workshop.settings.objective]
    return [(1.0 + beside) / (1.0 / fast + beside / small) for fast, small in zip(speedups, smaller)]

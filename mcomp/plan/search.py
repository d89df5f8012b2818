"""Spending a budget: the best version of a model that keeps it.

First int8, the cheapest to make. Then, where calibration data is given, the planner: everything that passes offer, decided
together. Where nothing of that fits, int8 with the layers in float that err most, which may be ones that the planner has no
levels for. Whatever ends the search, the best version so far is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mcomp.errors import BudgetError, PassError
from mcomp.plan.diagnose import refusal
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
"""Pipelines tried first, in order of preference. The first one is what catalogs call plain."""
TELLING = 1.15
"""A ratio of times that noise does not explain."""
_TIME_IS_UP = "the time limit ended the search; this is the best version so far"


def search(workshop: Workshop, lossless: Version) -> Version:
    """The best version within the budget; the lossless one when nothing fits.

    An evaluate that fails on the original is an error; failing later on two versions in a row, it ends the search with the
    best version so far, as do the time limit and an interruption. Anything else that fails costs the candidate that it fails
    for.
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
        workshop.interrupted = True
        workshop.warnings.append("the search was interrupted; this is the best version so far")
    if standing.best is lossless:
        try:
            workshop.try_budget(lossless)
        except KeyboardInterrupt:
            workshop.interrupted = True
            workshop.warnings.append("judging the lossless version was interrupted")
        workshop.warnings.append("no compressed version was within the budget and better than the lossless one")
    return standing.best


def _search(workshop: Workshop, standing: Standing) -> None:
    lossless = standing.best
    useful = _useful(workshop, lossless)
    first = next(iter(useful), None)
    if first is not None and not _judged(workshop, standing, first[0]):
        useful, first = useful[1:], None
    reason = offered(workshop)
    if reason is None:
        plain = first is not None and first[1] == CANDIDATES[0][1]
        Planner(workshop, standing, first[0] if first is not None and plain else None).run()
        if standing.best is not lossless or workshop.out_of_time():
            return
    else:
        workshop.warnings.append(f"only int8 was tried: {reason}")
    for candidate, pipeline in useful:
        if not _judged(workshop, standing, candidate):
            continue
        if candidate.within_budget:
            return
        found = False
        with _at_its_own_risk(workshop, f"{candidate.name}, with layers in float,"):
            found = retreat(workshop, standing, candidate, pipeline)
        if found or workshop.out_of_time():
            return


@contextmanager
def _at_its_own_risk(workshop: Workshop, name: str, *, asked: bool = False) -> Iterator[None]:
    """What goes wrong inside is noted, and costs what it is done for, but for what ends a search. `asked`: raises PassError,
    since options of the user's may be refused inside."""
    try:
        yield
    except (BudgetError, OutOfTime):
        raise
    except Exception as e:
        if asked and isinstance(e, PassError):
            raise
        _left_out(workshop, name, e)


def _left_out(workshop: Workshop, name: str, error: Exception) -> None:
    """Note what went wrong. Raises it where the model itself fails on the example or the calibration data."""
    if refusal(workshop.model, workshop.example, workshop.settings.calibration or ()) is not None:
        raise error
    workshop.warnings.append(f"{name} was left out ({type(error).__name__}: {error})")


def _judged(workshop: Workshop, standing: Standing, version: Version) -> bool:
    """Whether a version could be judged; one that cannot be run is none any more."""
    with _at_its_own_risk(workshop, version.name):
        standing.judge(version)
        return True
    workshop.leave_out(version)
    return False


def _useful(workshop: Workshop, lossless: Version) -> list[tuple[Version, str]]:
    """Candidates that are faster or smaller than the lossless version, fastest or smallest first; of those that are not
    clearly worse than that, the one that is preferred."""
    made: list[tuple[Version, str]] = []
    for name, pipeline in CANDIDATES:
        if made and workshop.out_of_time():
            break
        with _at_its_own_risk(workshop, name, asked=True):
            version = workshop.make(name, pipeline)
            if version.ledger():
                made.append((version, pipeline))
            else:
                version.verdict = "it changes nothing"
    left = [(gain, item) for gain, item in _timed(workshop, made, lossless) if _pays(workshop, item[0], gain)]
    useful = []
    while left:
        enough = max(gain for gain, _ in left) / TELLING
        first = next(index for index, (gain, _) in enumerate(left) if gain >= enough)
        useful.append(left.pop(first)[1])
    return useful


def _timed(
    workshop: Workshop, made: Sequence[tuple[Version, str]], lossless: Version
) -> list[tuple[float, tuple[Version, str]]]:
    """Gains over the lossless version, of those that can be run: where a race fails, each one races alone."""
    try:
        return list(zip(_gains(workshop, [v for v, _ in made], lossless), made))
    except OutOfTime:
        raise
    except Exception as e:
        if len(made) == 1:
            _left_out(workshop, made[0][0].name, e)
            workshop.leave_out(made[0][0])
            return []
    return [pair for one in made for pair in _timed(workshop, [one], lossless)]


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

"""The best version so far."""

from __future__ import annotations

from mcomp.errors import BudgetError
from mcomp.plan.pricing import BESIDE_TIME
from mcomp.plan.work import Version, Workshop

_BETTER = 0.995
"""What a version must cost at most, beside the best one so far, to take its place."""
_CLEARLY = 0.9
"""What costs less than this by the clock needs no second look."""


class Standing:
    """Holds the best version; versions within the budget that cost less take its place."""

    def __init__(self, workshop: Workshop, lossless: Version) -> None:
        self.workshop = workshop
        self.best = lossless
        self.lossless = lossless
        self.failed = False
        """Whether evaluate failed when it was called last."""

    def judge(self, version: Version) -> bool:
        """Whether a version keeps the budget; measures what that needs, and compares it with the best so far. Each version
        is judged once. One on which evaluate fails does not keep it. Raises BudgetError where evaluate failed on the one
        before, too; KeyboardInterrupt, once it is judged, when the user interrupted what made the version."""
        if version.within_budget is None:
            fits = self._fits(version)
            if fits and self._is_better(version):
                self.best = version
        if self.workshop.interrupted:
            raise KeyboardInterrupt
        return bool(version.within_budget)

    def _fits(self, version: Version) -> bool:
        try:
            fits = self.workshop.within_budget(version)
        except KeyboardInterrupt:
            version.verdict = "not judged: the search was interrupted"
            raise
        except BudgetError as e:
            version.verdict = f"not judged: {e.message}"
            if self.failed:
                raise
            self.failed, version.within_budget = True, False
            self.workshop.warnings.append(f"{version.name} counts as over budget: {e.message}")
            return False
        self.failed &= version.score is None
        return fits

    def _is_better(self, version: Version) -> bool:
        """Whether it costs less than the best one; where that is near, by two races."""
        cost = self.relative_cost(version, self.best)
        timed = self.workshop.settings.objective in BESIDE_TIME
        if timed and _CLEARLY < cost < _BETTER:
            cost = max(cost, self.relative_cost(version, self.best))
        return cost < _BETTER

    def relative_cost(self, version: Version, base: Version) -> float:
        """What a version costs as a share of what another one does, by the clock and bytes, as the objective weighs them."""
        small = version.weight_bytes / max(1, base.weight_bytes)
        beside = BESIDE_TIME.get(self.workshop.settings.objective)
        if beside is None:
            return small
        quick = 1.0 / self.workshop.speedups([version], base)[0]
        return (quick + beside * small) / (1.0 + beside)

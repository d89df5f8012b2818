"""Rates of trainings for which none is given: which are tried, for how long, and which is known without."""

from __future__ import annotations

from mcomp.passes.compress.teaching import NORMALIZED

PROBED = (3e-3, 1e-3, 1e-2, 3e-4, 3e-2)
"""Rates tried for AdamW when none is given; for SGD 30 times as much."""
NORMALIZED_RATE = 1e-2
"""That of trainings with AdamW of normalized convolutions with at least `_LONG` steps. A few steps favour smaller ones, and
so does the held-out loss of inputs that the teacher was trained on: a ResNet-20 with 73 % of its operations had a loss of
0.39 after 1,500 steps at 0.003 and 90.99 % of the test images right, 0.46 and 91.18 % at 0.01; at 0.02 it did not get below
the loss that it began with. A ResNet-56 without 13 of its blocks had 88.62 % right after 600 steps at 0.003, 90.33 % at
0.01, 90.16 % at 0.03."""
_LONG = 600
_PROBE_STEPS = 24
_PROBE_PART = 1 / 40


def knows_rate(kind: str, steps: int) -> bool:
    """Whether a training with AdamW of so many steps goes at `NORMALIZED_RATE` without trying others."""
    return kind == NORMALIZED and steps >= _LONG


def probe_steps(total: int) -> int:
    """In how many steps of a training each rate is tried."""
    return max(2, min(total // 10, max(_PROBE_STEPS, round(total * _PROBE_PART))))

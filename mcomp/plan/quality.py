"""Quality: calling the user's evaluate, comparing its results, and the error of outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mcomp.errors import EVALUATE_RAISED, BudgetError

ONE_SIDED_95 = 1.645
"""The 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Score:
    """A result of evaluate: the mean, and the per-sample scores if there were any."""

    value: float
    samples: np.ndarray | None = None

    @property
    def finite(self) -> bool:
        """Whether it can be compared: no score of a sample is NaN or infinite."""
        return math.isfinite(self.value)

    def drop_from(self, reference: Score) -> tuple[float, float]:
        """How much lower this is than `reference`, and the upper end of the one-sided 95 % confidence interval of that
        drop. With per-sample scores of both (of the same samples), the interval is the paired one, mean + 1.645 s / sqrt(n);
        without, the drop itself. Both are infinite where this is not finite."""
        if not self.finite:
            return math.inf, math.inf
        drop = reference.value - self.value
        if self.samples is None or reference.samples is None:
            return drop, drop
        differences = reference.samples - self.samples
        if differences.size < 2:
            return drop, drop
        return drop, drop + ONE_SIDED_95 * float(differences.std(ddof=1)) / math.sqrt(differences.size)


@dataclass
class Evaluator:
    """Calls the user's function, checks what it returns, and keeps a record of every call."""

    function: Callable[[Any], Any]
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, model: Any, label: str) -> Score:
        """Evaluate a model. Raises BudgetError when the function raises, or returns something that is no number. A score
        may be NaN or infinite."""
        start = time.perf_counter()
        try:
            result = self.function(model)
        except Exception as e:
            raise BudgetError(
                f"evaluate raised {type(e).__name__} on {label}: {e}", code=EVALUATE_RAISED,
                help="it is called with a module and must return a number; the traceback above tells where it failed",
            ) from e
        score = _as_score(result, label)
        self.calls.append({"model": label, "result": score.value, "seconds": time.perf_counter() - start})
        return score


def _as_score(result: Any, label: str) -> Score:
    try:
        if hasattr(result, "detach"):
            result = result.detach().cpu().double().numpy()
        if result is None or isinstance(result, (str, bytes)):
            raise TypeError("not a number")
        array = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError) as e:
        raise BudgetError(
            f"evaluate returned {type(result).__name__} on {label}", code="MC0521",
            help="return a number, higher is better, or an array with a score for each sample",
        ) from e
    if array.size == 0:
        raise _useless("nothing", label)
    if array.ndim == 0 or array.size == 1:
        return Score(float(array.reshape(-1)[0]))
    return Score(float(array.mean()) if np.isfinite(array).all() else math.nan, array.reshape(-1))


def check_alike(score: Score, reference: Score, label: str) -> Score:
    """A score that can be compared with that of the original. Raises BudgetError where it is of other samples."""
    ours, theirs = (1 if s.samples is None else s.samples.size for s in (score, reference))
    if ours != theirs and score.finite:
        raise BudgetError(
            f"evaluate returned {_scores(ours)} on {label}, but {_scores(theirs)} on the original", code="MC0523",
            help="score the same samples each time, in the same order, or return their mean",
        )
    return score


def _scores(count: int) -> str:
    return "one number" if count == 1 else f"scores of {count} samples"


def check_reference(score: Score, label: str) -> Score:
    """A score that others are compared with. Raises BudgetError where it is not finite."""
    if not score.finite:
        raise _useless("NaN or infinity", label)
    return score


def _useless(what: str, label: str) -> BudgetError:
    return BudgetError(
        f"evaluate returned {what} on {label}", code="MC0522", help="return a finite number, higher is better",
    )


@dataclass
class RelativeError:
    """Relative L2 error over all floating-point outputs, ||y - y0|| / ||y0||, added up batch by batch; infinity where NaN or
    infinity appear in places where the expected outputs are finite. Where all outputs are integers or booleans, the share of
    their elements that differ."""

    error: float = 0.0
    scale: float = 0.0
    floats: bool = False
    others: int = 0
    differing: int = 0

    def add(self, outputs: Sequence[Any], expected: Sequence[Any]) -> None:
        """The outputs of one batch, and what they should be."""
        for y, y0 in zip(outputs, expected, strict=True):
            a, b = _as_float(y), _as_float(y0)
            if a is None or b is None:
                self._add_whole(_as_whole(y), _as_whole(y0))
                continue
            self.floats = True
            finite = np.isfinite(b)
            if not np.isfinite(a[finite]).all():
                self.error = math.inf
                continue
            self.error += float(np.sum((a[finite] - b[finite]) ** 2))
            self.scale += float(np.sum(b[finite] ** 2))

    def _add_whole(self, ours: np.ndarray | None, theirs: np.ndarray | None) -> None:
        if ours is None or theirs is None:
            return
        same = ours.shape == theirs.shape
        self.others += theirs.size if same else max(ours.size, theirs.size)
        self.differing += int(np.sum(ours != theirs)) if same else max(ours.size, theirs.size)

    @property
    def value(self) -> float:
        """The error over all that was added."""
        if not self.floats:
            return self.differing / max(1, self.others)
        if math.isinf(self.error):
            return math.inf
        if self.scale == 0.0:
            return 0.0 if self.error == 0.0 else math.inf
        return math.sqrt(self.error / self.scale)


def relative_error(outputs: Sequence[Sequence[Any]], expected: Sequence[Sequence[Any]]) -> float:
    """The `RelativeError` over all batches."""
    found = RelativeError()
    for batch, wanted in zip(outputs, expected, strict=True):
        found.add(batch, wanted)
    return found.value


def _as_float(value: Any) -> np.ndarray | None:
    """Floating-point numbers, of complex ones both parts; None for what is something else."""
    if hasattr(value, "detach"):
        if not (value.is_floating_point() or value.is_complex()):
            return None
        value = value.detach().resolve_conj().resolve_neg() if value.is_complex() else value.detach().float()
        value = value.numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fc":
        return None
    if value.dtype.kind == "c":
        value = np.stack([value.real, value.imag], -1)
    return value.astype(np.float64)


def _as_whole(value: Any) -> np.ndarray | None:
    """Integers and booleans; None for what is something else."""
    if hasattr(value, "detach"):
        value = value.detach().numpy() if not value.is_floating_point() and not value.is_complex() else None
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "iub" else None

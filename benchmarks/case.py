"""A benchmark case: a model, its inputs and its splits, behind an interface of numpy arrays that all runtimes meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]
Run = Callable[..., Array]


def _read_only(arrays: Sequence[Array]) -> tuple[Array, ...]:
    views = tuple(array.view() for array in arrays)
    for view in views:
        view.flags.writeable = False
    return views


def tensors(arrays: Sequence[Array]) -> tuple[Any, ...]:
    """Arrays as contiguous torch tensors; those that are read-only are copied."""
    import torch

    return tuple(torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays)


@dataclass(frozen=True)
class Samples:
    """Model inputs, each array ``[N, ...]``, read-only, and what the metric compares the outputs with."""

    inputs: tuple[Array, ...]
    labels: Array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _read_only(self.inputs))

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def judged(self) -> int:
        """How many labels there are: of pairs of sentences half as many as inputs."""
        return len(self) if self.labels is None else len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Array, ...]]:
        """Input tuples of exactly `size` rows; the last one is filled up by repeating its final row."""
        for start in range(0, len(self), size):
            parts = tuple(array[start : start + size] for array in self.inputs)
            missing = size - len(parts[0])
            if missing:
                parts = tuple(np.concatenate([p, np.repeat(p[-1:], missing, axis=0)]) for p in parts)
            yield tuple(np.ascontiguousarray(p) for p in parts)


@dataclass(frozen=True)
class Case:
    """One model at one batch size.

    `calibration` is unlabelled; `selection` is labelled and is what settings may be chosen on; `test` decides nothing
    and is only reported. `metric` maps outputs ``[N, ...]`` and labels to points, higher is better. A case without
    real data has neither `selection` nor `test`, and its quality is the error against eager. `example` is a copy of its
    own, read-only.
    """

    name: str
    title: str
    batch: int
    input_names: tuple[str, ...]
    build: Callable[[], nn.Module]
    example: tuple[Array, ...]
    calibration: Samples
    selection: Samples | None = None
    test: Samples | None = None
    metric: Callable[[Array, Array], float] | None = None
    unit: str = ""
    transformer: bool = False
    unlabelled: Samples | None = None
    """More inputs without labels, for those who train; apart from `selection` and `test`."""
    also: Mapping[str, Callable[[Run], float]] = field(default_factory=dict)
    """Other scores of a runner, by name, that decide nothing either."""
    beside: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    """Scores of other models on the test data, by name, to be told beside."""
    dynamic: Mapping[str, Mapping[int, str]] | None = None
    """Sizes besides the batch that one artifact is to serve, as `mcomp.optimize` takes them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "example", _read_only([np.array(array, order="C") for array in self.example]))

    def outputs(self, run: Run, samples: Samples) -> Array:
        """Outputs ``[N, ...]`` of `run` on `samples`, called only at the case's own batch size."""
        rows = [np.array(run(*batch)) for batch in samples.batches(self.batch)]
        return np.concatenate(rows)[: len(samples)]

    def score(self, run: Run, samples: Samples | None) -> float | None:
        """The metric of `run` on a labelled split, or None where the case has no such split."""
        if samples is None or self.metric is None or samples.labels is None:
            return None
        return self.metric(self.outputs(run, samples), samples.labels)

    def probe(self, count: int = 16) -> Samples:
        """A few inputs on which runners are compared with eager: the first of `test`, else of `calibration`."""
        source = self.calibration if self.test is None else self.test
        return Samples(tuple(array[:count] for array in source.inputs))

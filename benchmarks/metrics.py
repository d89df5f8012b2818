"""Quality metrics over stacked model outputs; higher is better, in points out of 100."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Array


def top1(outputs: Array, labels: Array) -> float:
    """Share of rows of `outputs` ``[N, classes]`` whose largest entry is at `labels` ``[N]``, in percent."""
    return 100.0 * float((outputs.argmax(-1) == labels).mean())


def ranks(values: Array) -> Array:
    """Ranks of `values` ``[N]`` from 0, ties sharing their mean rank."""
    order = np.argsort(values, kind="stable")
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared = ends - (counts + 1) / 2
    result = np.empty(len(values))
    result[order] = shared[inverse]
    return result


def spearman_of_cosine(outputs: Array, labels: Array) -> float:
    """Spearman correlation x 100 between `labels` ``[P]`` and the cosines of embedding pairs.

    `outputs` ``[2P, hidden]`` holds the first sentences of all pairs, then the second ones.
    """
    first, second = np.split(outputs.astype(np.float64), 2)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(1) / norms
    return 100.0 * float(np.corrcoef(ranks(cosine), ranks(labels))[0, 1])


def relative_l2(outputs: Array, reference: Array) -> float:
    """``||outputs - reference|| / ||reference||`` in double precision."""
    wanted = reference.astype(np.float64)
    return float(np.linalg.norm(outputs.astype(np.float64) - wanted) / np.linalg.norm(wanted))

"""Linear heads on embeddings: what a sentence encoder keeps beside the metric that it was compressed under.

A head is fitted once on what the uncompressed network gives, and then stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import data
from benchmarks.case import Array, Run
from benchmarks.teachers import digest_of
from mcomp.files import replacing

if TYPE_CHECKING:
    from torch import nn

TRAINED_ON = 4000
"""Training sentences that the head is fitted on."""
FIT = {"C": 10, "max_iter": 1000}
"""Options of the logistic regression."""
_TOGETHER = 50


def sst2_head(
    folder: Path, kept: Path, encode: Callable[[list[str]], tuple[Array, ...]], build: Callable[[], nn.Module], count: int,
    network: str,
) -> Callable[[Run], float]:
    """A score: percent of the first `count` SST-2 test sentences that a logistic regression on the dense network's
    embeddings gets right with a runner's. The head is kept in a folder, by recipe; `network`: name and version of the dense
    network."""

    def score(run: Run) -> float:
        weight, bias = _head(folder, kept, encode, build, network)
        sentences, labels = data.sst2(folder, "test", count)
        inputs = encode(sentences)
        embeddings = np.concatenate([np.array(run(*(a[i : i + 1] for a in inputs))) for i in range(len(sentences))])
        return float(100.0 * np.mean((embeddings @ weight + bias > 0) == (labels == 1)))

    return score


def _head(
    folder: Path, kept: Path, encode: Callable[[list[str]], tuple[Array, ...]], build: Callable[[], nn.Module], network: str
) -> tuple[Array, float]:
    sentences, labels = data.sst2(folder, "train", TRAINED_ON)
    encoded = encode(sentences)
    path = kept / "teachers" / f"sst2-head-{digest_of({**FIT, 'network': network}, [*encoded, labels])}.npz"
    if path.exists():
        with np.load(path) as found:
            return found["weight"], float(found["bias"])
    import torch
    from sklearn.linear_model import LogisticRegression

    inputs, dense = [torch.from_numpy(a) for a in encoded], build()
    with torch.inference_mode():
        parts = [dense(*(a[i : i + _TOGETHER] for a in inputs)) for i in range(0, len(sentences), _TOGETHER)]
    head = LogisticRegression(**FIT).fit(torch.cat(parts).numpy(), labels)
    weight, bias = head.coef_[0].astype(np.float32), float(head.intercept_[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, weight=weight, bias=bias)
    return weight, bias

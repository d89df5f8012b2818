"""Bytes in the ledger: the entries of a pass add up to what constants lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcomp.ir.graph import Graph
from mcomp.passes.compress.encode import constant_bytes


def divided(total: int, shares: Sequence[float]) -> list[int]:
    """Whole parts of a number of bytes, in proportion to shares (equal parts, where these are all zero); they add up to
    it."""
    weights = np.array(shares, np.float64)
    ends = np.cumsum(weights if weights.any() else np.ones_like(weights))
    return [int(part) for part in np.diff(np.round(total * ends / ends[-1]), prepend=0.0)] if len(ends) else []


def settle(graph: Graph, first: int, size: int) -> None:
    """Take what the ledger's entries from place `first` on do not tell of, such as biases that fits add, from all of them
    alike. `size`: bytes of constants before the first of them."""
    entries = graph.ledger[first:]
    untold = size - constant_bytes(graph) - sum(e.bytes_saved for e in entries)
    for entry, part in zip(entries, divided(untold, [1.0] * len(entries))):
        entry.bytes_saved += part

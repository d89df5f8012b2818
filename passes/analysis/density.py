"""Density: how many zeros the constants hold, and in which patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mcomp.ir.graph import Graph
from mcomp.ir.store import Weight
from mcomp.manager.analysis import Analysis
from mcomp.manager.context import Context


@dataclass(frozen=True)
class WeightDensity:
    """Zeros of one constant, decoded.

    `zeros`: the fraction of elements that are zero. `two_of_four`: the fraction of groups of four along the last axis
    with at least two zeros; None when four does not divide it. `blocks`: the fraction of blocks that are all zero, by
    block shape, for matrices (the first axis against all others) that the blocks tile.
    """

    name: str
    shape: tuple[int, ...]
    zeros: float
    two_of_four: float | None
    blocks: Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Density(Analysis):
    """A `WeightDensity` for every floating-point constant of at least two axes, by digest. `blocks`: the block shapes
    looked at."""

    name = "density"
    blocks: tuple[tuple[int, int], ...] = ((1, 8), (1, 16), (4, 4), (8, 1), (16, 16), (32, 32))

    def run(self, graph: Graph, context: Context) -> dict[str, WeightDensity]:
        """Count the zeros."""
        found: dict[str, WeightDensity] = {}
        for node in graph.walk():
            if node.op.name != "const" or node.attrs["digest"] in found:
                continue
            if node.type.dtype.is_float and node.type.rank >= 2:
                weight = node.graph.store.get(node.attrs["digest"])
                found[weight.digest] = weight_density(node.attrs["name"], weight, self.blocks)
        return found


def weight_density(name: str, weight: Weight, blocks: tuple[tuple[int, int], ...]) -> WeightDensity:
    """Count the zeros of one constant of at least one axis. An empty one has no zeros and no patterns."""
    empty = np.asarray(weight.decode()) == 0
    shape = tuple(int(d) for d in empty.shape)
    if empty.size == 0:
        return WeightDensity(name, shape, 0.0, None, {})
    pairs = None
    if shape[-1] % 4 == 0:
        pairs = float(np.mean(empty.reshape(-1, 4).sum(axis=1) >= 2))
    matrix = empty.reshape(shape[0], -1)
    patterns = {b: _zero_blocks(matrix, b) for b in blocks if matrix.shape[0] % b[0] == 0 == matrix.shape[1] % b[1]}
    return WeightDensity(name, shape, float(np.mean(empty)), pairs, patterns)


def _zero_blocks(empty: np.ndarray, block: tuple[int, int]) -> float:
    rows, columns = empty.shape
    tiles = empty.reshape(rows // block[0], block[0], columns // block[1], block[1])
    return float(np.mean(tiles.all(axis=(1, 3))))

"""Grouped optimal brain surgeon: in which order units go, and the error of the best refit after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mcomp.passes.compress.algebra import damped, spectrum

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 1e-3
"""What is added to the diagonals of second moments, as a share of their mean."""


@dataclass
class Reader:
    """A product (or one group of a convolution) that sums over units: its weight [N, K], second moments of its inputs
    around their means [K, K], and the inputs of every unit, i64[units, m]. `scale`: what one unit of its squared error
    counts. `inverse`: of the damped moments, where it is known. `mean`: of the inputs [K], for errors without a refit.
    `damping`: what is added to the diagonal of the moments, as a share of its mean."""

    weight: Tensor
    gram: Tensor
    inputs: Tensor
    scale: float = 1.0
    inverse: Tensor | None = None
    mean: Tensor | None = None
    damping: float = DAMPING


def inverse_of(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """The inverse of damped second moments [K, K]."""
    values, vectors = spectrum(damped(gram.double(), damping))
    return (vectors / values) @ vectors.T


@dataclass(frozen=True)
class Order:
    """Units in the order in which they go, and `errors[k]`, the squared error once the first k are gone (k from 0)."""

    units: np.ndarray
    errors: np.ndarray


def surgeon_order(readers: Sequence[Reader], units: int, most: int, step: int = 1) -> Order:
    """Remove up to `most` units, `step` at a time: always those whose removal adds the least squared error to what the
    products give once the weights of what stays are refitted (Hassibi and Stork 1993; in groups: Kurtic et al. 2023,
    arXiv:2302.04089). Inverses are updated, not computed again."""
    import torch

    states = [_State(r) for r in readers]
    alive = torch.ones(units, dtype=torch.bool)
    order: list[int] = []
    errors = [0.0]
    while len(order) < most:
        score = torch.zeros(units, dtype=torch.float64)
        for state in states:
            score += state.scores()
        score[~alive] = torch.inf
        count = min(step, most - len(order))
        chosen = torch.argsort(score, stable=True)[:count]
        before = errors[-1]
        together = sum(state.remove(chosen) for state in states)
        share = score[chosen].clamp(min=0)
        part = torch.cumsum(share, 0) / share.sum().clamp(min=1e-300)
        errors += [before + max(0.0, together) * float(p) for p in part]
        errors[-1] = before + max(0.0, together)
        alive[chosen] = False
        order += chosen.tolist()
    return Order(np.array(order, np.int64), np.array(errors))


class _State:
    """One reader's weight and inverse as units go."""

    def __init__(self, reader: Reader) -> None:
        self.weight = reader.weight.double() * reader.scale**0.5
        self.inverse = inverse_of(reader.gram, reader.damping) if reader.inverse is None else reader.inverse.clone()
        self.inputs = reader.inputs

    def scores(self) -> Tensor:
        """The squared error that removing each unit alone adds; anything for those that are gone."""
        import torch

        columns = self.weight[:, self.inputs]
        if self.inputs.shape[1] == 1:
            diagonal = self.inverse.diagonal()[self.inputs[:, 0]]
            return columns[..., 0].square().sum(0) / torch.where(diagonal > 0, diagonal, torch.inf)
        blocks = self.inverse[self.inputs[:, :, None], self.inputs[:, None, :]]
        size = blocks.shape[-1]
        empty = blocks.diagonal(dim1=-2, dim2=-1).sum(-1) <= 0
        blocks = torch.where(empty[:, None, None], torch.eye(size, dtype=blocks.dtype), blocks)
        wide = columns.permute(1, 2, 0)
        solved = torch.linalg.solve(blocks, wide)
        return (solved * wide).sum((1, 2))

    def remove(self, units: Tensor) -> float:
        """Take units away, refit what stays; returns the squared error that this adds."""
        import torch

        gone = self.inputs[units].reshape(-1)
        block = self.inverse[gone][:, gone]
        columns = self.weight[:, gone]
        through = torch.linalg.solve(block, self.inverse[gone])
        error = float((torch.linalg.solve(block, columns.T) * columns.T).sum())
        self.weight = self.weight - columns @ through
        self.inverse.addmm_(self.inverse[:, gone], through, alpha=-1)
        self.weight[:, gone] = 0.0
        self.inverse[gone] = 0.0
        self.inverse[:, gone] = 0.0
        return error


def additive_order(scores: Tensor, most: int) -> Order:
    """Units by ascending score, their errors added up: for scores that know of no refit."""
    import torch

    order = torch.argsort(scores, stable=True)[:most]
    errors = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumsum(scores[order].double(), 0)])
    return Order(order.numpy(), errors.numpy())


def refit_errors(readers: Sequence[Reader], units: Sequence[int] | np.ndarray, points: Sequence[int]) -> np.ndarray:
    """The squared error of the best refit once the first `points[i]` of `units` are gone, whatever chose them."""
    import torch

    states = [_State(r) for r in readers]
    found, total, at = [], 0.0, 0
    for point in points:
        if point > at:
            chosen = torch.as_tensor(np.asarray(units[at:point]), dtype=torch.int64)
            total += sum(state.remove(chosen) for state in states)
            at = point
        found.append(total)
    return np.array(found)

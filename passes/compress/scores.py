"""Scores of the units of a dimension that know of no refit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mcomp.ir.graph import Node
from mcomp.passes.analysis.coupling import Dimension
from mcomp.passes.compress.surgeon import Reader

if TYPE_CHECKING:
    from torch import Tensor


def magnitudes(dimension: Dimension) -> Tensor:
    """The squared norm of what makes each unit, as a share of all, summed over the constants that do."""
    import torch

    total = torch.zeros(dimension.size, dtype=torch.float64)
    for use in dimension.producers:
        weight = use.value.weight
        if weight is None or weight.type.rank < 2:
            continue
        data = np.moveaxis(np.asarray(weight.decode(), np.float64), use.axis, 0)
        norms = np.square(data.reshape(len(data), -1)).sum(1)[use.positions].sum(1)
        total += torch.from_numpy(norms / max(norms.sum(), 1e-30))
    return total


def activations(readers: Sequence[Reader], units: int) -> Tensor:
    """The squared change of what products give when each unit stays at its mean: weights times the deviation of activations
    (in the manner of Sun et al. 2023, arXiv:2306.11695, for groups)."""
    import torch

    total = torch.zeros(units, dtype=torch.float64)
    for reader in readers:
        each = reader.weight.double().square().sum(0) * reader.gram.diagonal() * reader.scale
        total += each[reader.inputs].sum(1)
    return total


def taylor(dimension: Dimension, products: Mapping[Node, Tensor]) -> Tensor:
    """The mean square of activation times gradient, summed over each unit's elements first (Molchanov et al. 2019,
    arXiv:1906.10771, with the model's own output in the place of a loss)."""
    import torch

    total = torch.zeros(dimension.size, dtype=torch.float64)
    for consumer in dimension.consumers:
        if consumer.node in products:
            total += products[consumer.node][:, torch.from_numpy(consumer.positions)].sum(-1).square().mean(0)
    return total

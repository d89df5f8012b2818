"""Readers: the products that sum over a dimension, with what second moments say of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from mcomp.ir.graph import Node
from mcomp.manager.context import Context
from mcomp.passes.analysis.coupling import Consumer, Dimension
from mcomp.passes.compress.moments import Moments, moment_bytes, weight_matrix
from mcomp.passes.compress.surgeon import DAMPING, Reader, refit_errors

MEASURED = ("linear", "conv")
"""Products whose inputs have second moments."""
MEMORY = 1 << 31
"""Bytes of second moments that are held at once."""
TOO_WIDE = "it has too many inputs for second moments", "exclude it"
"""Why nothing is done that needs them, and what helps."""
_POINTS = 48
"""Numbers of removed units for which an error is computed, at most."""


def has_moments(consumer: Consumer) -> bool:
    """Whether the inputs of a product have second moments."""
    return consumer.weight is not None and consumer.node.op.name in MEASURED


def judged(dimensions: Sequence[Dimension]) -> list[Node]:
    """The products with second moments that sum over some of these dimensions."""
    return list(dict.fromkeys(c.node for d in dimensions for c in d.consumers if has_moments(c)))


def too_wide(node: Node) -> bool:
    """Whether second moments of what a product reads do not fit into memory."""
    return moment_bytes(node) > MEMORY


def sharers(node: Node) -> tuple[Node, ...]:
    """Others that read the constant weight of a linear or conv, or one of equal content, which is stored once."""
    weight = node.operand(1).weight
    if weight is None:
        return ()
    same = (n for n in node.graph.nodes if n.op.name == "const" and n.attrs["digest"] == weight.digest)
    return tuple(dict.fromkeys(u for n in same for u in n.result.users if u is not node))


def tied(rule: str, node: Node, context: Context, change: str) -> bool:
    """Whether others read the constant weight of a linear or conv, too; a remark if so. `change`: what would untie them."""
    others = sharers(node)
    if others:
        names = ", ".join(dict.fromkeys("other calls of it" if n.layer == node.layer else n.layer or n.name for n in others))
        context.missed(rule, node, f"its weight is shared with {names}; {change} would untie it",
                       "untie them in the model, or exclude it")
    return bool(others)


def portions(dimensions: Sequence[Dimension]) -> Iterator[list[Dimension]]:
    """Dimensions in order, as many at a time as the second moments of their readers fit into memory."""
    portion: list[Dimension] = []
    for dimension in dimensions:
        if portion and sum(map(moment_bytes, judged([*portion, dimension]))) > MEMORY:
            yield portion
            portion = []
        portion.append(dimension)
    if portion:
        yield portion


def readers_of(dimension: Dimension, moments: Mapping[Node, Moments]) -> list[Reader] | None:
    """The products that sum over a dimension; None when one of them has no moments."""
    found: list[Reader] = []
    for consumer in dimension.consumers:
        if not has_moments(consumer):
            continue
        if consumer.node not in moments:
            return None
        found += _readers(consumer, moments[consumer.node])
    return found


def _readers(consumer: Consumer, moments: Moments) -> list[Reader]:
    import torch

    node = consumer.node
    weight, covariance = weight_matrix(node), moments.covariance
    groups, _, width = weight.shape
    window = prod(node.operand(1).tensor.static_shape[2:])
    local = width // window
    whole = float(torch.einsum("gnk,gkl,gnl->", weight, moments.gram, weight))
    found = []
    for g in range(groups):
        channels = _of_group(consumer.positions, g, local, groups)
        inputs = torch.from_numpy((channels[:, :, None] * window + np.arange(window)).reshape(len(channels), -1))
        scale = 1.0 / max(whole, 1e-30)
        found.append(Reader(weight[g], covariance[g], inputs, scale, mean=moments.mean[g], damping=moments.damping(DAMPING)))
    return found


def _of_group(positions: np.ndarray, group: int, local: int, groups: int) -> np.ndarray:
    """Places within a group of the channels that units have in it, i64[units, m]."""
    if groups == 1:
        return positions
    inside = positions // local == group
    return (positions[inside] % local).reshape(len(positions), -1)


def losses(readers: Sequence[Reader], order: np.ndarray, refit: bool) -> np.ndarray:
    """The squared error once the first k units of an order are gone, f64[len(order) + 1]: after the best refit, or without
    any; between some k interpolated."""
    points = np.unique(np.linspace(0, len(order), min(len(order), _POINTS) + 1).astype(int))
    if refit:
        found = refit_errors(readers, order, points.tolist())
    else:
        found = np.array([sum(_masked(r, order[:k]) for r in readers) for k in points])
    return np.interp(np.arange(len(order) + 1), points, found)


def _masked(reader: Reader, units: np.ndarray) -> float:
    """The squared error of an output when units are zero."""
    import torch

    columns = reader.inputs[torch.from_numpy(units)].reshape(-1)
    part = reader.weight[:, columns]
    second = reader.gram
    if reader.mean is not None:
        second = second + reader.mean[:, None] * reader.mean[None, :]
    return reader.scale * float(((part @ second[columns][:, columns]) * part).sum())

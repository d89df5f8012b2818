"""Iteration spaces: which loops visit all elements of some strided accesses, merged as far as strides allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcomp.backends.cpu.access import Access
from mcomp.ir import dims
from mcomp.ir.dims import Dim


@dataclass(frozen=True)
class Space:
    """Loops from outermost to innermost: sizes, and for every access its stride in each loop."""

    sizes: tuple[Dim, ...]
    strides: tuple[tuple[Dim, ...], ...]

    @property
    def rank(self) -> int:
        return len(self.sizes)


def collapse(shape: Sequence[Dim], accesses: Sequence[Access], order: Sequence[int] | None = None) -> Space:
    """The loops over `shape`, axes visited in `order`; accesses are broadcast to the shape. Axes of size 1 go; neighbours
    that lie without gaps in every access become one."""
    wide = [a.expand(shape) for a in accesses]
    axes = [a for a in (order if order is not None else range(len(shape))) if shape[a] != 1]
    sizes: list[Dim] = []
    strides: list[list[Dim]] = [[] for _ in wide]
    for axis in axes:
        size = shape[axis]
        steps = [a.strides[axis] for a in wide]
        if sizes and all(s[-1] == dims.mul(step, size) for s, step in zip(strides, steps)):
            sizes[-1] = dims.mul(sizes[-1], size)
            for s, step in zip(strides, steps):
                s[-1] = step
            continue
        sizes.append(size)
        for s, step in zip(strides, steps):
            s.append(step)
    return Space(tuple(sizes), tuple(tuple(s) for s in strides))


def common_order(shape: Sequence[Dim], accesses: Sequence[Access]) -> tuple[int, ...] | None:
    """The order of axes in which all operands of the full shape lie, when it is not row-major; else None.

    Channels-last wins over row-major where both occur, so that a chain of convolutions stays as it is.
    """
    full = [a for a in accesses if a.shape == tuple(shape) and not any(s == 0 for s in _moving(a))]
    orders = [a.dense_order() for a in full]
    plain = tuple(range(len(shape)))
    last = channels_last(len(shape))
    if last is not None and last != plain and last in orders and all(o is not None for o in orders):
        return last
    if orders and orders[0] is not None and orders[0] != plain and all(o == orders[0] for o in orders):
        return orders[0]
    return None


def channels_last(rank: int) -> tuple[int, ...] | None:
    """The order of axes with the channels, axis 1, moving fastest; None below rank 3."""
    return (0, *range(2, rank), 1) if rank >= 3 else None


def order_of(access: Access) -> tuple[int, ...] | None:
    """The order of axes in which elements lie: without gaps, or channels-last where only the channels lie side by side; None
    when there is none."""
    order = access.dense_order()
    if order is not None or access.rank < 3 or access.shape[1] == 1:
        return order
    return channels_last(access.rank) if access.strides[1] == 1 and access.strides[-1] != 1 else None


def _moving(access: Access) -> list[Dim]:
    return [s for d, s in zip(access.shape, access.strides) if d != 1]

"""Which register tile a product uses: how many vectors of columns wide. The same for packing and for multiplying.

Tiles of one width and of any height run at the same speed as long as their sums stay in registers, so that only columns
that a panel pads cost time. What is known of a weight's product from measuring (see tune.py) stands in the layout of its
type; without it a rule decides.
"""

from __future__ import annotations

from mcomp.ir.dims import Dim
from mcomp.ir.graph import Value

LANES = (16, 8, 4)
"""32-bit lanes of a vector: AVX-512, AVX2, portable. C++ decides with the lanes it has."""
DEFAULT = (2, 2, 2)
"""Vectors that the default tile is wide, on each of them."""

_SPEED = {
    False: ({1: 0.96, 2: 1.0, 3: 0.99}, {1: 0.75, 2: 1.0, 3: 0.97}, {1: 0.75, 2: 1.0, 3: 0.97}),
    True: ({1: 0.96, 2: 1.0, 3: 0.97}, {1: 0.7, 2: 1.0}, {1: 0.7, 2: 1.0}),
}
"""Speed of tiles by their width in vectors, where nothing is padded, relative to the default: by int8 and lanes. The
first of each was measured (Zen 4), the others follow from the number of independent sums."""
_WORTH = 0.96
"""Another width than the default, which costs compile time, has to take at most this share of its time."""
_SLACK = 1.1
"""Widths that the rule expects to take at most this much longer than its choice are worth measuring."""


def tile(columns: Dim, *, int8: bool = False, weight: Value | None = None) -> str:
    """The C++ type of the tile for a number of columns (of one group); see kernels/tiles.hpp. The layout of the weight's
    type may say how many columns make a panel: so many as measured best on this machine."""
    layout = None if weight is None else weight.tensor.layout
    panel = None if layout is None or layout.block == 1 else layout.block
    if not isinstance(columns, int):
        widths: tuple[int, ...] = DEFAULT
    else:
        widths = tuple(width(columns, i, int8=int8, panel=panel) for i in range(len(LANES)))
    if widths == DEFAULT:
        return "DefaultTileI8" if int8 else "DefaultTile"
    return f"TileFor{'I8' if int8 else ''}<{', '.join(map(str, widths))}>"


def width(columns: int, isa: int, *, int8: bool, panel: int | None = None) -> int:
    """Vectors that a tile is wide on LANES[isa]: those of `panel` where it is a whole number of them that registers
    hold, else those that take the least time by the rule."""
    if panel is not None and panel % LANES[isa] == 0 and panel // LANES[isa] in _SPEED[int8][isa]:
        return panel // LANES[isa]
    cost = _costs(columns, isa, int8)
    best = min(cost, key=lambda v: cost[v])
    return best if cost[best] < _WORTH * cost[DEFAULT[isa]] else DEFAULT[isa]


def candidates(columns: int, isa: int, *, int8: bool) -> tuple[int, ...]:
    """Columns of the panels worth measuring, the rule's choice first: those that the rule expects to take not much more
    time than its choice."""
    cost = _costs(columns, isa, int8)
    first = width(columns, isa, int8=int8)
    rest = sorted((v for v in cost if v != first and cost[v] <= _SLACK * cost[first]), key=lambda v: cost[v])
    return tuple(v * LANES[isa] for v in (first, *rest))


def _costs(columns: int, isa: int, int8: bool) -> dict[int, float]:
    """Time by width, in vectors of columns that a tile of the default width takes."""
    speeds, lanes = _SPEED[int8][isa], LANES[isa]
    return {v: -(-columns // (v * lanes)) * v / speed for v, speed in speeds.items()}

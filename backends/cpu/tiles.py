"""Which register tile a product uses: how many vectors of columns wide. The same for packing and for multiplying.

Tiles of one width and of any height run at the same speed as long as their sums stay in registers, so that only columns
that a panel pads cost time. What is known of a weight's product from measuring (see tune.py) stands in the layout of its
type; without it a rule decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.ir import dims
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
_MATRIX_SPEED = {2: 1.0, 1: 0.9}
"""As _SPEED for tiles in matrix registers, by vectors of 16 columns (Granite Rapids: 0.85 to 1.0)."""
_MATRIX_LENGTH = 24
"""Below, most of what matrix registers multiply is padding (measured: 0.85 times as fast at 16, 1.1 at 24, 2 at 32)."""
_GATHERED_LENGTH = 128
"""Below, gathering costs what matrix registers save (measured: 0.6 times as fast at 27, 1.07 at 144, 1.16 at 147)."""
_WORTH = 0.96
"""Another width than the default, which costs compile time, has to take at most this share of its time."""
_SLACK = 1.1
"""Widths that the rule expects to take at most this much longer than its choice are worth measuring."""


def tile(columns: Dim, *, int8: bool = False, weight: Value | None = None, matrix: bool = False) -> str:
    """The C++ type of the tile for a number of columns (of one group); see kernels/tiles.hpp. The layout of the weight's
    type may say how many columns make a panel: so many as measured best on this machine. `matrix`: whether a product of
    bytes uses matrix registers (kernels/micro_matrix.hpp) where there are some."""
    layout = None if weight is None else weight.tensor.layout
    panel = None if layout is None or layout.block == 1 else layout.block
    vectors = _vectors(columns, int8, panel)
    return matrix_tile(vectors, columns, panel) if int8 and matrix else vectors


def matrix_tile(other: str, columns: Dim, panel: int | None = None) -> str:
    """The C++ type of a tile in matrix registers, and `other` where there are none or columns are symbolic."""
    return f"MatrixTileOr<{other}, {matrix_width(columns, panel)}>" if isinstance(columns, int) else other


def _vectors(columns: Dim, int8: bool, panel: int | None) -> str:
    if not isinstance(columns, int):
        widths: tuple[int, ...] = DEFAULT
    else:
        widths = tuple(width(columns, i, int8=int8, panel=panel) for i in range(len(LANES)))
    if widths == DEFAULT:
        return "DefaultTileI8" if int8 else "DefaultTile"
    return f"TileFor{'I8' if int8 else ''}<{', '.join(map(str, widths))}>"


def suits_matrix(shape: Sequence[Dim], groups: Dim = 1) -> bool:
    """Whether a product of bytes with a weight [N, K] or [O, C / groups, *kernel] gains from matrix registers, which take
    64 bytes of a reduction at once. What a kernel larger than one reads has to be gathered first."""
    length = dims.product(tuple(shape[1:]))
    if groups != 1 or not isinstance(length, int):
        return False
    return length >= (_MATRIX_LENGTH if all(size == 1 for size in shape[2:]) else _GATHERED_LENGTH)


def matrix_width(columns: int, panel: int | None = None) -> int:
    """Vectors of 16 columns that a tile in matrix registers is wide: those of `panel`, else those that take the least time
    by the rule."""
    if panel is not None and panel in (16, 32):
        return panel // 16
    return min(_matrix_costs(columns), key=lambda v: _matrix_costs(columns)[v])


def matrix_candidates(columns: int) -> tuple[int, ...]:
    """As candidates, for tiles in matrix registers."""
    first, cost = matrix_width(columns), _matrix_costs(columns)
    return tuple(16 * v for v in (first, *(v for v in cost if v != first and cost[v] <= _SLACK * cost[first])))


def _matrix_costs(columns: int) -> dict[int, float]:
    return {v: -(-columns // (16 * v)) * v / speed for v, speed in _MATRIX_SPEED.items()}


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

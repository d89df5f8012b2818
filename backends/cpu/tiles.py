"""Which register tile a product uses. The same for packing and for multiplying, on every instruction set."""

from __future__ import annotations

from mcomp.ir.dims import Dim

_WIDEST = 16
"""32-bit lanes of the widest vectors; C++ decides with the lanes it has."""


def tile(columns: Dim, *, int8: bool = False) -> str:
    """The C++ type of the tile for a number of columns (of one group); see kernels/tiles.hpp."""
    if not isinstance(columns, int) or columns > _WIDEST:
        return "DefaultTileI8" if int8 else "DefaultTile"
    bucket = next(b for b in (4, 8, _WIDEST) if columns <= b)
    return f"TileFor{'I8' if int8 else ''}<{bucket}>"

"""Matrix products: linear and matmul, with floats, bytes, and weights in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.coded import (
    byte_product,
    byte_rows,
    byte_weight,
    float8_product,
    scaled_rows,
    scaled_weight,
)
from mcomp.backends.triton.lower.computed import computed, inside_ways
from mcomp.backends.triton.lower.linear import (
    SPLIT_ROWS,
    SPLIT_WAYS,
    split_of,
    summed,
    tile_product,
    vector_product,
    weight_way,
)
from mcomp.backends.triton.lower.tail import Tail, finish, library_ways, ours_first, plain
from mcomp.backends.triton.lower.tiles import prepared, start_tile, tile_grid
from mcomp.backends.triton.program import Chip, Launch, Numbers, TorchStep
from mcomp.backends.triton.text import Group, KernelText, group
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import BlockSparse
from mcomp.ir.graph import Node

FLOATS = (dtypes.f32, dtypes.f16, dtypes.bf16, dtypes.f8e4m3)
LIBRARY = (dtypes.f32, dtypes.f16, dtypes.bf16)
"""Element types whose products torch's libraries compute too."""
Ways = list[tuple[str, list[Launch | TorchStep]]]
VECTOR_ROWS = 4
"""Up to so many rows are multiplied one by one, without tensor cores, which would be mostly idle."""
_TILE_ROWS, _TILE_COLS, _VECTOR_COLS = 64, 64, 16
"""What a program computes, about."""
_COMPUTED_TILES = 2
"""Tiles along the columns, each of which computes all rows, up to which that is better than a kernel of its own."""


@lowers("linear", target=TARGET)
def lower_linear(node: Node, b: Builder) -> Declined | None:
    return linear(node, plain(node), b)


@lowers("matmul", target=TARGET)
def lower_matmul(node: Node, b: Builder) -> Declined | None:
    return matmul(node, plain(node), b)


def linear(node: Node, tail: Tail, b: Builder, before: Sequence[Node] = ()) -> Declined | None:
    """x times the transposed weight, plus bias, then the tail. `before`: element-wise nodes that compute x, which nobody
    else reads."""
    x, weight = node.operand(0), node.operand(1)
    dtype = x.tensor.dtype
    if dtype not in FLOATS:
        return Declined(f"{dtype} products have no Triton kernel")
    rows = computed(before, b) if before else None
    if isinstance(rows, Declined):
        return rows
    first: list[Launch | TorchStep] = []
    if rows is not None:
        if isinstance(weight.tensor.encoding, BlockSparse):
            return Declined("its weight is block-sparse", "its rows are computed first")
        held = b.temp(dtype, x.tensor.shape)
        b.bind(x, held)
        first = [rows.apart(held, b)]
    shape = node.type.shape
    sizes: dict[str, Dim] = {"rows": dims.product(shape[:-1]), "cols": shape[-1], "inner": weight.tensor.shape[1]}
    whole = prepared(node, tail, sizes, b)
    if isinstance(whole, Declined):
        return whole
    place = b.place(x)
    if isinstance(weight.tensor.encoding, BlockSparse):
        from mcomp.backends.triton.lower.sparse import sparse_linear

        if sparse_linear(whole, b):
            return None
    if isinstance(place, Coded) and byte_rows(place) is None and byte_weight(weight, b) is None:
        b.emit(byte_product(whole, place, b))
        return None
    from mcomp.backends.triton.lower.semi_structured import semi_structured_way

    pairs = semi_structured_way(whole, b)
    if isinstance(place, Coded) and scaled_rows(place) and scaled_weight(weight, b):
        b.emit(float8_product(whole, place, b))
        return None
    way = weight_way(weight, b, told=pairs is not None)
    ways: Ways = [("tile", [*first, tile_product(whole, way, b)]), ("vector", [*first, vector_product(whole, way, b)])]
    others = library_ways(node, tail, whole.views, whole.room, b) if dtype in LIBRARY else []
    ways += [(name, [*first, *steps]) for name, steps in (*others, *([] if pairs is None else [pairs]))]
    parts = split_of(whole, way, b)
    if parts is not None:
        ways += [(name, [*first, make(whole, way, b, parts), summed(whole, way, b, parts)])
                 for name, make in SPLIT_WAYS.items()]
    split = len(ways) if parts is not None else None
    inside = {} if rows is None else inside_ways(whole, way, rows, b)
    default = _by_rows(split)
    if inside:
        default = _computing(default, len(ways))
        ways += [(name, [launch]) for name, launch in inside.items()]
    chosen: dict[str, Dim] = {"rows": sizes["rows"], "cols": sizes["cols"]}
    b.choose(ways, default, chosen, dict.fromkeys(SPLIT_WAYS, SPLIT_ROWS))
    return None


def _computing(otherwise: Callable[[Numbers, Chip], int], first: int) -> Callable[[Numbers, Chip], int]:
    """The ways that compute their rows, by tiles (number `first`) or row by row (the one behind it), where these are few, or
    are computed a few times only."""
    def default(sizes: Numbers, chip: Chip) -> int:
        if sizes["rows"] <= VECTOR_ROWS:
            return first + 1
        return first if sizes["cols"] <= _COMPUTED_TILES * _TILE_COLS else otherwise(sizes, chip)

    return default


def _by_rows(split: int | None) -> Callable[[Numbers, Chip], int]:
    """The way of a few rows, or of many; where a chip has more cores than there are tiles, one of the last two of so many
    ways, which split (None: none does)."""
    def default(sizes: Numbers, chip: Chip) -> int:
        rows, cols = sizes["rows"], sizes["cols"]
        if rows <= VECTOR_ROWS:
            few = rows * -(-cols // _VECTOR_COLS) < chip.cores
            return split - 1 if split and few else 1
        few = -(-rows // _TILE_ROWS) * -(-cols // _TILE_COLS) < chip.cores
        return split - 2 if split and few and rows <= SPLIT_ROWS else 0

    return default


def matmul(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """a times b, then the tail."""
    if node.type.dtype not in FLOATS:
        return Declined(f"{node.type.dtype} products have no Triton kernel")
    views = tail.views(b)
    if isinstance(views, Declined):
        return views
    left, right = b.read(node.operand(0)), b.read(node.operand(1))
    row_axis, col_axis = left.rank > 1, right.rank > 1
    left = left if row_axis else left.insert((0,))
    right = right if col_axis else right.insert((1,))
    shape = node.type.shape
    count = len(shape) - int(row_axis) - int(col_axis)
    lead = shape[:count]
    left, right = left.expand((*lead, *left.shape[-2:])), right.expand((*lead, *right.shape[-2:]))
    rows = tuple(range(count, count + int(row_axis)))
    together = all(s == 0 or d == 1 for s, d in zip(right.strides[:count], lead))
    text = KernelText()
    batch = None if together or not lead else group("z", range(count), shape)
    row_group = group("rows", (*range(count), *rows) if together else rows, shape, inside="rows_in", place="[:, None]")
    cols = group("cols", range(len(shape) - int(col_axis), len(shape)), shape, inside="cols_in", place="[None, :]")
    tiles = start_tile(text, row_group, cols, batch=batch)
    # In the operands' views the row axis stands at `count`, whether the result has it or not.
    a_axes = (*range(count), count) if together else (count,)
    a_rows = Group("rows_safe", a_axes, tuple(left.shape[a] for a in a_axes))
    a_terms, b_terms = text.row_terms(left, a_rows), "0"
    near = right.strides[-1] == 1
    b_group = Group("cols" if near else "cols_safe", (count + 1,), (right.shape[-1],))
    b_terms = text.row_terms(right, b_group)
    which = None if batch is None else Group("z", tuple(range(count)), lead)
    a_start, b_start = (" + ".join([text.base(v), *(text.terms(v, which) if which else ())]) for v in (left, right))
    size = left.shape[-1]
    inner = text.number(size)
    even = f"{inner} % BLOCK_K == 0" if isinstance(size, int) else "False"
    text.line(
        f"acc = products.dense({a_start}, {a_terms}, {text.number(left.strides[-1])}, {b_start}, {b_terms}, "
        f"{text.number(right.strides[-2])}, {'cols_in' if near else 'None'}, 0, {inner}, "
        f"tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32), {even}, BLOCK_K)"
    )
    room = tail.room(b)
    finish(tail, views, "acc", tiles.all, room, text, b)
    sizes = {"rows": row_group.numel, "cols": cols.numel, "inner": size, "batch": 1 if batch is None else dims.product(lead)}
    dtype = node.type.dtype.name
    form = configs.products(configs.BITS[dtype], least_inner=32 if dtype == "f8e4m3" else 16)
    ours = b.launch("matmul", text, tile_grid, form, sizes=sizes, kind="matmul", dtypes=(dtype,))
    library = library_ways(node, tail, views, room, b) if node.type.dtype in LIBRARY else []
    b.choose([("tile", [ours]), *library], ours_first, {"rows": sizes["rows"]})
    return None

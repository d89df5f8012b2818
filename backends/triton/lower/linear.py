"""Linear layers that multiply floats, by weights stored in any way: by tiles or row by row, whole or cut along the inner
axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, View, dense
from mcomp.backends.triton.builder import Builder
from mcomp.backends.triton.lower.coded import scaled_weight
from mcomp.backends.triton.lower.elementwise import flat, flat_grid
from mcomp.backends.triton.lower.tiles import Linear, result_groups, safe, start_tile, tile_grid, vector_grid
from mcomp.backends.triton.program import Launch, Work
from mcomp.backends.triton.text import Group, KernelText, group
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine, Scaled
from mcomp.ir.graph import Value


@dataclass(frozen=True)
class Way:
    """How a weight is stored for a product: `dense`, `rows` (bytes with a scale per output), `floats` (so, floats of 8
    bits), `grouped` (bytes with scales for groups) or `nibbles`. Views have the axes (output, inner)."""

    kind: str
    values: View
    scales: View | None = None
    zeros: View | None = None
    zero: int = 0
    group: int = 0
    signed: bool = True


def weight_way(weight: Value, b: Builder, told: bool = False) -> Way:
    """How a weight is stored for products with floats. `told`: nothing need be said of one that is decoded."""
    place, encoding, found = b.place(weight), weight.tensor.encoding, b.weight(weight)
    if found is not None and isinstance(encoding, Scaled) and scaled_weight(weight, b):
        rows = dense(b.constant(found, "scales"), encoding.scale_shape(found.type.shape))
        return Way("floats", dense(b.constant(found, "values"), found.type.shape),
                   rows.expand((found.type.shape[0], rows.shape[1])))
    fits = isinstance(encoding, Affine) and encoding.scale is None and not set(encoding.axis) - {0}
    if not isinstance(place, Coded) or not isinstance(encoding, Affine) or found is None or not fits:
        if isinstance(place, Coded) and not told:
            b.missed(f"its weight, {encoding}, is decoded when the model is loaded", "use int8, int4 or blocks")
        return Way("dense", b.read(weight))
    n, k = found.type.static_shape
    scales = dense(b.constant(found, "scales"), encoding.scale_shape((n, k)))
    spread = scales.expand((n, scales.shape[1]))
    zeros = None
    if encoding.zero_point:
        zeros = dense(b.constant(found, "zeros"), encoding.scale_shape((n, k))).expand((n, scales.shape[1]))
    size = encoding.group or k
    if encoding.dtype.name in ("i4", "u4") and k % 2 == 0:
        packed = dense(b.constant(found, "values", "nibbles"), (n, k // 2))
        return Way("nibbles", packed, spread, zeros, encoding.zero, size, encoding.dtype.name == "i4")
    values = dense(b.constant(found, "values"), (n, k))
    if encoding.group is None and zeros is None and encoding.zero == 0:
        return Way("rows", values, spread)
    return Way("grouped", values, spread, zeros, encoding.zero, size)


WEIGHT_KINDS = {
    "dense": ("linear", "vector"), "rows": ("linear_i8_weight", "vector_i8_weight"),
    "floats": ("linear_f8_weight", "vector_f8_weight"),
    "grouped": ("linear_grouped", "vector_grouped"), "nibbles": ("linear_i4", "vector_i4"),
}
"""Kinds of kernels by how a weight is stored: by tiles, and row by row."""
_UNGROUPED = ("dense", "rows", "floats")


@dataclass(frozen=True)
class Split:
    """A product whose inner axis is cut in `count` parts of `size` steps of the loop, for different programs: with few rows
    and columns there are too few tiles to keep the chip busy. `sums`: f32 of every part, the parts first."""

    count: int
    size: int
    sums: View

    def begin(self, text: KernelText, axis: int, steps: int) -> tuple[str, str]:
        """Names of the first step of a program's part, and the one behind its last."""
        text.head += [f"part = tl.program_id({axis})", f"first = part * {self.size}",
                      f"last = tl.minimum(first + {self.size}, {steps})"]
        return "first", "last"

    def store(self, text: KernelText, groups: Sequence[Group]) -> None:
        """Store `acc` as the program's part."""
        shifted = [replace(g, axes=tuple(a + 1 for a in g.axes)) for g in groups]
        text.store(self.sums, [Group("part", (0,), (self.count,)), *shifted], "acc")


SPLIT_ROWS = 64
"""Up to so many rows splitting is tried."""
_LEAST_PART = 1024
_MOST_PARTS = 8


def split_of(whole: Linear, way: Way, b: Builder) -> Split | None:
    """How the inner axis is cut; None where it is short, or not known. Parts begin at multiples of every block."""
    inner = whole.sizes["inner"]
    if not isinstance(inner, int):
        return None
    steps = inner // 2 if way.kind == "nibbles" else inner
    wanted = min(_MOST_PARTS, steps // _LEAST_PART)
    if wanted < 2:
        return None
    size = -(-steps // (wanted * _LEAST_PART)) * _LEAST_PART
    count = -(-steps // size)
    return Split(count, size, b.temp(dtypes.f32, (count, *whole.shape)))


def summed(whole: Linear, way: Way, b: Builder, split: Split) -> Launch:
    """The launch that adds up the parts and does what comes behind."""
    text = KernelText()
    at = flat(text, whole.shape)
    sums, each = split.sums, whole.node.type.numel
    parts = [View(sums.buffer, sums.dtype, whole.shape, sums.strides[1:], dims.mul(i, each)) for i in range(split.count)]
    text.line(f"acc = {' + '.join(text.load(part, [at]) for part in parts)}")
    whole.finish(text, (at,), b, *factors_of(whole, way))
    return b.launch("split_sum", text, flat_grid, configs.pointwise, sizes={"count": each}, kind="split_sum",
                    work=Work(0, dims.mul(4 * split.count, each), 0), dtypes=(whole.node.type.dtype.name,))


def tile_product(whole: Linear, way: Way, b: Builder, split: Split | None = None) -> Launch:
    """The launch of a product by tiles."""
    text = KernelText()
    tiles = start_tile(text, *result_groups(whole.shape))
    x, w, size = b.read(whole.node.operand(0)), way.values, whole.sizes["inner"]
    outputs, inner = Group("cols_safe", (0,), (w.shape[0],)), text.number(size)
    zero = "tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)"
    whole_blocks = isinstance(size, int) and (split is None or size % split.size == 0)
    shift = ["", ""]
    if split is not None and whole_blocks and way.kind in _UNGROUPED:  # pointers move, which takes fewer registers
        text.head.append("part = tl.program_id(1)")
        shift = [f" + part * {split.size} * {text.number(v.strides[1 if v is w else -1])}" for v in (x, w)]
        span = ("0", str(split.size))
    else:
        span = _span(way, size, inner) if split is None else split.begin(text, 1, _steps(way, size))
    start = (f"{text.base(x)}{shift[0]}, {text.row_terms(x, safe(tiles.rows))}, {text.number(x.strides[-1])}, "
             f"{text.pointer(w)}{shift[1]}, {text.row_terms(w, outputs)}")
    if way.kind in _UNGROUPED:
        even = f"{split.size if split else inner} % BLOCK_K == 0" if whole_blocks else "False"
        text.line(f"acc = products.dense({start}, {text.number(w.strides[1])}, None, {', '.join(span)}, {zero}, {even}, "
                  "BLOCK_K)")
    else:
        text.line(_grouped_call(start, way, text, outputs, size, zero, span))
    kind, dtype = WEIGHT_KINDS[way.kind][0], x.dtype.name
    sizes = whole.sizes
    if split is None:
        whole.finish(text, tiles.all, b, *factors_of(whole, way))
    else:
        split.store(text, tiles.all)
        kind, sizes = f"{kind}_split", {**whole.sizes, "inner": split.size, "batch": split.count}
    least = 32 if dtype == "f8e4m3" else 16
    plain = way.kind in _UNGROUPED
    form = configs.products(configs.BITS[dtype], least_inner=least) if plain else configs.grouped(way.group,
                                                                                                  configs.BITS[dtype])
    return b.launch(kind, text, tile_grid, form, sizes=sizes, kind=kind, dtypes=(dtype,))


def vector_product(whole: Linear, way: Way, b: Builder, split: Split | None = None) -> Launch:
    """The launch of a product row by row."""
    text = KernelText()
    text.meta("BLOCK_N", "BLOCK_K")
    shape, size = whole.shape, whole.sizes["inner"]
    n = text.number(shape[-1])
    text.head += ["row = tl.program_id(1)", "cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)",
                  f"cols_in = cols < {n}",
                  f"cols_safe = tl.minimum(cols, {n} - 1)"]
    row, cols = group("row", range(len(shape) - 1), shape), group("cols", (len(shape) - 1,), shape, inside="cols_in")
    x, w = b.read(whole.node.operand(0)), way.values
    outputs, inner = Group("cols_safe", (0,), (w.shape[0],)), text.number(size)
    start = (f"{text.base(x)}, {text.row_terms(x, row)}, {text.number(x.strides[-1])}, {text.pointer(w)}, "
             f"{text.row_terms(w, outputs)}")
    span = _span(way, size, inner) if split is None else split.begin(text, 2, _steps(way, size))
    if way.kind in _UNGROUPED:
        text.line(f"acc = products.vector({start}, {text.number(w.strides[1])}, {', '.join(span)}, BLOCK_N, BLOCK_K)")
    else:
        text.line(_grouped_call(start, way, text, outputs, size, None, span))
    kind, sizes = WEIGHT_KINDS[way.kind][1], whole.sizes
    if split is None:
        whole.finish(text, (row, cols), b, *factors_of(whole, way))
    else:
        split.store(text, (row, cols))
        kind, sizes = f"{kind}_split", {**whole.sizes, "inner": split.size, "batch": split.count}
    return b.launch(kind, text, vector_grid, configs.vectors, sizes=sizes, kind=kind, dtypes=(x.dtype.name,))


SPLIT_WAYS: dict[str, Callable[[Linear, Way, Builder, Split], Launch]] = {
    "split tile": tile_product, "split vector": vector_product,
}


def _steps(way: Way, inner: Dim) -> int:
    """Steps of the loop over the inner axis: of nibbles each is two elements."""
    assert isinstance(inner, int)
    return inner // 2 if way.kind == "nibbles" else inner


def _span(way: Way, size: Dim, inner: str) -> tuple[str, str]:
    return "0", inner if way.kind in _UNGROUPED else str(_steps(way, size))


def factors_of(whole: Linear, way: Way) -> list[View]:
    return [whole.along_cols(way.scales)] if way.kind in ("rows", "floats") and way.scales is not None else []


def _grouped_call(
    start: str, way: Way, text: KernelText, outputs: Group, inner: Dim, acc: str | None, span: tuple[str, str]
) -> str:
    """The statement that multiplies by integers with scales for groups; without `acc`, for one row."""
    assert way.scales is not None
    scales = f"{text.pointer(way.scales)}, {text.row_terms(way.scales, outputs)}"
    rest = [f"{'None' if way.zeros is None else text.pointer(way.zeros)}", str(way.zero), *span]
    name = "nibbles" if way.kind == "nibbles" else "grouped"
    rest += [str(_steps(way, inner))] if way.kind == "nibbles" else []
    rest += [str(way.group)] if acc is None else [acc, str(way.group)]
    rest += [str(way.signed)] if way.kind == "nibbles" else []
    rest += ["BLOCK_N"] if acc is None else []
    return f"acc = products.{'vector_' if acc is None else ''}{name}({start}, {scales}, {', '.join(rest)}, BLOCK_K)"

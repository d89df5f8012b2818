"""Matrix products: linear and matmul, with floats, bytes, and weights in integers."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, Place, View, dense
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.tail import Tail, finish, library_way, plain
from mcomp.backends.triton.program import Chip, Config, Launch, Numbers, TorchStep
from mcomp.backends.triton.text import Group, KernelText, group
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine, BlockSparse, Scaled
from mcomp.ir.graph import Node, Value

FLOATS = (dtypes.f32, dtypes.f16, dtypes.bf16, dtypes.f8e4m3)
LIBRARY = (dtypes.f32, dtypes.f16, dtypes.bf16)
"""Element types whose products torch's libraries compute too."""
Ways = list[tuple[str, list[Launch | TorchStep]]]
VECTOR_ROWS = 4
"""Up to so many rows are multiplied one by one, without tensor cores, which would be mostly idle."""


@lowers("linear", target=TARGET)
def lower_linear(node: Node, b: Builder) -> Declined | None:
    return linear(node, plain(node), b)


@lowers("matmul", target=TARGET)
def lower_matmul(node: Node, b: Builder) -> Declined | None:
    return matmul(node, plain(node), b)


@dataclass(frozen=True)
class Tiles:
    """The groups of indices of a tile: rows, columns, and (where there are several products) which product."""

    rows: Group
    cols: Group
    batch: tuple[Group, ...] = ()

    @property
    def all(self) -> tuple[Group, ...]:
        return (*self.batch, self.rows, self.cols)


def start_tile(text: KernelText, rows: Group, cols: Group, *, batch: Group | None = None) -> Tiles:
    """Begin a kernel that computes one tile of rows and columns per program: vectors `rows`, `cols`, and `rows_safe`,
    `cols_safe`, which stay inside."""
    text.meta("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")
    m, n = text.number(rows.numel), text.number(cols.numel)
    text.head += [
        f"pm, pn = products.tile_of(tl.program_id(0), {m}, {n}, BLOCK_M, BLOCK_N, GROUP_M)",
        "rows = pm * BLOCK_M + tl.arange(0, BLOCK_M)", "cols = pn * BLOCK_N + tl.arange(0, BLOCK_N)",
        f"rows_in = rows < {m}", f"cols_in = cols < {n}",
        f"rows_safe = tl.minimum(rows, {m} - 1)", f"cols_safe = tl.minimum(cols, {n} - 1)",
    ]
    if batch is not None:
        text.head.append("z = tl.program_id(1)")
    return Tiles(rows, cols, () if batch is None else (batch,))


def tile_grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    """Programs for all tiles, and for all products."""
    tiles = -(-sizes["rows"] // chosen["BLOCK_M"]) * -(-sizes["cols"] // chosen["BLOCK_N"])
    return (tiles, sizes.get("batch", 1))


def vector_grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    """Programs for all pieces of every row."""
    return (-(-sizes["cols"] // chosen["BLOCK_N"]), sizes["rows"])


def safe(g: Group) -> Group:
    """The group with indices that stay inside."""
    return Group(f"{g.var}_safe", g.axes, g.sizes)


# linear


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


@dataclass(frozen=True)
class Linear:
    """A linear node with its tail, and where everything is that its kernels read and write."""

    node: Node
    tail: Tail
    views: dict[Value, View]
    bias: View | None
    room: list[Place]
    sizes: dict[str, Dim]

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.node.type.shape

    def along_cols(self, view: View) -> View:
        """A view of one axis as wide as the result, whose last axis it goes along."""
        lead = (0,) * (len(self.shape) - 1)
        return View(view.buffer, view.dtype, self.shape, (*lead, view.strides[0]), view.offset)

    def finish(self, text: KernelText, groups: tuple[Group, ...], b: Builder, *factors: View) -> None:
        """Multiply the tile `acc` by factors, add the bias, compute the tail and store."""
        for factor in factors:
            text.line(f"acc = acc * {text.load(factor, groups)}")
        if self.bias is not None:
            text.line(f"acc = acc + {text.load(self.bias, groups)}")
        finish(self.tail, self.views, "acc", groups, self.room, text, b)


def prepared(node: Node, tail: Tail, sizes: dict[str, Dim], b: Builder) -> Linear | Declined:
    """What the kernels of a linear node have in common."""
    views = tail.views(b)
    if isinstance(views, Declined):
        return views
    bias = node.maybe(2)
    spread = None if bias is None else b.read(bias).expand(node.type.shape)
    return Linear(node, tail, views, spread, tail.room(b), sizes)


def linear(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """x times the transposed weight, plus bias, then the tail."""
    x, weight = node.operand(0), node.operand(1)
    dtype = x.tensor.dtype
    if dtype not in FLOATS:
        return Declined(f"{dtype} products have no Triton kernel")
    shape = node.type.shape
    sizes: dict[str, Dim] = {"rows": dims.product(shape[:-1]), "cols": shape[-1], "inner": weight.tensor.shape[1]}
    whole = prepared(node, tail, sizes, b)
    if isinstance(whole, Declined):
        return whole
    place = b.place(x)
    if isinstance(weight.tensor.encoding, BlockSparse) and not isinstance(place, Coded):
        from mcomp.backends.triton.lower.sparse import sparse_linear

        if sparse_linear(whole, b):
            return None
    if isinstance(place, Coded) and byte_rows(place) is None and byte_weight(weight, b) is None:
        b.emit(_bytes(whole, place, b))
        return None
    from mcomp.backends.triton.lower.semi_structured import semi_structured_way

    pairs = semi_structured_way(whole, b)
    if isinstance(place, Coded) and scaled_rows(place) and scaled_weight(weight, b):
        b.emit(_scaled(whole, place, b))
        return None
    way = weight_way(weight, b, told=pairs is not None)
    ways: Ways = [("tile", [_tile(whole, way, b)]), ("vector", [_vector(whole, way, b)])]
    library = library_way(node, tail, whole.views, whole.room, b) if dtype in LIBRARY else None
    b.choose([*ways, *(w for w in (library, pairs) if w is not None)], _by_rows, {"rows": sizes["rows"]})
    return None


def _first(sizes: Numbers, chip: Chip) -> int:
    return 0


def _by_rows(sizes: Numbers, chip: Chip) -> int:
    return 1 if sizes["rows"] <= VECTOR_ROWS else 0


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


def _groups(shape: tuple[Dim, ...]) -> tuple[Group, Group]:
    return (group("rows", range(len(shape) - 1), shape, inside="rows_in", place="[:, None]"),
            group("cols", (len(shape) - 1,), shape, inside="cols_in", place="[None, :]"))


def _tile(whole: Linear, way: Way, b: Builder) -> Launch:
    """The launch of a product by tiles."""
    text = KernelText()
    tiles = start_tile(text, *_groups(whole.shape))
    x, w, size = b.read(whole.node.operand(0)), way.values, whole.sizes["inner"]
    outputs, inner = Group("cols_safe", (0,), (w.shape[0],)), text.number(size)
    zero = "tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)"
    start = (f"{text.base(x)}, {text.row_terms(x, safe(tiles.rows))}, {text.number(x.strides[-1])}, {text.pointer(w)}, "
             f"{text.row_terms(w, outputs)}")
    if way.kind in _UNGROUPED:
        even = f"{inner} % BLOCK_K == 0" if isinstance(size, int) else "False"
        text.line(f"acc = products.dense({start}, {text.number(w.strides[1])}, None, 0, {inner}, {zero}, {even}, BLOCK_K)")
    else:
        text.line(_grouped_call(start, way, text, outputs, size, zero))
    whole.finish(text, tiles.all, b, *_factors(whole, way))
    kind, dtype = _KINDS[way.kind][0], x.dtype.name
    least = 32 if dtype == "f8e4m3" else 16
    plain = way.kind in _UNGROUPED
    form = configs.products(configs.BITS[dtype], least_inner=least) if plain else configs.grouped(way.group,
                                                                                                  configs.BITS[dtype])
    return b.launch(kind, text, tile_grid, form, sizes=whole.sizes, kind=kind, dtypes=(dtype,))


_KINDS = {
    "dense": ("linear", "vector"), "rows": ("linear_i8_weight", "vector_i8_weight"),
    "floats": ("linear_f8_weight", "vector_f8_weight"),
    "grouped": ("linear_grouped", "vector_grouped"), "nibbles": ("linear_i4", "vector_i4"),
}
"""Kinds of kernels by how a weight is stored: by tiles, and row by row."""
_UNGROUPED = ("dense", "rows", "floats")


def _factors(whole: Linear, way: Way) -> list[View]:
    return [whole.along_cols(way.scales)] if way.kind in ("rows", "floats") and way.scales is not None else []


def _grouped_call(start: str, way: Way, text: KernelText, outputs: Group, inner: Dim, acc: str | None) -> str:
    """The statement that multiplies by integers with scales for groups; without `acc`, for one row."""
    assert way.scales is not None and isinstance(inner, int)
    scales = f"{text.pointer(way.scales)}, {text.row_terms(way.scales, outputs)}"
    rest = [f"{'None' if way.zeros is None else text.pointer(way.zeros)}", str(way.zero), "0"]
    name = "nibbles" if way.kind == "nibbles" else "grouped"
    rest += [str(inner // 2), str(inner // 2)] if way.kind == "nibbles" else [str(inner)]
    rest += [str(way.group)] if acc is None else [acc, str(way.group)]
    rest += [str(way.signed)] if way.kind == "nibbles" else []
    rest += ["BLOCK_N"] if acc is None else []
    return f"acc = products.{'vector_' if acc is None else ''}{name}({start}, {scales}, {', '.join(rest)}, BLOCK_K)"


def _vector(whole: Linear, way: Way, b: Builder) -> Launch:
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
    if way.kind in _UNGROUPED:
        text.line(f"acc = products.vector({start}, {text.number(w.strides[1])}, 0, {inner}, BLOCK_N, BLOCK_K)")
    else:
        text.line(_grouped_call(start, way, text, outputs, size, None))
    whole.finish(text, (row, cols), b, *_factors(whole, way))
    kind = _KINDS[way.kind][1]
    return b.launch(kind, text, vector_grid, configs.vectors, sizes=whole.sizes, kind=kind, dtypes=(x.dtype.name,))


# bytes


def byte_weight(weight: Value, b: Builder) -> str | None:
    """Why a weight does not fit products of bytes; None when it does."""
    encoding = weight.tensor.encoding
    if not isinstance(encoding, Affine) or encoding.dtype.name not in ("i8", "i4", "i3", "i2") or b.weight(weight) is None:
        return f"the weight is {encoding}"
    if encoding.zero_point or encoding.zero or encoding.group is not None or encoding.scale is not None:
        return "the weight has zero points, groups or a scale of its type"
    return None if encoding.axis in ((), (0,)) else "the weight's scales do not lie along its outputs"


def byte_rows(place: Coded) -> str | None:
    """Why quantized activations do not fit products of bytes; None when they do: one scale per row at the finest."""
    encoding, rank = place.type.encoding, place.type.rank
    if not isinstance(encoding, Affine) or encoding.dtype.bits != 8 or encoding.group is not None:
        return f"the activations are {encoding}"
    return None if rank - 1 not in encoding.axis else "the activations have scales along the inner axis"


def _bytes(whole: Linear, place: Coded, b: Builder) -> Launch:
    """The launch of a product of bytes."""
    text = KernelText()
    tiles = start_tile(text, *_groups(whole.shape))
    weight, size = b.weight(whole.node.operand(1)), whole.sizes["inner"]
    assert weight is not None
    x, w = place.values, dense(b.constant(weight, "values"), weight.type.shape)
    outputs, inner = Group("cols_safe", (0,), (w.shape[0],)), text.number(size)
    even = f"{inner} % BLOCK_K == 0" if isinstance(size, int) else "False"
    text.line(
        f"acc = products.bytes_({text.base(x)}, {text.row_terms(x, safe(tiles.rows))}, {text.number(x.strides[-1])}, "
        f"{text.pointer(w)}, {text.row_terms(w, outputs)}, {text.number(w.strides[1])}, 0, {inner}, "
        f"tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32), {even}, BLOCK_K)"
    )
    sums = whole.along_cols(dense(b.constant(weight, "values", "row_sums"), (weight.type.shape[0],)))
    to_floats(text, place, whole.shape, sums, tiles.all)
    scales = dense(b.constant(weight, "scales"), weight.type.encoding.scale_shape(weight.type.shape))  # type: ignore[attr-defined]
    one = View(scales.buffer, scales.dtype, (weight.type.shape[0],), (0 if scales.shape[0] == 1 else 1,))
    whole.finish(text, tiles.all, b, whole.along_cols(one))
    return b.launch("linear_i8", text, tile_grid, configs.products(8, least_inner=32), sizes=whole.sizes, kind="linear_i8",
                    dtypes=("i8",))


# floats of 8 bits


def scaled_weight(weight: Value, b: Builder) -> bool:
    """Whether a weight fits products of floats of 8 bits: one scale for each output at the finest."""
    encoding = weight.tensor.encoding
    if b.weight(weight) is None or not isinstance(encoding, Scaled):
        return False
    return encoding.dtype is dtypes.f8e4m3 and encoding.scale is None and encoding.axis in ((), (0,))


def scaled_rows(place: Coded) -> bool:
    """Whether activations fit products of floats of 8 bits: one scale per row at the finest."""
    encoding = place.type.encoding
    return isinstance(encoding, Scaled) and encoding.dtype is dtypes.f8e4m3 and place.type.rank - 1 not in encoding.axis


def _scaled(whole: Linear, place: Coded, b: Builder) -> Launch:
    """The launch of a product of floats of 8 bits."""
    text = KernelText()
    tiles = start_tile(text, *_groups(whole.shape))
    weight, size = b.weight(whole.node.operand(1)), whole.sizes["inner"]
    assert weight is not None and isinstance(weight.type.encoding, Scaled) and isinstance(place.type.encoding, Scaled)
    x, w = place.values, dense(b.constant(weight, "values"), weight.type.shape)
    outputs, inner = Group("cols_safe", (0,), (w.shape[0],)), text.number(size)
    even = f"{inner} % BLOCK_K == 0" if isinstance(size, int) else "False"
    text.line(
        f"acc = products.dense({text.base(x)}, {text.row_terms(x, safe(tiles.rows))}, {text.number(x.strides[-1])}, "
        f"{text.pointer(w)}, {text.row_terms(w, outputs)}, {text.number(w.strides[1])}, None, 0, {inner}, "
        f"tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32), {even}, BLOCK_K)"
    )
    scales = place.part("scales")
    if scales is None:
        text.line(f"acc = acc * {place.type.encoding.scale!r}")
    else:
        wide = View(scales.buffer, scales.dtype, whole.shape, (*_along(scales), 0), scales.offset)
        text.line(f"acc = acc * {text.load(wide, tiles.all)}")
    rows = dense(b.constant(weight, "scales"), weight.type.encoding.scale_shape(weight.type.shape))
    one = View(rows.buffer, rows.dtype, (weight.type.shape[0],), (0 if rows.shape[0] == 1 else 1,))
    whole.finish(text, tiles.all, b, whole.along_cols(one))
    return b.launch("linear_f8", text, tile_grid, configs.products(8, least_inner=32), sizes=whole.sizes, kind="linear_f8",
                    dtypes=("f8e4m3",))


def to_floats(text: KernelText, place: Coded, shape: tuple[Dim, ...], sums: View, groups: tuple[Group, ...]) -> None:
    """The i32 tile `acc` of a product of bytes as floats, times the scales of the activations: their zero points are taken
    out by the sums of the weight's rows. `shape`: the result's, whose axes but the last the scales lie along."""
    encoding = place.type.encoding
    assert isinstance(encoding, Affine)
    shift = 128 if encoding.dtype is dtypes.u8 else 0
    zeros = place.part("zeros")
    if zeros is not None:
        wide = View(zeros.buffer, zeros.dtype, shape, (*_along(zeros), 0), zeros.offset)
        text.line(f"acc = acc - ({text.load(wide, groups)} - {shift}) * {text.load(sums, groups)}")
    elif encoding.zero != shift:
        text.line(f"acc = acc - ({encoding.zero - shift}) * {text.load(sums, groups)}")
    scales = place.part("scales")
    if scales is None:
        text.line(f"acc = acc.to(tl.float32) * {encoding.scale!r}")
    else:
        wide = View(scales.buffer, scales.dtype, shape, (*_along(scales), 0), scales.offset)
        text.line(f"acc = acc.to(tl.float32) * {text.load(wide, groups)}")


def _along(part: View) -> tuple[Dim, ...]:
    return tuple(0 if d == 1 else s for d, s in zip(part.shape[:-1], part.strides[:-1]))


# matmul


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
    library = library_way(node, tail, views, room, b) if node.type.dtype in LIBRARY else None
    b.choose([("tile", [ours]), *([library] if library is not None else [])], _first, {"rows": sizes["rows"]})
    return None

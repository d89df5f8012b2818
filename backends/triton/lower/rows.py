"""Norms and softmax with what surrounds them: a program holds whole rows, or goes over them in pieces several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, Place, View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.expressions import is_scalar, scalar_lines
from mcomp.backends.triton.lower.elementwise import (
    flat,
    flat_grid,
    is_static_quantize,
    leaf_of,
    load_leaf,
    order_of,
    room_for,
    store_value,
    widened,
)
from mcomp.backends.triton.lower.tail import Tail, finish, plain
from mcomp.backends.triton.program import Chip, Config, Launch, Numbers
from mcomp.backends.triton.text import KNOWN, Group, KernelText, computed_type, group
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine, Scaled
from mcomp.ir.graph import Node, Value

NORMS = ("layer_norm", "rms_norm", "softmax", "log_softmax", "group_norm")
WHOLE = 8192
"""Rows of up to so many elements are held whole by a program."""
Lens = Callable[[View], View]


@dataclass(frozen=True)
class RowRegion:
    """A norm with element-wise nodes before and behind it; those behind may quantize."""

    norm: Node
    before: tuple[Node, ...]
    after: tuple[Node, ...]

    @property
    def nodes(self) -> list[Node]:
        return [*self.before, self.norm, *self.after]


def row_region(nodes: Sequence[Node]) -> RowRegion | None:
    """The region that a run of nodes starts with, if there is a norm in it."""
    for i, node in enumerate(nodes):
        if node.op.name in NORMS:
            shape = node.type.shape
            before = nodes[:i]
            if any(n.type.shape != shape for n in before):
                return None
            after: list[Node] = []
            for late in nodes[i + 1 :]:
                scalar = is_scalar(late) or late.op.name == "quantize"
                if not scalar or late.type.shape != shape:
                    break
                after.append(late)
            return RowRegion(node, tuple(before), tuple(after))
        if not is_scalar(node):
            return None
    return None


@lowers(*NORMS, target=TARGET)
def lower_norm(node: Node, b: Builder) -> Declined | None:
    return lower_rows(RowRegion(node, (), ()), b)


def norm_with_tail(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """A norm with element-wise nodes behind it."""
    return lower_rows(RowRegion(node, (), tail.nodes), b)


@lowers("batch_norm", target=TARGET)
def lower_batch_norm(node: Node, b: Builder) -> Declined | None:
    return batch_norm(node, plain(node), b)


def batch_norm(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """A factor and a summand for each channel, then the tail."""
    shape, dtype = node.type.shape, node.type.dtype
    if dtype.name not in KNOWN:
        return Declined(f"{dtype} is not computed with in Triton")
    views = tail.views(b)
    if isinstance(views, Declined):
        return views
    x = b.read(node.operand(0))
    order = None if any(b.is_output(r) for _, r in tail.results) else order_of([x], len(shape))
    room = tail.room(b, order)
    text = KernelText()
    at = flat(text, shape, order)
    given = text.load(x, [at])
    rest = (0,) * (len(shape) - 2)
    mean, variance, *affine = [
        "" if v is None else text.load(View(p.buffer, p.dtype, shape, (0, p.strides[0], *rest), p.offset), [at])
        for v in (*node.operands[1:], *(None,) * (5 - len(node.operands))) for p in ([b.read(v)] if v is not None else [x])
    ]
    text.line(f"y = ({given} - {mean}) * (1.0 / tl.sqrt({variance} + {node.attrs['eps']!r}))")
    if affine[0]:
        text.line(f"y = y * {affine[0]}")
    if affine[1]:
        text.line(f"y = y + {affine[1]}")
    finish(tail, views, "y", [at], room, text, b)
    b.emit(b.launch("batch_norm", text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)}, kind="pointwise",
                    dtypes=(dtype.name,)))
    return None


def lower_rows(region: RowRegion, b: Builder) -> Declined | None:
    """One kernel for a row region."""
    norm = region.norm
    x = norm.operand(0).tensor
    if x.dtype.name not in KNOWN or not x.dtype.is_float:
        return Declined(f"{x.dtype} has no row kernel")
    axes, lens, shape = _axes(norm)
    dynamic = [n for n in region.after if n.op.name == "quantize" and not is_static_quantize(n)]
    if any(not _fits_rows(n, axes, x.rank) for n in dynamic):
        return Declined("a quantize behind it has scales that are not one for each row")
    inside = set(region.nodes)
    results = [v for n in region.nodes for v in n.results if any(u not in inside for u in v.users) or b.is_output(v)]
    leaves = _leaves(region, b)
    if isinstance(leaves, Declined):
        return leaves
    views = {v: _seen(widened(leaf_of(v, b), norm.type.shape), lens) for v in leaves}
    rooms = {v: room_for(v, None, b) for v in results}
    work = _Rows(region, b, axes, shape, lens, views, rooms)
    sizes: dict[str, Dim] = {"rows": dims.product(tuple(d for i, d in enumerate(shape) if i not in axes)),
                             "cols": dims.product(tuple(shape[i] for i in axes))}
    cols = sizes["cols"]
    ways: list[tuple[str, list[Launch]]] = []
    if not isinstance(cols, int) or cols <= WHOLE or dynamic:
        ways.append(("whole", [work.launch(sizes, whole=True)]))
    if not dynamic and (not isinstance(cols, int) or cols > WHOLE):
        ways.append(("pieces", [work.launch(sizes, whole=False)]))
    b.choose(ways, _by_cols, {"cols": cols})
    return None


def _seen(place: Place, lens: Lens) -> Place:
    return lens(place) if isinstance(place, View) else place.through(lens)


def _by_cols(sizes: Numbers, chip: Chip) -> int:
    return 0 if sizes["cols"] <= WHOLE else 1


def _axes(norm: Node) -> tuple[tuple[int, ...], Lens, tuple[Dim, ...]]:
    """The axes that a norm goes along, in the shape that it sees, and how views become that shape."""
    shape, name = norm.type.shape, norm.op.name
    rank = len(shape)
    if name in ("softmax", "log_softmax"):
        return ((norm.attrs["axis"],) if rank else ()), lambda v: v, shape
    if name == "group_norm":
        groups = norm.attrs["groups"]
        each = dims.floordiv(shape[1], groups)

        def split(view: View) -> View:
            step = view.strides[1]
            strides = (view.strides[0], dims.mul(step, each), step, *view.strides[2:])
            return replace(view, shape=(view.shape[0], groups, each, *view.shape[2:]), strides=strides)

        return tuple(range(2, rank + 1)), split, (shape[0], groups, each, *shape[2:])
    return tuple(range(rank - norm.attrs["axes_count"], rank)), lambda v: v, shape


def _fits_rows(node: Node, axes: tuple[int, ...], rank: int) -> bool:
    encoding = node.results[0].tensor.encoding
    if not isinstance(encoding, (Affine, Scaled)) or (isinstance(encoding, Affine) and encoding.group is not None):
        return False
    return encoding.dtype.bits == 8 and encoding.axis == tuple(range(rank - 1)) and axes == (rank - 1,)


def _leaves(region: RowRegion, b: Builder) -> list[Value] | Declined:
    """Values in memory that the element-wise nodes and the norm read."""
    made = {v for n in region.nodes for v in n.results}
    found: dict[Value, None] = {}
    for node in region.nodes:
        operands = node.operands[:1] if node is region.norm else node.operands
        for value in operands:
            if value is None or value in made or (node is not region.norm and isinstance(b.number(value),
                                                                                         (bool, int, float))):
                continue
            if value.type.dtype.name not in KNOWN:
                return Declined(f"{value.type.dtype} is not computed with in Triton")
            found[value] = None
    return list(found)


@dataclass
class _Rows:
    """Writes the kernels of a row region."""

    region: RowRegion
    b: Builder
    axes: tuple[int, ...]
    shape: tuple[Dim, ...]
    lens: Lens
    views: dict[Value, Place]
    rooms: dict[Value, Place]
    text: KernelText = field(default_factory=KernelText)
    passes: int = 0

    def launch(self, sizes: dict[str, Dim], *, whole: bool) -> Launch:
        """The launch of one of both forms."""
        self.text = text = KernelText()
        self.passes = 0
        norm = self.region.norm
        kept = [i for i in range(len(self.shape)) if i not in self.axes]
        text.meta("ROWS", "COLS")
        text.head += ["rows_at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)",
                      f"rows_in = rows_at < {text.number(sizes['rows'])}"]
        self.rows = group("rows_at", kept, self.shape, inside="rows_in", place="[:, None]")
        self.cols = group("cols", self.axes, self.shape, inside="cols_in", place="[None, :]", outer=whole)
        self.count = text.number(sizes["cols"])
        self.kind = computed_type(norm.type.dtype)
        if whole:
            text.head += ["cols = tl.arange(0, COLS)", f"cols_in = cols < {self.count}"]
            self._whole()
        else:
            self._pieces()
        form = configs.rows if whole else configs.chunks
        name = norm.op.name
        return self.b.launch(name, text, _grid, form, sizes=sizes, kind=name if whole else f"{name}_pieces",
                             dtypes=(norm.type.dtype.name,))

    # passes over the elements

    def _elements(self) -> tuple[dict[Value, str], str]:
        """Load and compute what comes before the norm, for the columns at hand."""
        self.passes += 1
        names = {v: load_leaf(self.text, leaf, (self.rows, self.cols)) for v, leaf in self.views.items()}
        known = scalar_lines(self.region.before, names, self.b.number, self.text.line, prefix=f"e{self.passes}_")
        assert not isinstance(known, str), known
        return known, known[self.region.norm.operand(0)]

    def _whole(self) -> None:
        text, name = self.text, self.region.norm.op.name
        known, x = self._elements()
        here = "(rows_in[:, None] & cols_in[None, :])"
        if name.endswith("softmax"):
            text.line(f"top = rows.largest(tl.where({here}, {x}, float('-inf')), 1)")
            text.line(f"e = tl.where(cols_in[None, :], tl.exp({x} - top[:, None]), 0.0)")
            text.line("total = tl.sum(e, 1)")
        else:
            text.line(f"x0 = tl.where({here}, {x}, 0.0)")
            if name == "rms_norm":
                text.line(f"square = tl.sum(x0 * x0, 1) / {self.count}")
            else:
                text.line(f"mean = tl.sum(x0, 1) / {self.count}")
                text.line(f"d = tl.where({here}, x0 - mean[:, None], 0.0)")
                text.line(f"square = tl.sum(d * d, 1) / {self.count}")
        self._results(known, x)

    def _pieces(self) -> None:
        text, name = self.text, self.region.norm.op.name
        if name.endswith("softmax"):
            text.line(f"tops = tl.full((ROWS, COLS), float('-inf'), {self.kind})")
            self._loop(lambda x: "tops = math.maximum(tops, tl.where(rows_in[:, None] & cols_in[None, :], {x}, "
                                 "float('-inf')))")
            text.line("top = rows.largest(tops, 1)")
            text.line(f"sums = tl.zeros((ROWS, COLS), {self.kind})")
            self._loop(lambda x: "sums += tl.where(cols_in[None, :], tl.exp({x} - top[:, None]), 0.0)")
            text.line("total = tl.sum(sums, 1)")
        else:
            text.line(f"sums = tl.zeros((ROWS, COLS), {self.kind})")
            if name == "rms_norm":
                self._loop(lambda x: "sums += tl.where(cols_in[None, :], {x} * {x}, 0.0)")
                text.line(f"square = tl.sum(sums, 1) / {self.count}")
            else:
                self._loop(lambda x: "sums += tl.where(cols_in[None, :], {x}, 0.0)")
                text.line(f"mean = tl.sum(sums, 1) / {self.count}")
                text.line(f"squares = tl.zeros((ROWS, COLS), {self.kind})")
                self._loop(lambda x: "d = tl.where(cols_in[None, :], {x} - mean[:, None], 0.0)\nsquares += d * d")
                text.line(f"square = tl.sum(squares, 1) / {self.count}")
        self._start_loop()
        known, x = self._elements()
        if name.endswith("softmax"):
            text.line(f"e = tl.exp({x} - top[:, None])")
        self._results(known, x)
        text.indent = ""

    def _loop(self, body: Callable[[str], str]) -> None:
        self._start_loop()
        _, x = self._elements()
        self.text.line(body(x).replace("{x}", x))
        self.text.indent = ""

    def _start_loop(self) -> None:
        self.text.line(f"for start in range(0, {self.count}, COLS):")
        self.text.indent = "    "
        self.text.line("cols = start + tl.arange(0, COLS)")
        self.text.line(f"cols_in = cols < {self.count}")

    # what comes out

    def _results(self, known: dict[Value, str], x: str) -> None:
        norm, text, groups = self.region.norm, self.text, (self.rows, self.cols)
        text.line(f"y = {self._normalized(x)}")
        for i, name in enumerate(("weight", "bias"), 1):
            value = norm.maybe(i) if norm.op.name.endswith("_norm") else None
            if value is None:
                continue
            factor = text.load(self._parameter(value), groups)
            offset = norm.attrs.get("offset", 0.0)
            text.line(f"y = y * ({factor} + {offset!r})" if name == "weight" and offset else
                      f"y = y * {factor}" if name == "weight" else f"y = y + {factor}")
        known[norm.result] = "y"
        scalars = [n for n in self.region.after if n.op.name != "quantize"]
        done = scalar_lines(scalars, known, self.b.number, text.line, prefix=f"l{self.passes}_")
        assert not isinstance(done, str), done
        for value, place in self.rooms.items():
            maker = value.producer
            if isinstance(place, Coded) and maker is not None and not is_static_quantize(maker):
                self._quantize(done[maker.operand(0)], place)
            elif isinstance(place, Coded):
                store_value(value, place.through(self.lens), done, groups, text)
            else:
                store_value(value, self.lens(place), done, groups, text)

    def _normalized(self, x: str) -> str:
        norm = self.region.norm
        if norm.op.name == "softmax":
            return "e / total[:, None]"
        if norm.op.name == "log_softmax":
            return f"{x} - top[:, None] - tl.log(total)[:, None]"
        scale = f"(1.0 / tl.sqrt(square + {norm.attrs['eps']!r}))[:, None]"
        return f"{x} * {scale}" if norm.op.name == "rms_norm" else f"({x} - mean[:, None]) * {scale}"

    def _parameter(self, value: Value) -> View:
        """A weight or bias as wide as what the norm sees."""
        view, norm = self.b.read(value), self.region.norm
        if norm.op.name != "group_norm":
            return view.expand(norm.type.shape)
        rest = (0,) * (norm.type.rank - 2)
        return self.lens(View(view.buffer, view.dtype, norm.type.shape, (0, view.strides[0], *rest), view.offset))

    def _quantize(self, given: str, place: Coded) -> None:
        """Store bytes, or floats of 8 bits, with a scale for each row from its data; a row of zeros has scale 1, one with
        NaN or infinity decodes to NaN."""
        text, encoding = self.text, place.type.encoding
        assert isinstance(encoding, (Affine, Scaled))
        scales, zeros = place.part("scales"), place.part("zeros")
        if isinstance(encoding, Scaled):
            scale_lines(text, given, encoding, "cols_in[None, :]")
        else:
            quantize_lines(text, given, encoding, "cols_in[None, :]", 1)
        only = Group("rows_at", self.rows.axes, self.rows.sizes, "rows_in")
        text.store(place.values, (self.rows, self.cols), "q" if isinstance(encoding, Scaled) else "q.to(tl.int32)")
        assert scales is not None
        text.store(_over_rows(scales, self.shape), (only,), "scale")
        if zeros is not None:
            text.store(_over_rows(zeros, self.shape), (only,), "zero.to(tl.int32)")


def _over_rows(part: View, shape: tuple[Dim, ...]) -> View:
    """A part with one element for each row, seen by the axes of all."""
    strides = tuple(0 if i == len(shape) - 1 else s for i, s in enumerate(part.strides))
    return replace(part, shape=shape, strides=strides)


def quantize_lines(text: KernelText, given: str, encoding: Affine, inside: str, axis: int) -> None:
    """Compute `scale`, `zero` (vectors) and `q` (a tile) for the rows of a tile."""
    low, high = (float(v) for v in encoding.range)
    wide = "[:, None]" if axis == 1 else "[None, :]"
    if encoding.zero_point:
        text.line(f"most = math.maximum(rows.largest(tl.where({inside}, {given}, 0.0), {axis}), 0.0)")
        text.line(f"least = math.minimum(rows.smallest(tl.where({inside}, {given}, 0.0), {axis}), 0.0)")
        text.line(f"scale = tl.where(most == least, 1.0, (most - least) / {high - low})")
        text.line(f"zero = math.minimum(math.maximum({low} - math.round_even(least / scale), {low}), {high})")
        text.line("zero = tl.where(zero != zero, 0.0, zero)")
    else:
        text.line(f"most = rows.largest(tl.where({inside}, tl.abs({given}), 0.0), {axis})")
        text.line(f"scale = tl.where(most == 0.0, 1.0, most / {high})")
        text.line(f"zero = scale * 0.0 + {float(encoding.zero)}" if encoding.zero else "zero = tl.zeros_like(scale)")
    text.line(f"q = math.round_even({given} / scale{wide}) + zero{wide}")
    text.line(f"q = tl.minimum(tl.maximum(q, {low}), {high})")
    text.line("q = tl.where(q != q, 0.0, q)")


def scale_lines(text: KernelText, given: str, encoding: Scaled, inside: str) -> None:
    """Compute `scale` (a vector) and `q` (a tile), floats of 8 bits, for the rows of a tile."""
    text.line(f"most = rows.largest(tl.where({inside}, tl.abs({given}), 0.0), 1)")
    text.line(f"scale = tl.where(most == 0.0, 1.0, most / {encoding.largest})")
    text.line(f"q = math.limited({given} / scale[:, None], {encoding.largest})")


def _grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    return (-(-sizes["rows"] // chosen["ROWS"]),)

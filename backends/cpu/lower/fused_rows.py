"""Normalized rows with what comes before and after them as one kernel: a row never leaves the cache in between.

A row region is element-wise nodes, a layer_norm, rms_norm, softmax or log_softmax over the last axes, and element-wise
nodes and quantizations behind it. It may have several results: the sum for the next residual, the normalized row, its
bytes for the next product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mcomp.backend import Declined
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import Builder, computed, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.expressions import is_scalar, load, scalar_lines, store
from mcomp.backends.cpu.kernel import Kernel, Pointer
from mcomp.backends.cpu.loops import collapse
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Node, Value

HEADERS = ("norm.hpp", "softmax.hpp", "math.hpp", "lanes.hpp", "types.hpp", "fault.hpp", "quantize_rows.hpp")
NORMS = frozenset({"layer_norm", "rms_norm", "softmax", "log_softmax"})
_ROWS = 4
"""Rows at once; kRowsAtOnce in norm.hpp."""
_FLOATS = (dtypes.f32, dtypes.bf16, dtypes.f16)


@dataclass(frozen=True)
class RowRegion:
    """Nodes in order: `before` feed the `norm`, `after` read what is there."""

    before: tuple[Node, ...]
    norm: Node
    after: tuple[Node, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (*self.before, self.norm, *self.after)

    @property
    def late(self) -> list[Node]:
        """The element-wise nodes behind the norm."""
        return [n for n in self.after if n.op.name != "quantize"]

    def seen(self) -> list[Value]:
        """Values that nodes outside of the region read."""
        inside = set(self.nodes)
        return [v for n in self.nodes for v in n.results if any(u not in inside for u in v.users)]


def row_region(nodes: Sequence[Node]) -> RowRegion | None:
    """The row region that some nodes begin with, if it is more than a norm."""
    at = next((i for i, n in enumerate(nodes) if not is_scalar(n)), len(nodes))
    if at == len(nodes) or nodes[at].op.name not in NORMS or row_axes(nodes[at]) == 0:
        return None
    norm = nodes[at]
    shape = norm.type.shape
    if any(n.type.shape != shape for n in nodes[:at]):
        return None
    after: list[Node] = []
    for node in nodes[at + 1 :]:
        if node.results[0].tensor.shape != shape or not (is_scalar(node) or _gives_bytes(node, norm)):
            break
        after.append(node)
    return RowRegion(tuple(nodes[:at]), norm, tuple(after)) if at or after else None


def row_axes(norm: Node) -> int:
    """How many of the last axes make up a row; 0 when the norm goes along others."""
    if norm.op.name in ("softmax", "log_softmax"):
        return int(norm.type.rank > 0 and norm.attrs["axis"] == norm.type.rank - 1)
    return int(norm.attrs["axes_count"])


def _gives_bytes(node: Node, norm: Node) -> bool:
    encoding = node.results[0].tensor.encoding if node.op.name == "quantize" else None
    if not isinstance(encoding, Affine) or encoding.dtype.bits != 8:
        return False
    return encoding.scale is not None or (encoding.axis == tuple(range(norm.type.rank - 1)) and row_axes(norm) == 1)


@dataclass
class _Arguments:
    """Pointers and numbers of a kernel over rows: the axes of `shape` from `split` on."""

    shape: tuple[Dim, ...]
    split: int
    pointers: list[Pointer] = field(default_factory=list)
    numbers: dict[str, Size | Real] = field(default_factory=dict)
    _accesses: dict[str, Access] = field(default_factory=dict)
    _steps: dict[str, str] = field(default_factory=dict)

    def step(self, access: Access) -> Dim | None:
        """Elements from one element of a row to the next; None where that varies."""
        wide = access.expand(self.shape).without(range(self.split))
        inner = collapse(wide.shape, [wide])
        return None if inner.rank > 1 else inner.strides[0][0] if inner.rank else 0

    def add(self, name: str, access: Access, *, write: bool = False) -> None:
        step = self.step(access)
        assert step is not None
        self._accesses[name] = access.expand(self.shape)
        self._steps[name] = self.number(f"{name}_step", step)
        self.pointers.append(pointer(name, access, write=write))

    def write(self, access: Access) -> str:
        """The name of one more result."""
        name = f"o{sum(p.write for p in self.pointers)}"
        self.add(name, access, write=True)
        return name

    def number(self, name: str, value: Size) -> str:
        if isinstance(value, int) and value in (0, 1):
            return str(value)
        self.numbers[name] = value
        return name

    def fixed(self, name: str) -> bool:
        """Whether a row holds one element only."""
        return self._steps[name] == "0"

    def element(self, name: str) -> str:
        """Element i of the row."""
        step = self._steps[name]
        return f"{name}[{name}_at" + {"0": "]", "1": " + i]"}.get(step, f" + i * {step}]")

    def offsets(self) -> list[str]:
        """Lines that find where `row` begins in every access."""
        rows = range(self.split, len(self.shape))
        lead = collapse(self.shape[: self.split], [a.without(rows) for a in self._accesses.values()])
        lines = ["int64_t rest = row;"] if lead.rank > 1 else []
        where: dict[str, list[str]] = {n: [] for n in self._accesses}
        for loop in range(lead.rank - 1, -1, -1):
            index = "row"
            if lead.rank > 1:
                size, index = self.number(f"e{loop}", lead.sizes[loop]), f"r{loop}"
                lines.append(f"const int64_t {index} = {f'rest % {size}' if loop else 'rest'};")
                if loop:
                    lines.append(f"rest /= {size};")
            for name, strides in zip(self._accesses, lead.strides):
                step = self.number(f"{name}_row{loop}", strides[loop])
                if step != "0":
                    where[name].append(index if step == "1" else f"{index} * {step}")
        return [*lines, *(f"const int64_t {n}_at = {' + '.join(terms) or '0'};" for n, terms in where.items())]


def lower_rows(region: RowRegion, b: Builder) -> Declined | None:
    """One kernel for a row region: every row is read, normalized and stored by one worker."""
    norm, x = region.norm, region.norm.operand(0)
    if any(v.tensor.dtype not in _FLOATS for v in (x, norm.result)):
        return Declined(f"{x.tensor.dtype} has no row kernel")
    early = {v for n in region.before for v in n.results}
    late = {norm.result, *(v for n in region.late for v in n.results)}
    softmax = norm.op.name.endswith("softmax")
    if any(v in early and (softmax or v is not x) for n in region.after for v in n.operands):
        return Declined("a value from before the norm is needed behind it")
    if softmax and any(v is x for n in region.after for v in n.operands):
        return Declined("the operand of a softmax is needed behind it")
    shape = norm.type.shape
    arguments = _Arguments(shape, len(shape) - row_axes(norm))
    names: dict[Value, str] = {}
    operands = [x, *norm.operands[1:], *(v for n in (*region.before, *region.late) for v in n.operands)]
    for value in operands:
        if value is None or value in early | late or value in names or isinstance(b.number(value), (bool, int, float)):
            continue
        access = b.read(value)
        if arguments.step(access) is None:
            return Declined(f"the rows of %{value.name} are not evenly spaced")
        names[value] = f"p{len(names)}"
        arguments.add(names[value], access)
    return _Rows(region, b, arguments, names).emit()


class _Rows:
    """Writes the kernel of a row region. Rows come four at a time: before the norm they are `t[0]` ... `t[3]`, then each
    element is `x` before the norm and `y` behind it. `names` are the operands' pointers."""

    def __init__(self, region: RowRegion, b: Builder, arguments: _Arguments, names: dict[Value, str]) -> None:
        self.region, self.b, self.arguments, self.names = region, b, arguments, names
        self.x = region.norm.operand(0)
        self.kind = region.norm.op.name
        self.softmax = self.kind.endswith("softmax")
        self.in_place = not region.before and self._lies_dense()
        self.held = 0 if self.in_place else _ROWS
        """Rows of floats that a worker keeps: those before the norm, and one for every result that is quantized."""

    def emit(self) -> Declined | None:
        before = self._before()
        if isinstance(before, str):
            return Declined(before)
        direct = self._direct()
        behind = self._behind() if direct is None else []
        if isinstance(behind, str):
            return Declined(behind)
        a = self.arguments
        offsets = a.offsets()
        element = c_type(self.x.tensor.dtype) if self.in_place else "float"
        lines = [
            "const int64_t width = round_up(n, 16);",
            f"float* const held = reinterpret_cast<float*>(scratch) + w.id * {self.held} * width;",
            "const Range r = w.range(rows);",
            f"for (int64_t first = r.begin; first < r.end; first += {_ROWS}) {{",
            f"  const int64_t count = min_i64({_ROWS}, r.end - first);",
            f"  const {element}* t[{_ROWS}];",
            "  for (int64_t k = 0; k < count; ++k) {", "    const int64_t row = first + k;",
            *(f"    {line}" for line in (*offsets, *before)), "  }",
            f"  for (int64_t k = count; k < {_ROWS}; ++k) t[k] = t[0];",
            *(f"  {line}" for line in self._moments()),
            *(f"  {line}" for line in direct or (
                "for (int64_t k = 0; k < count; ++k) {", "  const int64_t row = first + k;",
                *(f"  {line}" for line in (*offsets, *behind)), "}",
            )),
            "}",
        ]
        length = dims.product(a.shape[a.split :])
        scratch = self.b.scratch(computed(f"workers * round_up({{0}}, 16) * {4 * self.held} + 64", length))
        numbers = (*a.numbers.items(), ("rows", dims.product(a.shape[: a.split])), ("n", length))
        self.b.emit(Kernel(self.kind, "\n".join(lines), (*a.pointers, scratch), numbers, HEADERS))
        return None

    def _before(self) -> list[str] | str:
        """The loop that computes `t`, or where it lies already; the reason when a node has no expression."""
        if self.in_place:
            name = self.names[self.x]
            return [f"t[k] = {name} + {name}_at;"]
        found = scalar_lines(self.region.before, self._leaves(), self.b.number)
        if isinstance(found, str):
            return found
        lines, known = found
        if self.x not in known:
            return f"%{self.x.name} is a number"
        early = {n.result for n in self.region.before}
        stores = [self._store(v, known[v]) for v in self.region.seen() if v in early]
        nodes = self.region.before
        read = [*(v for n in nodes for v in n.operands if v is not None), self.x]
        loop = self._loop(read, [*lines, *stores, f"to[i] = {known[self.x]};"])
        return ["float* const to = held + k * width;", *loop, "t[k] = to;"]

    def _lies_dense(self) -> bool:
        """Whether the operand's rows lie in memory without gaps."""
        name = self.names.get(self.x)
        return name is not None and self.arguments.element(name).endswith(" + i]")

    def _moments(self) -> list[str]:
        if self.softmax:
            return []
        self.arguments.numbers["eps"] = Real(self.region.norm.attrs["eps"])
        name = "layer" if self.kind == "layer_norm" else "rms"
        return [f"Moments<float> m[{_ROWS}];", f"{name}_moments(t, n, float(eps), m);"]

    def _direct(self) -> list[str] | None:
        """The call that makes all results, where they are the normalized rows or nothing of them, and bytes with a known
        scale of these rows or of their products with factors; None for others."""
        norm, late = self.region.norm, self.region.late
        early = {n.result for n in self.region.before}
        seen = [v for v in self.region.seen() if v not in early]
        coded = [v for v in seen if v.tensor.encoding != DENSE]
        if self.kind != "layer_norm" or len(coded) != 1 or len(late) > 1 or any(v is not norm.result for v in seen[:-1]):
            return None
        maker, encoding = coded[0].producer, coded[0].tensor.encoding
        if maker is None or coded[0] is not seen[-1] or not isinstance(encoding, Affine) or encoding.scale is None:
            return None
        factor = late[0].operand(1) if late else None
        if late and (late[0].op.name != "mul" or late[0].operand(0) is not norm.result):
            return None
        if maker.operand(0) is not (late[0].result if late else norm.result):
            return None
        vectors = [self._vector(v) for v in (norm.maybe(1), norm.maybe(2), factor)]
        if vectors[0] is None or vectors[1] is None or (factor is not None and vectors[2] is None):
            return None
        store = len(seen) > 1
        if store and norm.result.tensor.dtype is not dtypes.f32:
            return None
        y = self.arguments.write(self.b.write(norm.result)) if store else None
        values = self.b.write_encoded(coded[0]).part("values")
        assert values is not None
        q = self.arguments.write(values)
        self.arguments.numbers["inverse"], self.arguments.numbers["zero"] = Real(1.0 / encoding.scale), encoding.zero
        low, high = encoding.range
        return [
            f"normalized_bytes<{'true' if store else 'false'}>(t, m, count, n, {vectors[0]}, {vectors[1]}, "
            f"{vectors[2] or 'nullptr'}, {f'{y} + first * n' if y else 'static_cast<float*>(nullptr)'}, "
            f"{q} + first * n, float(inverse), int32_t(zero), {low}, {high});"
        ]

    def _vector(self, value: Value | None) -> str | None:
        """The pointer of an operand that is one float for every element of a row, the same for all rows."""
        name = None if value is None else self.names.get(value)
        if value is None or name is None or value.tensor.dtype is not dtypes.f32:
            return None
        rows = self.arguments.shape[self.arguments.split :]
        dense = value.tensor.shape == rows and self.b.read(value).is_dense()
        return name if dense else None

    def _behind(self) -> list[str] | str:
        """The loop that makes the results, and what quantizes whole rows."""
        norm = self.region.norm
        leaves = {**self._leaves(), norm.result: "y", self.x: "x"}
        found = scalar_lines(self.region.late, leaves, self.b.number)
        if isinstance(found, str):
            return found
        lines, known = found
        body = [f"const float y = {self._normalized()};", *lines]
        start = ["const auto* const from = t[k];"]
        if self.softmax:
            start.append(f"float* const normalized = {self._hold()};")
            start.append(f"{self.kind}_row(from, normalized, n);")
        else:
            start.append("const float mean = m[k].mean, scale = m[k].scale;")
            body.insert(0, f"const float x = {load('from[i]', self.x.tensor.dtype) if self.in_place else 'from[i]'};")
        rows: list[str] = []
        early = {n.result for n in self.region.before}
        for value in self.region.seen():
            if value in early:
                continue
            if value.tensor.encoding == DENSE:
                body.append(self._store(value, known[value]))
                continue
            assert value.producer is not None
            name = f"q{len(rows)}"
            start.append(f"float* const {name} = {self._hold()};")
            body.append(f"{name}[i] = {known[value.producer.operand(0)]};")
            rows.append(self._quantize(value, name))
        read = [v for n in (*self.region.late, norm) for v in n.operands if v is not None and v is not self.x]
        return [*start, *self._loop(read, body), *rows]

    def _hold(self) -> str:
        """One more row of floats."""
        self.held += 1
        return f"held + {self.held - 1} * width"

    def _normalized(self) -> str:
        if self.softmax:
            return "normalized[i]"
        norm = self.region.norm
        leaves = self._leaves()
        weight = None if norm.maybe(1) is None else leaves[norm.operand(1)]
        if self.kind == "rms_norm":
            self.arguments.numbers["offset"] = Real(norm.attrs["offset"])
            return "x * scale" + (f" * ({weight} + float(offset))" if weight else "")
        bias = None if norm.maybe(2) is None else leaves[norm.operand(2)]
        return "(x - mean) * scale" + (f" * {weight}" if weight else "") + (f" + {bias}" if bias else "")

    def _leaves(self) -> dict[Value, str]:
        return {value: f"v_{name}" for value, name in self.names.items()}

    def _store(self, value: Value, text: str) -> str:
        out = self.b.write(value)
        return f"{self.arguments.element(self.arguments.write(out))} = {store(text, out.dtype)};"

    def _quantize(self, value: Value, held: str) -> str:
        """The statement that quantizes a held row."""
        encoding = value.tensor.encoding
        assert isinstance(encoding, Affine)
        place = self.b.write_encoded(value)
        values, scales, zeros = place.part("values"), place.part("scales"), place.part("zeros")
        assert values is not None
        name = self.arguments.write(values)
        to = f"{name} + {name}_at"
        if encoding.scale is not None:
            self.arguments.numbers[f"{held}_inverse"] = Real(1.0 / encoding.scale)
            self.arguments.numbers[f"{held}_zero"] = encoding.zero
            low, high = encoding.range
            return f"detail::quantize_row({held}, n, {to}, float({held}_inverse), int32_t({held}_zero), {low}, {high});"
        assert scales is not None
        self.arguments.pointers.append(pointer(f"{held}_scales", scales, write=True))
        zero = "nullptr"
        if zeros is not None:
            self.arguments.pointers.append(pointer(f"{held}_zeros", zeros, write=True))
            zero = f"{held}_zeros + row"
        symmetric = "false" if encoding.zero_point else "true"
        return f"quantize_row_dynamic({held}, n, {to}, {held}_scales + row, {zero}, {symmetric});"

    def _loop(self, read: Sequence[Value], lines: Sequence[str]) -> list[str]:
        """A loop over the row that loads these operands, as far as they have pointers."""
        fixed: list[str] = []
        moving: list[str] = []
        for value in dict.fromkeys(read):
            name = self.names.get(value)
            if name is not None:
                line = f"const auto v_{name} = {load(self.arguments.element(name), value.tensor.dtype)};"
                (fixed if self.arguments.fixed(name) else moving).append(line)
        body = [f"    {line}" for line in (*moving, *lines)]
        return ["{", *(f"  {line}" for line in fixed), "  MCOMP_INDEPENDENT",
                "  for (int64_t i = 0; i < n; ++i) {", *body, "  }", "}"]

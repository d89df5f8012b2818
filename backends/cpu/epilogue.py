"""Epilogues: what happens to the finished elements of a product before they are stored.

A tail is the element-wise region behind an anchor (linear, conv, matmul ...): bias, activation, residual, requantization.
It becomes the functor that the kernel headers call for every row segment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcomp.backend import Declined
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import Builder, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type, register_type
from mcomp.backends.cpu.expressions import load, scalar_lines, store
from mcomp.backends.cpu.kernel import EncodedAccess, Pointer
from mcomp.backends.cpu.loops import collapse
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Node, Value

HEADERS = ("epilogue.hpp", "math.hpp", "lanes.hpp", "types.hpp", "fault.hpp", "quantize_byte.hpp", "quantize_rows.hpp",
           "requantize.hpp", "requantize_sum.hpp", "clamp.hpp")

_HELD = 64
"""Elements of a row that are held as floats before they are requantized together."""


@dataclass(frozen=True)
class Tail:
    """`nodes` follow the `anchor` value; `outputs` are pairs of a value (the anchor or one of theirs) and the result that
    it becomes. A value with a static affine encoding is requantized."""

    anchor: Value
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[Value, Value], ...]


@dataclass(frozen=True)
class Functor:
    """C++ text that declares the functor `ep`, the pointers and numbers it uses."""

    text: str
    pointers: tuple[Pointer, ...]
    numbers: tuple[tuple[str, Size | Real], ...]


def plain(node: Node) -> Tail:
    """The tail of a node by itself: its result is stored."""
    return Tail(node.result, (), ((node.result, node.result),))


def functor(tail: Tail, b: Builder, order: Sequence[int], bias: Value | None, along: int = 1) -> Functor | Declined:
    """The functor for an anchor whose elements come in rows: axes in `order`, the last `along` of them along a row.

    Results are made, dense in this order. `bias` lies along the rows. Declines where operands are not evenly spaced along
    rows of several axes.
    """
    shape = tail.anchor.tensor.shape
    quantizing = [n for n in tail.nodes if n.op.name == "quantize"]
    scalar = [n for n in tail.nodes if n.op.name != "quantize"]
    inside = {tail.anchor, *(v for n in tail.nodes for v in n.results)}
    leaves: dict[Value, None] = {}
    for value in (v for n in tail.nodes for v in n.operands if v is not None):
        if value not in inside and not isinstance(b.number(value), (bool, int, float, complex)):
            leaves[value] = None
    if any(r.tensor.shape != shape for _, r in tail.outputs):
        return Declined("a result has another shape than the product")
    names = {value: f"v{i}" for i, value in enumerate(leaves)}
    found = scalar_lines(scalar, {tail.anchor: "x", **names}, b.number)
    if isinstance(found, str):
        return Declined(found)
    lines, known = found
    sources = [_source(v, b) for v in leaves]
    for node in quantizing:
        if not isinstance(node.attrs["scale"], float):
            return Declined("scales from the data need whole rows")
        known[node.result] = known[node.operand(0)]
    outs = [_out(value, result, known[value], b, order, i) for i, (value, result) in enumerate(tail.outputs)]
    read = dict(zip(leaves, sources))
    rows = _Rows(tuple(shape), tuple(order), along)
    if any(rows.of(a) is None for a in (*(o.access for o in outs), *(s.access for s in sources))):
        return Declined("an operand is not evenly spaced along the rows")
    ready = _requantize(tail, b, rows, bias, outs, read) or _clamped(tail, b, rows, bias, outs, read)
    return ready or _assemble(tail, b, rows, bias, lines, sources, outs)


@dataclass(frozen=True)
class _Rows:
    """How an anchor's elements come in rows: its shape, its axes in order, and how many of them, the last ones, lie along
    a row."""

    shape: tuple[Dim, ...]
    order: tuple[int, ...]
    along: int

    def of(self, access: Access) -> Access | None:
        """An access with its axes in order and those along a row as one; None where these are not evenly spaced."""
        wide = access.expand(self.shape).permute(self.order)
        if self.along <= 1:
            return wide
        split = wide.rank - self.along
        inner = collapse(wide.shape[split:], [wide.without(range(split))])
        if inner.rank > 1:
            return None
        step = inner.strides[0][0] if inner.rank else 0
        length = dims.product(wide.shape[split:])
        return Access(wide.buffer, wide.dtype, (*wide.shape[:split], length), (*wide.strides[:split], step), wide.offset)


@dataclass(frozen=True)
class _Source:
    """A value that an epilogue reads: its elements, or bytes that stand for scale * (byte - zero)."""

    access: Access
    scale: float | None = None
    zero: int = 0


def _source(value: Value, b: Builder) -> _Source:
    place = b.place(value)
    found = place.static_bytes if isinstance(place, EncodedAccess) and b.weight(value) is None else None
    return _Source(b.read(value)) if found is None else _Source(*found)


@dataclass(frozen=True)
class _Out:
    """A result to store: where, the expression of an element, and, if it is requantized, the expression before that and
    the arguments of the requantization."""

    access: Access
    text: str
    numbers: tuple[tuple[str, Size | Real], ...] = ()
    exact: str = ""
    requantize: str = ""


def _out(value: Value, result: Value, text: str, b: Builder, order: Sequence[int], index: int) -> _Out:
    encoding = result.tensor.encoding
    if encoding == DENSE:
        access = b.write(result, order)
        return _Out(access, store(text, access.dtype))
    assert isinstance(encoding, Affine) and encoding.scale is not None
    values = b.write_encoded(result, order).part("values")
    assert values is not None
    numbers: tuple[tuple[str, Size | Real], ...] = (
        (f"inverse{index}", Real(1.0 / encoding.scale)), (f"zero{index}", encoding.zero)
    )
    low, high = encoding.range
    arguments = f"inverse{index}_, zero{index}_, {low}, {high}"
    return _Out(values, f"quantize_byte<{c_type(values.dtype)}>({text}, {arguments})", numbers, text, arguments)


def _requantize(
    tail: Tail, b: Builder, rows: _Rows, bias: Value | None, outs: Sequence[_Out], sources: Mapping[Value, _Source]
) -> Functor | None:
    """The ready epilogue for a chain of clamps, perhaps behind a sum, that ends in bytes, and perhaps gives what it
    quantizes too; None for other tails."""
    quantize = tail.nodes[-1] if tail.nodes else None
    if quantize is None or quantize.op.name != "quantize" or quantize.operand(0).tensor.dtype is not dtypes.f32:
        return None
    encoding = quantize.type.encoding
    assert isinstance(encoding, Affine) and encoding.scale is not None
    value, chain, other = tail.anchor, tail.nodes[:-1], None
    if chain and chain[0].op.name == "add":
        others = [v for v in chain[0].operands if v is not value]
        other = sources.get(others[0]) if len(others) == 1 and others[0] is not None else None
        if other is None:
            return None
        value, chain = chain[0].result, chain[1:]
    low, high = -math.inf, math.inf
    for node in chain:
        bounds = _clamp(node, value)
        if bounds is None:
            return None
        low, high = max(low, bounds[0]), min(high, bounds[1])
        value = node.result
    given = {v: out.access for (v, _), out in zip(tail.outputs, outs)}
    coded, whole = given.pop(quantize.result, None), given.pop(value, None)
    if quantize.operand(0) is not value or low > high or given or coded is None or coded.dtype.bits != 8:
        return None
    least, most = (float(q - encoding.zero) for q in encoding.range)
    least, most = max(least, low / encoding.scale), min(most, high / encoding.scale)
    beside = [a for a in (whole, None if other is None else other.access) if a is not None]
    steps = _row_steps([coded, *beside], rows)
    offset = bias is not None and b.contiguous(bias).dtype is not dtypes.f32
    if steps is None or offset or least > most or (other is None and whole is not None):
        return None
    pointers = [pointer("o0", coded, write=True)]
    if bias is not None:
        pointers.append(pointer("bias", b.contiguous(bias)))
    text = "nullptr" if bias is None else "bias"
    numbers: list[tuple[str, Size | Real]] = [
        ("ld", steps[0]), ("inverse", Real(1.0 / encoding.scale)), ("zero", encoding.zero), ("least", Real(least)),
        ("most", Real(most)),
    ]
    if other is None:
        text = f"const Requantize<{c_type(coded.dtype)}> ep{{o0, ld, {text}, float(inverse), int32_t(zero), " \
               "float(least), float(most)};"
        return Functor(text, tuple(pointers), tuple(numbers))
    kind = c_type(other.access.dtype)
    if kind not in ("float", "uint8_t", "int8_t"):
        return None
    pointers.append(pointer("other", other.access))
    if whole is not None:
        pointers.append(pointer("whole", whole, write=True))
        numbers.append(("whole_ld", steps[1]))
    numbers += [
        ("low", Real(low)), ("high", Real(high)), ("other_ld", steps[-1]), ("other_scale", Real(other.scale or 1.0)),
        ("other_zero", other.zero),
    ]
    text = (
        f"const RequantizeSum<{c_type(coded.dtype)}, {kind}> ep{{o0, ld, "
        f"{'nullptr, 0' if whole is None else 'whole, whole_ld'}, other, other_ld, {text}, float(other_scale), "
        "int32_t(other_zero), float(low), float(high), float(inverse), int32_t(zero), float(least), float(most)};"
    )
    return Functor(text, tuple(pointers), tuple(numbers))


def _row_steps(accesses: Sequence[Access], rows: _Rows) -> list[Dim] | None:
    """For accesses of the anchor's shape whose rows lie without gaps: elements from one row to the next; None for others."""
    ordered = [found for a in accesses if a.shape == rows.shape and (found := rows.of(a)) is not None]
    if len(ordered) != len(accesses) or any(a.strides[-1] != 1 and a.shape[-1] != 1 for a in ordered):
        return None
    lead = collapse(ordered[0].shape[:-1], [a.without((a.rank - 1,)) for a in ordered])
    if lead.rank > 1:
        return None
    return [steps[0] if lead.rank else 0 for steps in lead.strides]


def _clamped(
    tail: Tail, b: Builder, rows: _Rows, bias: Value | None, outs: Sequence[_Out], sources: Mapping[Value, _Source]
) -> Functor | None:
    """The ready epilogue for a sum with at most one tensor, then clamps, that stays float; None for other tails."""
    value, low, high = tail.anchor, -math.inf, math.inf
    added: _Source | None = None
    for node in tail.nodes:
        bounds = _clamp(node, value)
        if bounds is not None:
            low, high = max(low, bounds[0]), min(high, bounds[1])
        elif node.op.name == "add" and value is tail.anchor:
            others = [v for v in node.operands if v is not value]
            added = sources.get(others[0]) if len(others) == 1 and others[0] is not None else None
            if added is None or added.scale is not None:
                return None
        else:
            return None
        value = node.result
    if [v for v, _ in tail.outputs] != [value] or value.tensor.encoding != DENSE or low > high:
        return None
    accesses = [outs[0].access, *(() if added is None else (added.access,))]
    biases = None if bias is None else b.contiguous(bias)
    floats = [tail.anchor.tensor.dtype, *(a.dtype for a in accesses), *(() if biases is None else (biases.dtype,))]
    steps = _row_steps(accesses, rows)
    if steps is None or any(dtype is not dtypes.f32 for dtype in floats):
        return None
    pointers = [pointer("o0", accesses[0], write=True)]
    numbers: list[tuple[str, Size | Real]] = [("ld", steps[0]), ("low", Real(low)), ("high", Real(high))]
    if added is not None:
        pointers.append(pointer("p0", added.access))
        numbers.append(("added_ld", steps[1]))
    if biases is not None:
        pointers.append(pointer("bias", biases))
    text = (
        f"const Clamped ep{{o0, ld, {'nullptr' if biases is None else 'bias'}, "
        f"{'nullptr, 0' if added is None else 'p0, added_ld'}, float(low), float(high)}};"
    )
    return Functor(text, tuple(pointers), tuple(numbers))


def _clamp(node: Node, value: Value) -> tuple[float, float] | None:
    """The bounds of a node that clamps a value to numbers; None for other nodes."""
    if node.operand(0) is not value:
        return None
    match node.op.name:
        case "relu":
            return 0.0, math.inf
        case "relu6":
            return 0.0, 6.0
        case "hardtanh":
            return float(node.attrs["min"]), float(node.attrs["max"])
    return None


def _assemble(
    tail: Tail, b: Builder, rows: _Rows, bias: Value | None, lines: Sequence[str], sources: Sequence[_Source],
    outs: Sequence[_Out],
) -> Functor:
    given = [*(o.access for o in outs), *(s.access for s in sources)]
    accesses = [found for a in given if (found := rows.of(a)) is not None]
    ordered = accesses[0].shape
    lead = collapse(ordered[:-1], [a.without((a.rank - 1,)) for a in accesses])
    columns = [a.strides[-1] if a.rank else 0 for a in accesses]
    if not ordered or ordered[-1] == 1:
        columns = [0 for _ in accesses]
    numbers: list[tuple[str, Size | Real]] = [n for o in outs for n in o.numbers]

    def number(name: str, value: Size) -> str:
        if isinstance(value, int) and value in (0, 1):
            return str(value)
        numbers.append((name, value))
        return name

    def product(index: str, step: str) -> str:
        return index if step == "1" else f"{index} * {step}"

    where: list[list[str]] = [[] for _ in accesses]
    head: list[str] = []
    if lead.rank > 1:
        head.append("int64_t rest = row;")
    for loop in range(lead.rank - 1, -1, -1):
        index = "row"
        if lead.rank > 1:
            size = number(f"e{loop}", lead.sizes[loop])
            index = f"r{loop}"
            head.append(f"const int64_t {index} = {f'rest % {size}' if loop else 'rest'};")
            if loop:
                head.append(f"rest /= {size};")
        for a in range(len(accesses)):
            step = number(f"g{a}_{loop}", lead.strides[a][loop])
            if step != "0":
                where[a].append(product(index, step))
    moves = []
    for a, column in enumerate(columns):
        step = number(f"h{a}", column)
        moves.append(step)
        if step != "0":
            where[a].append(product("col", step))
        head.append(f"const int64_t a{a} = {' + '.join(where[a]) or '0'};")
    pointers = [pointer(f"o{i}", o.access, write=True) for i, o in enumerate(outs)]
    pointers += [pointer(f"p{i}", s.access) for i, s in enumerate(sources)]
    compute = register_type(tail.anchor.tensor.dtype)
    start = "acc[i]"
    if bias is not None:
        access = b.contiguous(bias)
        pointers.append(pointer("bias", access))
        start += f" + {load('bias[col + i]', access.dtype)}"
    hoisted: list[str] = []
    body = [f"const {compute} x = {start};"]
    for i, source in enumerate(sources):
        step = moves[len(outs) + i]
        at = f"a{len(outs) + i}" + ("" if step == "0" else f" + {product('i', step)}")
        read = load(f"p{i}[{at}]", source.access.dtype)
        if source.scale is not None:
            numbers += [(f"scale{i}", Real(source.scale)), (f"offset{i}", source.zero)]
            read = f"(float({read}) - float(offset{i})) * float(scale{i})"
        (hoisted if step == "0" else body).append(f"const auto v{i} = {read};")
    body += lines
    held = [i for i, out in enumerate(outs) if out.requantize and moves[i] == "1"]
    for i, out in enumerate(outs):
        if i in held:
            body.append(f"held{i}[i - start] = {out.exact};")
            continue
        at = f"a{i}" + ("" if moves[i] == "0" else f" + {product('i', moves[i])}")
        body.append(f"o{i}[{at}] = {out.text};")
    text = "\n".join((
        *(f"const float inverse{i}_ = float(inverse{i});\nconst int32_t zero{i}_ = int32_t(zero{i});"
          for i, out in enumerate(outs) if out.requantize),
        "const auto ep = [=](auto acc, int64_t row, int64_t col, int64_t count) MCOMP_LAMBDA {",
        "  (void)row, (void)col;", *(f"  {line}" for line in (*head, *hoisted)),
        *(f"  {line}" for line in _row_loop(body, {i: outs[i].requantize for i in held})), "};",
    ))
    return Functor(text, tuple(pointers), tuple(numbers))


def _row_loop(body: Sequence[str], held: Mapping[int, str]) -> list[str]:
    """The loop over a row. Outputs that are requantized are held as floats for a piece of the row, then converted together:
    a loop that mixes floats and bytes would need long rows to be vectorized."""
    if not held:
        return ["MCOMP_INDEPENDENT", "for (int64_t i = 0; i < count; ++i) {", *(f"  {line}" for line in body), "}"]
    return [
        *(f"float held{i}[{_HELD}];" for i in held),
        f"for (int64_t start = 0; start < count; start += {_HELD}) {{",
        f"  const int64_t stop = count - start < {_HELD} ? count : start + {_HELD};",
        "  MCOMP_INDEPENDENT", "  for (int64_t i = start; i < stop; ++i) {", *(f"    {line}" for line in body), "  }",
        *(f"  detail::quantize_row(held{i}, stop - start, o{i} + a{i} + start, {a});" for i, a in held.items()),
        "}",
    ]

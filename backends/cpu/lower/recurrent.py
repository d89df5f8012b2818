"""LSTM, GRU and RNN layers: the input's share of all steps as one product, then the loop over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access, Buffer, whole_buffer
from mcomp.backends.cpu.builder import TARGET, Builder, computed, pointer
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, Pointer, Work, arguments
from mcomp.backends.cpu.lower.products import byte_weight, project
from mcomp.backends.cpu.rows import Rows
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node, Value
from mcomp.ir.types import TensorType

_CELLS = {"lstm": ("Lstm", 4), "gru": ("Gru", 3), "rnn": ("RnnTanh", 1)}


@dataclass(frozen=True)
class _Direction:
    """One direction of one layer: its cell, its weights (input, recurrent, biases, projection), its states."""

    cell: str
    gates: int
    input_weight: Value
    weight: Value
    input_bias: Value | None
    bias: Value | None
    projection: Value | None
    starts: Sequence[Access]
    lasts: Sequence[Access]
    reverse: bool
    dynamic: bool

    @property
    def hidden(self) -> Dim:
        """Units of the cell."""
        return dims.floordiv(self.weight.tensor.shape[0], self.gates)

    @property
    def size(self) -> Dim:
        """Elements of the state."""
        return self.weight.tensor.shape[1]


@lowers("lstm", "gru", "rnn", target=TARGET)
def lower_recurrent(node: Node, b: Builder) -> Declined | None:
    a = node.attrs
    cell, gates = _CELLS[node.op.name]
    if node.op.name == "rnn" and a["nonlinearity"] == "relu":
        cell = "RnnRelu"
    if node.operand(0).tensor.dtype is not dtypes.f32:
        return Declined(f"{node.operand(0).tensor.dtype} has no kernel")
    states = 2 if node.op.name == "lstm" else 1
    weights = [v for v in node.operands[1 + states :] if v is not None]
    if a["dynamic"] and any(v.tensor.rank == 2 and not _is_bytes(v, b) for v in weights):
        return Declined("rounded states are for int8 weights with a scale per row")
    starts = [b.contiguous(node.operand(1 + i)) for i in range(states)]
    lasts = [b.write(r) for r in node.results[1:]]
    directions = 2 if a["bidirectional"] else 1
    each = 2 + 2 * a["bias"] + a.get("projection", False)
    x = b.contiguous(node.operand(0))
    for layer in range(a["layers"]):
        size = weights[1].tensor.shape[1]
        final = layer == a["layers"] - 1
        out = b.write(node.results[0]) if final else b.temp(x.dtype, (*x.shape[:2], dims.mul(size, directions)))
        coded = _rounded(x, b) if a["dynamic"] else None
        for direction in range(directions):
            index = layer * directions + direction
            w = weights[index * each : (index + 1) * each]
            _layer(b, x, coded, out, _Direction(
                cell, gates, w[0], w[1], w[2] if a["bias"] else None, w[3] if a["bias"] else None,
                w[-1] if a.get("projection") else None, [s.select(0, index) for s in starts],
                [s.select(0, index) for s in lasts], bool(direction), a["dynamic"],
            ), directions, a["batch_first"])
        x = out
    return None


def _is_bytes(weight: Value, b: Builder) -> bool:
    """Whether a weight is a constant of int8 with a scale per row, which the kernels read as it is stored."""
    encoding = weight.tensor.encoding
    return (
        b.weight(weight) is not None and byte_weight(weight) is None and isinstance(encoding, Affine)
        and encoding.dtype is dtypes.i8 and encoding.axis == (0,) and encoding.scale is None
    )


def _rounded(x: Access, b: Builder) -> EncodedAccess:
    """x[., ., I] as int8 with a scale per row."""
    lead = x.shape[:2]
    values, scales = b.temp(dtypes.i8, x.shape), b.temp(dtypes.f32, (*lead, 1))
    b.emit(Kernel(
        "quantize_rows", "quantize_rows_dynamic(w, x, k, m, k, q, k, scale, (int32_t*)nullptr, true);",
        (pointer("q", values, write=True), pointer("scale", scales, write=True), pointer("x", x)),
        (("m", dims.product(lead)), ("k", x.shape[2])), ("quantize_rows.hpp",),
    ), Work(dims.mul(4, x.numel), dims.mul(4, x.numel), x.numel))
    type = TensorType(x.shape, dtypes.f32, Affine(dtypes.i8, axis=(0, 1)))
    return EncodedAccess(type, (("values", values), ("scales", scales)))


def _packed(b: Builder, weight: Value, steps: str, gates: int, units: Dim, length: Dim) -> Buffer:
    """A recurrent weight or a projection, packed for a way to multiply (see recurrent.hpp)."""
    place = b.place(weight)
    coded = steps != "FloatSteps" and isinstance(place, EncodedAccess)

    def pack(buffer: Buffer) -> Kernel:
        source = place.part("values") if coded and isinstance(place, EncodedAccess) else b.contiguous(weight)
        scales = place.part("scales") if coded and isinstance(place, EncodedAccess) else None
        assert source is not None
        return Kernel(
            "pack_recurrent",
            f"pack_recurrent<{steps}, {gates}>(w, packed, from, {'scales' if coded else 'nullptr'}, units, length);",
            arguments(Pointer("packed", "char", whole_buffer(buffer), write=True), pointer("from", source),
                      None if scales is None else pointer("scales", scales)),
            (("units", units), ("length", length)), ("recurrent.hpp",),
        )

    size = computed(f"recurrent_bytes<{steps}, {gates}>({{0}}, {{1}})", units, length)
    return b.prepare(weight, ("recurrent", steps, gates), size, pack)


def _layer(
    b: Builder, x: Access, coded: EncodedAccess | None, out: Access, d: _Direction, directions: int, batch_first: bool
) -> None:
    """x[steps, batch, I] (or batch first), `coded` the same in int8, out likewise with directions * size."""
    hidden, size = d.hidden, d.size
    wide = dims.mul(hidden, d.gates)
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    projected = b.temp(dtypes.f32, (*x.shape[:2], wide))
    project(Rows(x, dims.mul(steps, batch), x.shape[2]), d.input_weight, d.input_bias, projected, b, coded)
    matrices = [d.weight] if d.projection is None else [d.weight, d.projection]
    way = "ByteSteps" if d.dynamic else "ByteWeightSteps" if all(_is_bytes(m, b) for m in matrices) else "FloatSteps"
    row = dims.mul(size, directions)
    numbers: dict[str, Dim] = {
        "steps": steps, "batch": batch, "hidden": hidden, "size": size,
        "projected_step": wide if batch_first else dims.mul(batch, wide),
        "projected_batch": dims.mul(steps, wide) if batch_first else wide,
        "out_step": row if batch_first else dims.mul(batch, row),
        "out_batch": dims.mul(steps, row) if batch_first else row,
    }
    place = out.slice(2, dims.mul(size, int(d.reverse)), size, 1)
    pointers = [
        pointer("out", place, write=True), pointer("h_last", d.lasts[0], write=True), pointer("projected", projected),
        Pointer("packed", "char", whole_buffer(_packed(b, d.weight, way, d.gates, hidden, size))),
        pointer("h0", d.starts[0]),
    ]
    if d.bias is not None:
        pointers.append(pointer("bias", b.contiguous(d.bias)))
    if d.cell == "Lstm":
        pointers += [pointer("c_last", d.lasts[1], write=True), pointer("c0", d.starts[1]),
                     pointer("cells", b.temp(dtypes.f32, (batch, hidden)), write=True)]
    if d.projection is not None:
        pointers += [pointer("whole", b.temp(dtypes.f32, (batch, hidden)), write=True),
                     Pointer("projection", "char", whole_buffer(_packed(b, d.projection, way, 1, size, hidden)))]
    if d.dynamic:
        pointers.append(b.scratch(computed(f"recurrent_scratch_bytes<{way}>({{0}}, dim_max({{1}}, {{2}}), workers)",
                                           batch, hidden, size)))
    lines = ["Recurrent a{};", *(f"a.{name} = {name};" for name in (*(p.name for p in pointers), *numbers)),
             f"a.reverse = {'true' if d.reverse else 'false'};", f"recurrent_layer<{d.cell}, {way}>(w, a);"]
    stored = _sum([m.tensor.nbytes for m in matrices])
    work = _sum([m.tensor.numel for m in matrices])
    b.emit(Kernel(d.cell.lower(), "\n".join(lines), tuple(pointers), tuple(numbers.items()), ("recurrent.hpp",)),
           Work(dims.mul(dims.mul(dims.mul(2, steps), batch), work), dims.add(stored, dims.mul(4, projected.numel)),
                dims.mul(4, dims.mul(steps, dims.mul(batch, size)))))


def _sum(sizes: Sequence[Dim]) -> Dim:
    """The sum of some sizes."""
    total: Dim = 0
    for size in sizes:
        total = dims.add(total, size)
    return total

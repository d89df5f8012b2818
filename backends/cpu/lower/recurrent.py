"""LSTM, GRU and RNN layers: the input's share of all steps as one product, then the loop over time."""

from __future__ import annotations

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access, Buffer, whole_buffer
from mcomp.backends.cpu.builder import TARGET, Builder, computed, pointer
from mcomp.backends.cpu.kernel import Kernel, Pointer, Work
from mcomp.backends.cpu.lower.products import project
from mcomp.backends.cpu.rows import Rows
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node, Value

_CELLS = {"lstm": ("Lstm", 4), "gru": ("Gru", 3), "rnn": ("RnnTanh", 1)}


@lowers("lstm", "gru", "rnn", target=TARGET)
def lower_recurrent(node: Node, b: Builder) -> Declined | None:
    a = node.attrs
    cell, gates = _CELLS[node.op.name]
    if node.op.name == "rnn" and a["nonlinearity"] == "relu":
        cell = "RnnRelu"
    if a.get("projection"):
        return Declined("a projection has no kernel")
    if node.operand(0).tensor.dtype is not dtypes.f32:
        return Declined(f"{node.operand(0).tensor.dtype} has no kernel")
    states = 2 if node.op.name == "lstm" else 1
    weights = [v for v in node.operands[1 + states :] if v is not None]
    starts = [b.contiguous(node.operand(1 + i)) for i in range(states)]
    lasts = [b.write(r) for r in node.results[1:]]
    directions = 2 if a["bidirectional"] else 1
    each = 4 if a["bias"] else 2
    x = b.contiguous(node.operand(0))
    for layer in range(a["layers"]):
        hidden = weights[1].tensor.shape[1]
        width = dims.mul(hidden, directions)
        final = layer == a["layers"] - 1
        out = b.write(node.results[0]) if final else b.temp(x.dtype, (*x.shape[:2], width))
        for direction in range(directions):
            index = layer * directions + direction
            chosen = weights[index * each : (index + 1) * each]
            _layer(b, cell, gates, x, out, chosen, [s.select(0, index) for s in starts],
                   [s.select(0, index) for s in lasts], direction, directions, a["batch_first"])
        x = out
    return None


def _layer(
    b: Builder, cell: str, gates: int, x: Access, out: Access, weights: list[Value], starts: list[Access],
    lasts: list[Access], direction: int, directions: int, batch_first: bool,
) -> None:
    """One direction of one layer. x[steps, batch, I] (or batch first), out likewise with directions * hidden."""
    hidden = weights[1].tensor.shape[1]
    wide = dims.mul(hidden, gates)
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    projected = b.temp(dtypes.f32, (*x.shape[:2], wide))
    bias = weights[2] if len(weights) > 2 else None
    project(Rows(x, dims.mul(steps, batch), x.shape[2]), weights[0], bias, projected, b)

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_recurrent", f"pack_recurrent(w, packed, from, {gates}, hidden);",
            (Pointer("packed", "float", whole_buffer(buffer), write=True), pointer("from", b.contiguous(weights[1]))),
            (("hidden", hidden),), ("recurrent.hpp",),
        )

    packed = b.prepare(weights[1], ("recurrent", gates),
                       computed(f"packed_recurrent_elements({gates}, {{0}}) * 4", hidden), pack)
    row = dims.mul(hidden, directions)
    numbers: dict[str, Dim] = {
        "steps": steps, "batch": batch, "hidden": hidden,
        "projected_step": wide if batch_first else dims.mul(batch, wide),
        "projected_batch": dims.mul(steps, wide) if batch_first else wide,
        "out_step": row if batch_first else dims.mul(batch, row),
        "out_batch": dims.mul(steps, row) if batch_first else row,
    }
    lines = ["Recurrent a{};", "a.projected = projected; a.packed = packed; a.h0 = h0; a.out = out; a.h_last = h_last;"]
    lines += [f"a.{name} = {name};" for name in numbers]
    place = out.slice(2, dims.mul(hidden, direction), hidden, 1)
    pointers = [
        pointer("out", place, write=True), pointer("h_last", lasts[0], write=True), pointer("projected", projected),
        Pointer("packed", "float", whole_buffer(packed)), pointer("h0", starts[0]),
    ]
    if len(weights) > 3:
        pointers.append(pointer("bias", b.contiguous(weights[3])))
        lines.append("a.bias = bias;")
    if cell == "Lstm":
        cells = b.temp(dtypes.f32, (batch, hidden))
        pointers += [pointer("c_last", lasts[1], write=True), pointer("cells", cells, write=True),
                     pointer("c0", starts[1])]
        lines.append("a.c0 = c0; a.c_last = c_last; a.cells = cells;")
    lines.append(f"a.reverse = {'true' if direction else 'false'};")
    lines.append(f"recurrent_layer<{cell}>(w, a);")
    flops = dims.mul(dims.mul(dims.mul(2, steps), batch), dims.mul(wide, hidden))
    b.emit(Kernel(cell.lower(), "\n".join(lines), tuple(pointers), tuple(numbers.items()), ("recurrent.hpp",)),
           Work(flops, dims.mul(4, dims.mul(wide, hidden)), dims.mul(4, dims.mul(steps, dims.mul(batch, hidden)))))

"""Products with one matrix of several: the experts of a mixture."""

from __future__ import annotations

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Buffer, whole_buffer
from mcomp.backends.cpu.builder import TARGET, Builder, computed, pointer
from mcomp.backends.cpu.epilogue import HEADERS, Tail, functor, plain
from mcomp.backends.cpu.kernel import Kernel, Pointer
from mcomp.backends.cpu.lower.products import ANCHORS
from mcomp.ir import dtypes
from mcomp.ir.graph import Node

_DTYPES = (dtypes.f32, dtypes.bf16, dtypes.f16)


@lowers("grouped_matmul", target=TARGET)
def lower_grouped_matmul(node: Node, b: Builder) -> Declined | None:
    return grouped_matmul(node, plain(node), b)


def grouped_matmul(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """Rows from one offset to the next use the next matrix, rows past the last offset are zero; then the tail."""
    x, weight, offsets = b.contiguous(node.operand(0)), node.operand(1), b.contiguous(node.operand(2))
    if x.dtype not in _DTYPES:
        return Declined(f"{x.dtype} has no kernel")
    ep = functor(tail, b, (0, 1), None)
    if isinstance(ep, Declined):
        return ep
    experts, length, columns = weight.tensor.shape
    stored = "bf16" if x.dtype is dtypes.bf16 else "float"
    size = 2 if stored == "bf16" else 4
    source = b.contiguous(weight)
    numbers = (("experts", experts), ("length", length), ("columns", columns))

    each = f"packed_elements<DefaultTile, {stored}>(columns, length)"

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_grouped",
            "for (int64_t e = 0; e < experts; ++e)\n"
            f"  pack_linear<DefaultTile, {stored}>(w, packed + e * packed_elements<DefaultTile, {stored}>(columns, length), "
            "from + e * length * columns, columns, length, 1, columns);",
            (Pointer("packed", stored, whole_buffer(buffer), write=True), pointer("from", source)), numbers, ("pack.hpp",),
        )

    packed = b.prepare(
        weight, ("grouped", stored),
        computed(f"packed_elements<DefaultTile, {stored}>({{0}}, {{1}}) * {size} * {{2}}", columns, length, experts), pack,
    )
    body = (
        f"{ep.text}\nint64_t start = 0;\nfor (int64_t e = 0; e < experts; ++e) {{\n"
        "  int64_t stop = static_cast<int64_t>(offsets[e]);\n"
        "  if (stop < 0 || stop > rows) { fault.raise(); stop = start; }\n"
        "  const auto behind = [&](auto acc, int64_t row, int64_t col, int64_t count) MCOMP_LAMBDA {\n"
        "    ep(acc, start + row, col, count);\n  };\n"
        "  if (stop > start)\n"
        f"    gemm_f32<DefaultTile>(w, x + start * length, length, packed + e * {each}, stop - start, columns, length, "
        "behind, scratch);\n"
        "  start = stop > start ? stop : start;\n}\n"
        "alignas(64) const float none[64] = {};\n"
        "const Range rest = w.range(rows - start);\n"
        "for (int64_t row = start + rest.begin; row < start + rest.end; ++row)\n"
        "  for (int64_t col = 0; col < columns; col += 64) ep(none, row, col, min_i64(64, columns - col));"
    )
    b.emit(Kernel(
        "grouped_matmul", body,
        (*ep.pointers, pointer("x", x), Pointer("packed", stored, whole_buffer(packed)), pointer("offsets", offsets),
         b.scratch(computed("gemm_f32_scratch_bytes({0}, {1}, workers)", x.shape[0], length))),
        (*ep.numbers, *numbers, ("rows", x.shape[0])), (*HEADERS, "gemm_f32.hpp"),
    ))
    return None


ANCHORS["grouped_matmul"] = grouped_matmul

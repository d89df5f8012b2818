"""Products and convolutions whose activations and weights are bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcomp.backends.cpu.access import Access, Buffer, whole_buffer
from mcomp.backends.cpu.builder import Builder, computed, pointer
from mcomp.backends.cpu.epilogue import HEADERS, Functor
from mcomp.backends.cpu.kernel import Kernel, Pointer
from mcomp.backends.cpu.rows import Rows
from mcomp.backends.cpu.tiles import matrix_tile, tile
from mcomp.ir.graph import Value

if TYPE_CHECKING:
    from mcomp.backends.cpu.lower.conv import ConvSizes

_MATRIX_LENGTH = 32
"""Elements of a reduction that matrix registers take at once."""


def product_bf16(name: str, rows: Rows, weight: Value, ep: Functor, b: Builder) -> None:
    """Rows times the transposed weight, then the epilogue."""
    columns, length = weight.tensor.shape
    chosen = matrix_tile(tile(columns), columns) if isinstance(length, int) and length >= _MATRIX_LENGTH else tile(columns)

    def pack(buffer: Buffer) -> Kernel:
        source = b.read(weight)
        return Kernel(
            "pack_linear_bf16", f"pack_linear_bf16<{chosen}>(w, packed, from, columns, length, step_n, step_k);",
            (Pointer("packed", "bf16", whole_buffer(buffer), write=True), pointer("from", source)),
            (("columns", columns), ("length", length), ("step_n", source.strides[0]), ("step_k", source.strides[1])),
            ("gemm_bf16.hpp", "tiles.hpp"),
        )

    size = computed(f"packed_bf16_elements<{chosen}>({{0}}, {{1}}) * 2", columns, length)
    packed = b.prepare(weight, ("linear_bf16",), size, pack)
    b.emit(Kernel(
        name, f"{ep.text}\ngemm_bf16<{chosen}>(w, a, step, packed, rows, columns, length, ep, scratch);",
        (*ep.pointers, pointer("a", rows.access), Pointer("packed", "bf16", whole_buffer(packed)),
         b.scratch(computed("gemm_bf16_scratch_bytes({0}, {1}, workers)", rows.count, length))),
        (*ep.numbers, ("step", rows.step), ("rows", rows.count), ("columns", columns), ("length", length)),
        (*HEADERS, "gemm_bf16.hpp", "tiles.hpp"),
    ))


def convolution_bf16(source: Access, weight: Value, sizes: ConvSizes, ep: Functor, b: Builder) -> None:
    """A convolution of channels-last pixels that is not transposed, then the epilogue."""
    chosen, weights = tile(sizes.columns), sizes.weights

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_conv_bf16", f"{weights.text}\npack_conv_bf16<{chosen}>(w, packed, from, s);",
            (Pointer("packed", "bf16", whole_buffer(buffer), write=True), pointer("from", b.contiguous(weight))),
            weights.numbers, ("conv_bf16.hpp", "tiles.hpp"),
        )

    size = weights.computed(f"packed_conv_bf16_elements<{chosen}>(SHAPE) * 2")
    packed = b.prepare(weight, ("conv_bf16", *weights.values), size, pack)
    b.emit(Kernel(
        "conv", f"{sizes.text}\n{ep.text}\nconv_bf16<{chosen}>(w, x, packed, s, ep, scratch);",
        (*ep.pointers, pointer("x", source), Pointer("packed", "bf16", whole_buffer(packed)),
         b.scratch(sizes.computed("conv_bf16_scratch_bytes(SHAPE, workers)"))),
        (*ep.numbers, *sizes.numbers), (*HEADERS, "conv_bf16.hpp", "tiles.hpp"),
    ))

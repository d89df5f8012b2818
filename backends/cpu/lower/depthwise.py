"""Depthwise convolutions: kernels for small square windows, and for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcomp.backends.cpu.access import Access, Buffer, whole_buffer
from mcomp.backends.cpu.builder import Builder, computed, pointer
from mcomp.backends.cpu.cxx import Computed
from mcomp.backends.cpu.kernel import Kernel, Pointer
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Value

if TYPE_CHECKING:
    from mcomp.backends.cpu.lower.conv import ConvSizes

_KERNELS = (3, 5, 7)
_PIXELS = (8, 7, 6, 5, 4)
_EDGE = 1.5
"""What a tile costs beside its pixels, in pixels."""


def _square(sizes: ConvSizes) -> tuple[int, int, int] | None:
    """Kernel size, step along a row and pixels of a tile, when there is a kernel for this window."""
    depth, height, width = (sizes.values[i : i + 16 : 3] for i in (4, 5, 6))
    kernel, step = width[2], width[3]
    if depth != (1, 1, 1, 1, 0, 1) or height[2] != kernel or height[5] != 1 or width[5] != 1:
        return None
    if not isinstance(kernel, int) or not isinstance(step, int) or kernel not in _KERNELS or step not in (1, 2):
        return None
    return kernel, step, _pixels(width[1])


def _pixels(row: Dim) -> int:
    """How many pixels tiles have that cover a row with least to spare."""
    if not isinstance(row, int):
        return 7
    return min(_PIXELS, key=lambda pixels: -(-row // pixels) * (pixels + _EDGE))


def floats_call(sizes: ConvSizes, weight: Value, b: Builder) -> tuple[str, Pointer, Computed]:
    """The call for float activations, the packed weights and the size of the scratch."""
    packed = _packed_floats(weight, b.contiguous(weight), sizes, b, "depthwise")
    found = _square(sizes)
    if found is None:
        return "depthwise_f32(w, x, packed, s, ep, scratch);", packed, _general_scratch(sizes)
    chosen = ", ".join(map(str, found))
    return (f"depthwise_square<{chosen}>(w, x, packed, s, ep, scratch);", packed,
            sizes.computed(f"depthwise_square_scratch<{chosen}>(SHAPE, workers)"))


def bytes_call(sizes: ConvSizes, weight: Value, source: Access, b: Builder) -> tuple[str, Pointer, Computed]:
    """The call for byte activations, the packed weights and the size of the scratch."""
    found = _square(sizes)
    if found is None:
        packed = _packed_floats(weight, source, sizes, b, "depthwise_i8")
        return "depthwise_i8(w, x, packed, s, scales, ep, scratch);", packed, _general_scratch(sizes)
    kernel, step, pixels = found
    shape = sizes.weights

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_depthwise", f"{shape.text}\npack_depthwise_bytes<{kernel}>(w, packed, from, s);",
            (Pointer("packed", "int8_t", whole_buffer(buffer), write=True), pointer("from", source)),
            shape.numbers, ("depthwise_i8.hpp",),
        )

    size = computed(f"packed_depthwise_bytes<{kernel}>({{0}})", sizes.values[1])
    packed = Pointer("packed", "int8_t", whole_buffer(b.prepare(weight, ("depthwise_bytes",), size, pack)))
    chosen = f"{kernel}, {step}, {pixels}"
    return (f"depthwise_bytes<{chosen}>(w, x, packed, s, scales, ep, scratch);", packed,
            sizes.computed(f"depthwise_bytes_scratch<{chosen}>(SHAPE, workers)"))


def _general_scratch(sizes: ConvSizes) -> Computed:
    """Scratch of the kernels for any window."""
    return sizes.computed("depthwise_scratch_bytes(SHAPE, workers)")


def _packed_floats(weight: Value, source: Access, sizes: ConvSizes, b: Builder, key: str) -> Pointer:
    """The weights as floats, channels innermost."""
    shape = sizes.weights

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_depthwise", f"{shape.text}\npack_depthwise(w, packed, from, s);",
            (Pointer("packed", "float", whole_buffer(buffer), write=True), pointer("from", source)),
            shape.numbers, ("depthwise.hpp",),
        )

    buffer = b.prepare(weight, (key,), computed("{0} * 4", weight.tensor.numel), pack)
    return Pointer("packed", "float", whole_buffer(buffer))

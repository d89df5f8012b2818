"""Linear layers and 1x1 convolutions of whose weights only some blocks are stored: only these are multiplied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mcomp.backends.cpu.access import Buffer, whole_buffer
from mcomp.backends.cpu.builder import Builder, computed, pointer, work_of
from mcomp.backends.cpu.cxx import SIGNED_BYTES, Real, Size
from mcomp.backends.cpu.epilogue import HEADERS, Functor
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel, Pointer, Work
from mcomp.backends.cpu.loops import channels_last
from mcomp.backends.cpu.rows import Rows, rows_of
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import NM, Affine, BlockSparse, Encoding, Parts
from mcomp.ir.graph import Node, Value

_WIDE, _NARROW = 32, 16
"""Output columns of the two panels on the widest vectors; C++ decides with the lanes it has."""
_NARROW_COST = 1.15
"""Time per multiplication in narrow panels: more rows of results are handed over."""
_WASTE = 1.3
"""Multiplications per stored weight above which the shape of the blocks is remarked on."""
_STEP = 4
"""Inputs that the int8 kernels multiply at once."""


def sparse_linear(node: Node, weight: Value, ep: Functor, b: Builder) -> bool:
    """Lower a linear layer with a block-sparse weight and its epilogue; False when there is no kernel for it."""
    from mcomp.backends.cpu.lower.products import byte_rows

    given = b.place(node.operand(0))
    coded = given if isinstance(given, EncodedAccess) and byte_rows(given) is None else None
    return _product(node, weight, ep, b, coded, lambda: rows_of(node.operand(0), b))


def sparse_conv(node: Node, weight: Value, ep: Functor, b: Builder, coded: EncodedAccess | None) -> bool:
    """The same for a convolution, whose pixels are the rows of a product where it is 1x1 of stride 1. `coded`: quantized
    activations, channels-last, with one scale for all."""
    attrs, x = node.attrs, node.operand(0)
    pads = (v for pair in attrs["padding"] for v in pair)
    plain = attrs["groups"] == 1 and all(s == 1 for s in attrs["stride"]) and all(v == 0 for v in pads)
    order = channels_last(x.tensor.rank)
    if not plain or order is None or any(d != 1 for d in weight.tensor.shape[2:]):
        return False

    def pixels() -> Rows:
        access = b.contiguous(x, order).permute(order)
        return Rows(access, dims.product(access.shape[:-1]), access.shape[-1])

    return _product(node, weight, ep, b, coded, pixels)


def _product(
    node: Node, weight: Value, ep: Functor, b: Builder, given: EncodedAccess | None, rows: Callable[[], Rows]
) -> bool:
    encoding, x = weight.tensor.encoding, node.operand(0)
    constant = b.weight(weight)
    if not isinstance(encoding, BlockSparse) or constant is None or not _fits(encoding, x):
        return False
    bytes_ = given is not None and _bytes_fit(encoding)
    rank2 = constant.type.static_shape[:2]
    shape = (rank2[0], rank2[1])
    width, share = _width(constant.parts, encoding, shape, _STEP if bytes_ else 1)
    stored = encoding.count * encoding.block[0] * encoding.block[1] / max(1, shape[0] * shape[1])
    if share > _WASTE * stored:
        b.context.missed(
            "lower", node, f"its blocks of {encoding.block[0]}x{encoding.block[1]} do not fill the panels of the product: "
            f"{share:.0%} of the dense product is computed for {stored:.0%} of the weights", _remedy(bytes_),
        )
    cost = work_of(node)
    padding = share / stored if stored else 1.0
    work = Work(dims.floordiv(dims.mul(cost.flops, round(padding * 1024)), 1024), cost.read, cost.write)
    coded = b.place(weight)
    assert isinstance(coded, EncodedAccess)
    if bytes_ and given is not None:
        _bytes(given, weight, coded, encoding, width, ep, work, b)
    else:
        _floats(rows(), weight, coded, encoding, width, ep, work, b)
    return True


def decoded_because(encoding: Encoding) -> str:
    """What would keep a weight of this encoding from being decoded."""
    if isinstance(encoding, NM):
        return (
            f"store blocks: keeping {encoding.n} of {encoding.m} inputs saves no vector instructions, because every output "
            f"channel would need its own inputs moved into place; blocks of {_WIDE} output channels save them"
        )
    return (
        "linear layers and 1x1 convolutions of stride 1 skip blocks in f32, bf16, f16 or int8: scales along the outputs, "
        "zero points of zero"
    )


def multiplied(parts: Parts, encoding: BlockSparse, shape: tuple[int, ...], width: int, step: int) -> float:
    """The share of a dense product that is computed when panels of `width` output channels skip pieces of the inputs, of a
    block's length in whole `step`s, in which none of their channels has a block."""
    rows, columns = shape
    block_rows, block_columns = encoding.block
    if rows == 0 or columns == 0:
        return 0.0
    if block_rows % width == 0 and block_columns % step == 0:
        return encoding.count * block_rows * block_columns / (rows * columns)
    there = np.zeros((rows // block_rows, columns // block_columns), bool)
    owner = np.repeat(np.arange(len(there)), np.diff(parts["rows"]))
    there[owner, parts["columns"]] = True
    length = block_columns
    if block_columns % step:
        length = min(step, columns)
        inputs = np.repeat(there, block_columns, axis=1)
        there = np.logical_or.reduceat(inputs, np.arange(0, columns, length), axis=1)
    first = np.arange(0, rows, width)
    last = np.minimum(first + width, rows) - 1
    panels = np.zeros((len(first), there.shape[1]), bool)
    for i, (low, high) in enumerate(zip(first // block_rows, last // block_rows)):
        panels[i] = there[low : high + 1].any(axis=0)
    return min(1.0, float(panels.sum()) * width * length / (rows * columns))


def _fits(encoding: BlockSparse, x: Value) -> bool:
    inner = encoding.inner
    if x.tensor.dtype is dtypes.f64:
        return False
    return not isinstance(inner, Affine) or not (inner.zero_point or inner.zero or inner.axis not in ((), (0,)))


def _bytes_fit(encoding: BlockSparse) -> bool:
    return isinstance(encoding.inner, Affine) and encoding.inner.dtype.name in SIGNED_BYTES


def _remedy(bytes_: bool) -> str:
    inputs = f"by a multiple of {_STEP} inputs" if bytes_ else "by any number of inputs"
    return f"blocks of {_WIDE} or {_NARROW} output channels {inputs} are skipped whole"


def _width(parts: Parts, encoding: BlockSparse, shape: tuple[int, ...], step: int) -> tuple[int, float]:
    """The width of panels that takes least time, and the share of the dense product that it computes."""
    wide = multiplied(parts, encoding, shape, _WIDE, step)
    if encoding.block[0] % _WIDE == 0:
        return _WIDE, wide
    narrow = multiplied(parts, encoding, shape, _NARROW, step)
    return (_NARROW, narrow) if narrow * _NARROW_COST < wide else (_WIDE, wide)


def _sizes(weight: Value, encoding: BlockSparse) -> tuple[tuple[str, Dim], ...]:
    columns, length = weight.tensor.shape[:2]
    return (("columns", columns), ("length", length), ("block_rows", encoding.block[0]),
            ("block_columns", encoding.block[1]))


def _byte_tile(width: int, encoding: BlockSparse, weight: Value) -> str:
    """The tile of a product of bytes: in matrix registers where blocks and rows are whole steps of them."""
    step, length = 64, weight.tensor.shape[1]
    other = f"SparseTileI8<{width}>"
    if encoding.block[1] % step or not isinstance(length, int) or length % step or width < 16:
        return other
    return f"MatrixTileOr<{other}, {2 if width >= 32 else 1}>"


def _pieces(coded: EncodedAccess) -> tuple[Pointer, ...]:
    values, at, starts = coded.part("values"), coded.part("columns"), coded.part("rows")
    assert values is not None and at is not None and starts is not None
    return pointer("values", values), pointer("at", at), pointer("starts", starts)


def _floats(
    rows: Rows, weight: Value, coded: EncodedAccess, encoding: BlockSparse, width: int, ep: Functor, work: Work, b: Builder
) -> None:
    """Float activations. Integers in the blocks become floats when they are packed."""
    stored = "bf16" if rows.access.dtype is dtypes.bf16 else "float"
    chosen, sizes = f"SparseTile<{width}>", _sizes(weight, encoding)
    scales = coded.part("scales")
    numbers: tuple[tuple[str, Size | Real], ...] = sizes
    head, fields = "", ""
    pointers = _pieces(coded)
    if isinstance(encoding.inner, Affine):
        if scales is None:
            assert encoding.inner.scale is not None
            numbers = (*numbers, ("scale_", Real(encoding.inner.scale)))
            head, fields = "const float one = float(scale_), *scale = &one;\n", ", scale, 0"
        else:
            pointers = (*pointers, pointer("scale", scales))
            fields = f", scale, {int(encoding.inner.axis == (0,))}"

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_sparse",
            f"{head}pack_sparse<{chosen}, {stored}>(w, packed, "
            f"make_blocks(values, at, starts, block_rows, block_columns{fields}), columns, length);",
            (Pointer("packed", "char", whole_buffer(buffer), write=True), *pointers), numbers, ("gemm_sparse.hpp",),
        )

    size = computed(f"packed_sparse_bytes<{chosen}, {stored}>({{0}}, {{1}}, {{2}}, {{3}}, {{4}})",
                    *(size for _, size in sizes), encoding.count)
    packed = b.prepare(weight, ("sparse", stored), size, pack)
    b.emit(Kernel(
        "linear_sparse",
        f"{ep.text}\n"
        f"gemm_sparse<{chosen}, {stored}>(w, a, step, packed, rows, columns, length, block_columns, ep, scratch);",
        (*ep.pointers, pointer("a", rows.access), Pointer("packed", "char", whole_buffer(packed)),
         b.scratch(computed("gemm_f32_scratch_bytes({0}, {1}, workers)", rows.count, weight.tensor.shape[1]))),
        (*ep.numbers, ("step", rows.step), ("rows", rows.count), *(s for s in sizes if s[0] != "block_rows")),
        (*HEADERS, "gemm_sparse.hpp"),
    ), work)


def _bytes(
    place: EncodedAccess, weight: Value, coded: EncodedAccess, encoding: BlockSparse, width: int, ep: Functor, work: Work,
    b: Builder,
) -> None:
    """Quantized activations and integers in the blocks."""
    from mcomp.backends.cpu.lower.products import scales_of

    values = place.part("values")
    assert values is not None
    chosen, sizes = _byte_tile(width, encoding, weight), _sizes(weight, encoding)

    def pack(buffer: Buffer) -> Kernel:
        return Kernel(
            "pack_sparse_i8",
            f"pack_sparse_i8<{chosen}>(w, packed, make_blocks(values, at, starts, block_rows, block_columns), columns, "
            "length);",
            (Pointer("packed", "char", whole_buffer(buffer), write=True), *_pieces(coded)), sizes, ("gemm_sparse.hpp",),
        )

    size = computed(f"packed_sparse_bytes_i8<{chosen}>({{0}}, {{1}}, {{2}}, {{3}}, {{4}})",
                    *(size for _, size in sizes), encoding.count)
    packed = b.prepare(weight, ("sparse_i8",), size, pack)
    columns, length = weight.tensor.shape[:2]
    scales = scales_of(place, weight, coded, columns, "nullptr", b)
    rows = dims.floordiv(values.numel, length)
    b.emit(Kernel(
        "linear_sparse_i8",
        f"{ep.text}\n{scales.text}\n"
        f"gemm_sparse_i8<{chosen}>(w, a, length, packed, rows, columns, length, block_columns, scales, ep, scratch);",
        (*ep.pointers, *scales.pointers, pointer("a", values), Pointer("packed", "char", whole_buffer(packed)),
         b.scratch(computed("gemm_i8_scratch_bytes({0}, {1}, workers)", rows, length))),
        (*ep.numbers, *scales.numbers, ("rows", rows), *(s for s in sizes if s[0] != "block_rows")),
        (*HEADERS, "gemm_sparse.hpp"),
    ), work)

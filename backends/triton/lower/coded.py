"""Linear layers of which both operands are stored in 8 bits: integers, or floats with scales."""

from __future__ import annotations

from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, View, dense
from mcomp.backends.triton.builder import Builder
from mcomp.backends.triton.lower.tiles import Linear, Tiles, result_groups, safe, start_tile, tile_grid
from mcomp.backends.triton.program import Launch
from mcomp.backends.triton.text import Group, KernelText
from mcomp.ir import dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine, Scaled
from mcomp.ir.graph import Value
from mcomp.ir.store import Weight


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


def byte_product(whole: Linear, place: Coded, b: Builder) -> Launch:
    """The launch of a product of bytes."""
    text = KernelText()
    tiles, operands, weight = _started(text, whole, place, b)
    text.line(f"acc = products.bytes_({operands}, 0, {_rest(text, whole, 'int32')})")
    sums = whole.along_cols(dense(b.constant(weight, "values", "row_sums"), (weight.type.shape[0],)))
    to_floats(text, place, whole.shape, sums, tiles.all)
    return _finished("linear_i8", "i8", text, tiles, whole, weight, b)


def _started(text: KernelText, whole: Linear, place: Coded, b: Builder) -> tuple[Tiles, str, Weight]:
    """The tiles of a kernel, where its operands are, and the weight."""
    tiles, weight = start_tile(text, *result_groups(whole.shape)), b.weight(whole.node.operand(1))
    assert weight is not None
    x, w = place.values, dense(b.constant(weight, "values"), weight.type.shape)
    outputs = Group("cols_safe", (0,), (w.shape[0],))
    operands = (f"{text.base(x)}, {text.row_terms(x, safe(tiles.rows))}, {text.number(x.strides[-1])}, "
                f"{text.pointer(w)}, {text.row_terms(w, outputs)}, {text.number(w.strides[1])}")
    return tiles, operands, weight


def _rest(text: KernelText, whole: Linear, kind: str) -> str:
    """The end of the inner axis, the empty accumulator, whether blocks divide the axis, and their size."""
    size = whole.sizes["inner"]
    inner = text.number(size)
    even = f"{inner} % BLOCK_K == 0" if isinstance(size, int) else "False"
    return f"{inner}, tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.{kind}), {even}, BLOCK_K"


def _finished(
    kind: str, dtype: str, text: KernelText, tiles: Tiles, whole: Linear, weight: Weight, b: Builder
) -> Launch:
    """The launch, once `acc` holds floats that lack the scales of the weight only."""
    encoding = weight.type.encoding
    assert isinstance(encoding, (Affine, Scaled))
    scales = dense(b.constant(weight, "scales"), encoding.scale_shape(weight.type.shape))
    one = View(scales.buffer, scales.dtype, (weight.type.shape[0],), (0 if scales.shape[0] == 1 else 1,))
    whole.finish(text, tiles.all, b, whole.along_cols(one))
    form = configs.products(8, least_inner=32)
    return b.launch(kind, text, tile_grid, form, sizes=whole.sizes, kind=kind, dtypes=(dtype,))


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


def float8_product(whole: Linear, place: Coded, b: Builder) -> Launch:
    """The launch of a product of floats of 8 bits."""
    text = KernelText()
    tiles, operands, weight = _started(text, whole, place, b)
    text.line(f"acc = products.dense({operands}, None, 0, {_rest(text, whole, 'float32')})")
    text.line(f"acc = acc * {_row_scales(text, place, whole.shape, tiles.all)}")
    return _finished("linear_f8", "f8e4m3", text, tiles, whole, weight, b)


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
    text.line(f"acc = acc.to(tl.float32) * {_row_scales(text, place, shape, groups)}")


def _row_scales(text: KernelText, place: Coded, shape: tuple[Dim, ...], groups: tuple[Group, ...]) -> str:
    """The scales of activations for a tile of a result of this shape."""
    encoding, scales = place.type.encoding, place.part("scales")
    assert isinstance(encoding, (Affine, Scaled))
    if scales is None:
        return repr(encoding.scale)
    wide = View(scales.buffer, scales.dtype, shape, (*_along(scales), 0), scales.offset)
    return text.load(wide, groups)


def _along(part: View) -> tuple[Dim, ...]:
    return tuple(0 if d == 1 else s for d, s in zip(part.shape[:-1], part.strides[:-1]))

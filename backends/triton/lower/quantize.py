"""Quantizing activations, and decoding encoded values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.elementwise import (
    flat,
    flat_grid,
    is_static_quantize,
    load_leaf,
    lower_region,
    store_value,
    widened,
)
from mcomp.backends.triton.lower.rows import quantize_lines, scale_lines
from mcomp.backends.triton.program import Config, Numbers, Work
from mcomp.backends.triton.text import KNOWN, Group, KernelText, group
from mcomp.ir import dims
from mcomp.ir.encoding import Affine, Scaled
from mcomp.ir.graph import Node

WIDEST = 16384
"""Slices of up to so many elements get their scale in one pass."""


@lowers("quantize", target=TARGET)
def lower_quantize(node: Node, b: Builder) -> Declined | None:
    if node.operand(0).tensor.dtype.name not in KNOWN:
        return Declined(f"{node.operand(0).tensor.dtype} is not computed with in Triton")
    if isinstance(node.type.encoding, Scaled):
        return _scaled(node, node.type.encoding, b)
    if is_static_quantize(node):
        return lower_region([node], list(node.results), list(node.results), b)
    return _from_data(node, b)


def _from_data(node: Node, b: Builder) -> Declined | None:
    """Scales from the data: a program reads the slices that share a scale, and writes bytes, scales and zero points."""
    encoding, shape = node.type.encoding, node.type.shape
    assert isinstance(encoding, Affine)
    if encoding.group is not None or encoding.dtype.bits != 8:
        return Declined(f"{encoding} from the data has no Triton kernel")
    over = [i for i in range(len(shape)) if i not in encoding.axis]
    cols = dims.product(tuple(shape[i] for i in over))
    if not isinstance(cols, int) or cols > WIDEST:
        return Declined(f"a scale for {cols} elements has no Triton kernel", "quantize per token, or with a known scale")
    _slices(node, encoding.axis, over, lambda text, x: quantize_lines(text, x, encoding, "cols_in[None, :]", 1),
            {"values": "q.to(tl.int32)", "scales": "scale", "zeros": "zero.to(tl.int32)"}, b)
    return None


def _slices(
    node: Node, axis: Sequence[int], over: Sequence[int], compute: Callable[[KernelText, str], None],
    stored: Mapping[str, str], b: Builder,
) -> None:
    """Emit a kernel whose programs read slices `over` some axes, one for each index of `axis`; `compute` adds the lines
    that make what is `stored`, by part."""
    shape = node.type.shape
    x, place = b.read(node.operand(0)), b.write_coded(node.result)
    text = KernelText()
    text.meta("ROWS", "COLS")
    rows_dim, cols = (dims.product(tuple(shape[i] for i in some)) for some in (axis, over))
    text.head += ["rows_at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)", f"rows_in = rows_at < {text.number(rows_dim)}",
                  "cols = tl.arange(0, COLS)", f"cols_in = cols < {cols}"]
    rows = group("rows_at", axis, shape, inside="rows_in", place="[:, None]")
    columns = group("cols", over, shape, inside="cols_in", place="[None, :]")
    compute(text, text.load(x, (rows, columns)))
    text.store(place.values, (rows, columns), stored["values"])
    only = Group("rows_at", rows.axes, rows.sizes, "rows_in")
    for name, value in stored.items():
        part = place.part(name)
        if part is not None and name != "values":
            seen = replace(part, shape=shape, strides=tuple(0 if i in over else s for i, s in enumerate(part.strides)))
            text.store(seen, (only,), value)
    b.emit(b.launch("quantize", text, _grid, configs.rows, sizes={"rows": rows_dim, "cols": cols}, kind="quantize",
                    dtypes=(node.type.dtype.name,)))


def _scaled(node: Node, encoding: Scaled, b: Builder) -> Declined | None:
    """Floats of 8 bits, with scales from the data or one known when compiling."""
    shape = node.type.shape
    if encoding.scale is not None:
        x, place = b.read(node.operand(0)), b.write_coded(node.result)
        text = KernelText()
        at = flat(text, shape)
        store_value(node.result, place, {node.operand(0): text.load(x, [at])}, [at], text)
        b.emit(b.launch("quantize", text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)},
                        kind="quantize", dtypes=(node.type.dtype.name,)))
        return None
    over = [i for i in range(len(shape)) if i not in encoding.axis]
    cols = dims.product(tuple(shape[i] for i in over))
    if not isinstance(cols, int) or cols > WIDEST:
        return Declined(f"a scale for {cols} elements has no Triton kernel", "quantize per token, or with a known scale")
    _slices(node, encoding.axis, over, lambda text, x: scale_lines(text, x, encoding, "cols_in[None, :]"),
            {"values": "q", "scales": "scale"}, b)
    return None


def _grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    return (-(-sizes["rows"] // chosen["ROWS"]),)


def decode(place: Coded, b: Builder) -> View:
    """The numbers of an encoded value that is computed, in memory."""
    type, values = place.type, place.values
    order = None if values.is_dense() else _order(values)
    out = b.temp(type.dtype, type.shape, order)
    text = KernelText()
    at = flat(text, type.shape, order)
    text.store(out, [at], load_leaf(text, widened(place, type.shape), [at]))
    moved = dims.mul(out.numel, out.dtype.itemsize)
    b.emit(b.launch("decode", text, flat_grid, configs.pointwise, sizes={"count": out.numel},
                    work=Work(0, out.numel, moved), ops=("decode",), kind="pointwise", dtypes=(type.dtype.name,)))
    return out


def _order(view: View) -> tuple[int, ...] | None:
    from mcomp.backends.triton.lower.elementwise import order_of

    return order_of([view], view.rank)

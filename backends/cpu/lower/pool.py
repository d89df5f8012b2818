"""Pooling and resizing, channels first or last as the operand is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.kernel import EncodedAccess, Work
from mcomp.backends.cpu.loops import channels_last
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node, Value

_FIELDS = ("in", "out", "kernel", "stride", "pad", "dilation", "high")


def _shape(x: Access, out: Sequence[Dim], node: Node, last: bool) -> tuple[str, dict[str, Size | Real]]:
    """C++ that declares the PoolShape `s`, and its numbers."""
    missing = 3 - (x.rank - 2)
    ones = (1,) * (x.rank - 2)
    pads = node.attrs.get("padding", [(0, 0)] * len(ones))
    rows: tuple[Sequence[Dim], ...] = (
        x.shape[2:], out[2:], node.attrs.get("kernel", ones), node.attrs.get("stride", ones), [low for low, _ in pads],
        node.attrs.get("dilation", ones), [high for _, high in pads],
    )
    numbers: dict[str, Size | Real] = {"batch": x.shape[0], "channels": x.shape[1]}
    groups = []
    for name, values in zip(_FIELDS, rows):
        full = (*((0 if name in ("pad", "high") else 1,) * missing), *values)
        numbers |= {f"{name}{i}": v for i, v in enumerate(full)}
        groups.append("{" + ", ".join(f"{name}{i}" for i in range(3)) + "}")
    *groups, high = groups
    return f"const PoolShape s{{batch, channels, {', '.join(groups)}, {'true' if last else 'false'}, {high}}};", numbers


@lowers("max_pool", "max_pool_with_index", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", target=TARGET)
def lower_pool(node: Node, b: Builder) -> Declined | None:
    name = node.op.name
    average = name in ("avg_pool", "adaptive_avg_pool")
    dtype = node.operand(0).tensor.dtype
    if dtype.is_complex or dtype is dtypes.bool_ or (average and not dtype.is_float):
        return Declined(f"{dtype} has no kernel")
    if not 3 <= node.operand(0).tensor.rank <= 5:
        return Declined("it has no batch axis")
    place = b.place(node.operand(0))
    if isinstance(place, EncodedAccess) and name in ("max_pool", "adaptive_max_pool") and len(node.results) == 1:
        return _max_of_bytes(node, place, b)
    if average and isinstance(place, EncodedAccess) and place.static_bytes is not None:
        return _average_of_bytes(node, place, b)
    order = b.follow(node.results[0], node.operand(0)) if len(node.results) == 1 else None
    x = b.contiguous(node.operand(0), order)
    text, numbers = _shape(x, node.results[0].tensor.shape, node, order is not None)
    outs = {"y": b.write(node.results[0], order)}
    if name == "max_pool_with_index":
        outs["indices"] = b.write(node.results[1])
        call = "max_pool(w, s, x, y, indices);"
    elif name == "max_pool":
        call = "max_pool(w, s, x, y, (int64_t*)nullptr);"
    elif name == "adaptive_max_pool":
        if len(node.results) > 1:
            outs["indices"] = b.write(node.results[1])
        call = f"adaptive_max_pool(w, s, x, y, {'indices' if len(node.results) > 1 else '(int64_t*)nullptr'});"
    elif name == "avg_pool":
        numbers["divisor"] = node.attrs["divisor"] or 0
        call = f"avg_pool(w, s, x, y, {'true' if node.attrs['count_padding'] else 'false'}, divisor);"
    else:
        call = "adaptive_avg_pool(w, s, x, y);"
    b.call(name, f"{text}\n{call}", outs=outs, ins={"x": x}, numbers=numbers, headers=("pool.hpp",))
    return None


def _max_of_bytes(node: Node, place: EncodedAccess, b: Builder) -> Declined | None:
    """The largest bytes of each window, which stand for the largest numbers."""
    encoding, values = place.type.encoding, place.part("values")
    if not isinstance(encoding, Affine) or encoding.scale is None or values is None or encoding.dtype.bits != 8:
        return Declined(f"{encoding} is not ordered as its bytes are")
    order = values.dense_order()
    last = order == channels_last(values.rank)
    if order is None or not (last or values.is_dense()) or (last and values.is_dense()):
        order, last = None, False
    if not values.is_dense(order):
        return Declined("its bytes are not dense")
    text, numbers = _shape(values, node.result.tensor.shape, node, last)
    out = b.temp(values.dtype, node.result.tensor.shape, order)
    call = "max_pool(w, s, x, y, (int64_t*)nullptr);" if node.op.name == "max_pool" \
        else "adaptive_max_pool(w, s, x, y, (int64_t*)nullptr);"
    read, write = (dims.product(a.shape) for a in (values, out))
    b.call(node.op.name, f"{text}\n{call}", outs={"y": out}, ins={"x": values}, numbers=numbers, headers=("pool.hpp",),
           work=Work(node.op.node_cost(node).flops, read, write))
    b.bind(node.result, place.moved(node.result, out))
    return None


def _average_of_bytes(node: Node, place: EncodedAccess, b: Builder) -> Declined | None:
    """The averages of the bytes of each window."""
    from mcomp.backends.cpu.lower.conv import channels_last_bytes

    order = channels_last(node.type.rank)
    assert order is not None
    values = channels_last_bytes(place, order, b).part("values")
    assert values is not None
    text, numbers = _shape(values, node.type.shape, node, True)
    adaptive = node.op.name == "adaptive_avg_pool"
    numbers["divisor"] = node.attrs.get("divisor") or 0
    average_bytes(node, place, values, text, numbers, order, b, adaptive=adaptive,
                  count_padding=not adaptive and node.attrs["count_padding"])
    return None


def average_bytes(
    node: Node, place: EncodedAccess, values: Access, shape: str, numbers: Mapping[str, Size | Real],
    order: Sequence[int] | None, b: Builder, *, adaptive: bool, count_padding: bool = False,
) -> None:
    """Averages over the windows of a PoolShape of bytes that lie channels last: floats, or bytes where those who read the
    result quantize it. `order`: of the result's axes."""
    found = place.static_bytes
    assert found is not None
    _, scale, zero = found
    arguments: dict[str, Size | Real] = {**numbers, "scale": Real(scale), "zero": zero}
    encoding = _read_as(node.result)
    if encoding is None or encoding.scale is None:
        out = b.write(node.result, order)
        store = "StoreAverages{y}"
    else:
        out = b.temp(encoding.dtype, node.type.shape, order)
        b.bind(node.result, EncodedAccess(replace(node.type, encoding=encoding), (("values", out),)))
        low, high = encoding.range
        arguments |= {"inverse": Real(1.0 / encoding.scale), "to_zero": encoding.zero}
        store = f"StoreAverageBytes<{c_type(out.dtype)}>{{y, float(inverse), int32_t(to_zero), {low}, {high}}}"
    call = (
        f"average_bytes<{'true' if adaptive else 'false'}>(w, s, x, float(scale), int32_t(zero), "
        f"{'true' if count_padding else 'false'}, divisor, {store});"
    )
    read, write = values.numel, dims.mul(out.numel, out.dtype.itemsize)
    b.call(node.op.name, f"{shape}\n{call}", outs={"y": out}, ins={"x": values}, numbers=arguments,
           headers=("pool_bytes.hpp",), work=Work(node.op.node_cost(node).flops, read, write))


def _read_as(value: Value) -> Affine | None:
    """The encoding with a known scale of 8 bits to which all who read a value quantize it."""
    if any(u.op.name != "quantize" for u in value.users):
        return None
    found = {u.results[0].tensor.encoding for u in value.users}
    encoding = found.pop() if len(found) == 1 else None
    if not isinstance(encoding, Affine) or encoding.scale is None or encoding.dtype.bits != 8:
        return None
    return encoding


@lowers("resize", target=TARGET)
def lower_resize(node: Node, b: Builder) -> Declined | None:
    """Nearest, linear or cubic over one to three axes."""
    modes = {"nearest": "nearest", "nearest-exact": "nearest_exact", "linear": "linear", "cubic": "cubic"}
    a = node.attrs
    smooth = bool(a["antialias"])
    if smooth and (node.type.rank != 4 or a["mode"] not in ("linear", "cubic")):
        return Declined("antialiasing over other than two axes has no kernel")
    dtype = node.type.dtype
    if not dtype.is_float and dtype is not dtypes.u8:
        return Declined(f"{dtype} has no kernel")
    order = b.follow(node.result, node.operand(0))
    x = b.contiguous(node.operand(0), order)
    out = b.write(node.result, order)
    numbers: dict[str, Size | Real] = {"outer": x.shape[0] if order else dims.mul(x.shape[0], x.shape[1]),
                                       "inner": x.shape[1] if order else 1}
    align = "true" if a["align_corners"] else "false"
    axes = [] if smooth else ["resize_axis(1, 1, false, 0.0)"] * (5 - x.rank)
    scales = a["scales"] or (None,) * (x.rank - 2)
    for i, (size, target, scale) in enumerate(zip(x.shape[2:], out.shape[2:], scales)):
        numbers |= {f"in{i}": size, f"out{i}": target, f"scale{i}": Real(float(scale or 0.0))}
        axes.append(f"resize_axis(in{i}, out{i}, {align}, scale{i})")
    text = (
        f"const ResizeAxis axis[] = {{{', '.join(axes)}}};\n"
        f"{'resize_antialias' if smooth else 'resize'}(w, x, y, outer, inner, axis, ResizeMode::{modes[a['mode']]});"
    )
    b.call("resize", text, outs={"y": out}, ins={"x": x}, numbers=numbers, headers=("resize.hpp", "resize_antialias.hpp"))
    return None


@lowers("grid_sample", target=TARGET)
def lower_grid_sample(node: Node, b: Builder) -> Declined | None:
    """Sampling of images at positions given by a grid."""
    x, grid = b.contiguous(node.operand(0)), b.contiguous(node.operand(1))
    if x.rank != 4 or not x.dtype.is_float:
        return Declined(f"rank {x.rank} of {x.dtype} has no kernel")
    out = b.write(node.result)
    align = "true" if node.attrs["align_corners"] else "false"
    modes = {"bilinear": "bilinear", "nearest": "nearest", "bicubic": "cubic"}
    if node.attrs["mode"] not in modes or node.attrs["padding"] not in ("zeros", "border", "reflection"):
        return Declined("its mode has no kernel")
    text = (
        f"const GridShape s{{batch, channels, height, width, rows, columns, {align}}};\n"
        f"grid_sample(w, s, x, grid, y, GridMode::{modes[node.attrs['mode']]}, GridPadding::{node.attrs['padding']});"
    )
    b.call("grid_sample", text, outs={"y": out}, ins={"x": x, "grid": grid}, headers=("grid_sample.hpp",), numbers={
        "batch": x.shape[0], "channels": x.shape[1], "height": x.shape[2], "width": x.shape[3],
        "rows": out.shape[2], "columns": out.shape[3],
    })
    return None

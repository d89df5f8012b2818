"""Convolutions: products of tiles with the filter's taps as inner axis; one filter for each channel by itself."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, View, dense
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.coded import byte_weight
from mcomp.backends.triton.lower.products import FLOATS
from mcomp.backends.triton.lower.tail import Tail, finish, library_ways, ours_first, plain
from mcomp.backends.triton.lower.tiles import batch_line, start_tile, tile_grid
from mcomp.backends.triton.program import Config, Numbers
from mcomp.backends.triton.text import Group, KernelText, group
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node


@lowers("conv", "conv_transpose", target=TARGET)
def lower_conv(node: Node, b: Builder) -> Declined | None:
    return conv(node, plain(node), b)


@dataclass(frozen=True)
class Windows:
    """The geometry of a convolution, three axes long: sizes of the input and of the filter, strides, padding before,
    dilations; axes that are not there have size 1 and come first."""

    x: View
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    low: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    def axes(self, text: KernelText) -> str:
        """Steps and sizes of the input's three axes."""
        rank = self.x.rank - 2
        steps = ["0"] * (3 - rank) + [text.number(s) for s in self.x.strides[2:]]
        sizes = ["1"] * (3 - rank) + [text.number(s) for s in self.x.shape[2:]]
        return ", ".join([*steps, *sizes])

    def constants(self) -> str:
        """The filter's sizes, strides, padding and dilations."""
        return ", ".join(str(v) for values in (self.kernel, self.stride, self.low, self.dilation) for v in values)


def channels_last(rank: int) -> tuple[int, ...]:
    """The order of axes with channels last."""
    return (0, *range(2, rank), 1)


def conv(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """A convolution or a transposed one, then the tail."""
    dtype, shape = node.type.dtype, node.type.shape
    if dtype not in FLOATS or dtype.bits < 16:
        return Declined(f"{dtype} convolutions have no Triton kernel")
    weight = node.operand(1)
    found = b.weight(weight)
    if found is None and not isinstance(b.place(weight), View):
        return Declined("its filter is encoded and no constant")
    views = tail.views(b)
    if isinstance(views, Declined):
        return views
    place = b.place(node.operand(0))
    bytes_ = isinstance(place, Coded) and _byte_input(place) and byte_weight(weight, b) is None
    x = place.values if bytes_ and isinstance(place, Coded) else b.read(node.operand(0))
    windows = _windows(node, x)
    if not all(isinstance(d, int) for d in weight.tensor.shape):
        return Declined("the size of its filter is not known")
    filters = _filters(node, windows, b, plain=bool(bytes_))
    rank = len(shape)
    room = tail.room(b, channels_last(rank))
    text = KernelText()
    each_in, each_out = windows_channels(node)
    depthwise = each_in == 1 and each_out == 1 and windows.groups > 1 and not windows.transposed
    acc = "tl.int32" if bytes_ else "tl.float32"
    encoding = place.type.encoding if bytes_ and isinstance(place, Coded) else None
    zero = encoding.zero if isinstance(encoding, Affine) else 0
    if depthwise:
        groups = _depthwise_text(text, shape, windows, filters, zero, acc)
    else:
        groups = _tile_text(text, shape, windows, filters, zero, acc, each_in, each_out)
    if bytes_ and isinstance(place, Coded):
        _float_bytes(text, node, place, shape, groups, b, subtract=not depthwise)
    bias = node.maybe(2)
    if bias is not None:
        text.line(f"acc = acc + {text.load(_per_channel(b.read(bias), shape), groups)}")
    finish(tail, views, "acc", groups, room, text, b)
    positions = dims.product((shape[0], *shape[2:]))
    kind = node.op.name if not depthwise else "depthwise"
    name = f"{kind}_i8" if bytes_ else kind
    if depthwise:
        sizes: dict[str, Dim] = {"rows": positions, "cols": shape[1]}
        ours = b.launch(name, text, _channel_grid, configs.channels, sizes=sizes, kind=name,
                        dtypes=("i8" if bytes_ else dtype.name,))
        b.choose([("channels", [ours]), *library_ways(node, tail, views, room, b)], ours_first, {"rows": positions})
        return None
    taps = windows.kernel[0] * windows.kernel[1] * windows.kernel[2]
    sizes = {"rows": positions, "cols": each_out, "inner": taps * each_in, "batch": windows.groups}
    bits = 8 if bytes_ else configs.BITS[dtype.name]
    form = configs.products(bits, most_rows=128, most_cols=128, least_inner=32 if bytes_ else 16)
    ours = b.launch(name, text, tile_grid, form, sizes=sizes, kind=name, dtypes=("i8" if bytes_ else dtype.name,))
    b.choose([("tile", [ours]), *library_ways(node, tail, views, room, b)], ours_first, {"rows": positions})
    return None


def _byte_input(place: Coded) -> bool:
    encoding = place.type.encoding
    if not isinstance(encoding, Affine) or encoding.dtype.bits != 8 or encoding.group is not None:
        return False
    return encoding.scale is not None or (set(encoding.axis) <= {0} and not encoding.zero_point)


def _windows(node: Node, x: View) -> Windows:
    a, transposed = node.attrs, node.op.name == "conv_transpose"
    spatial = x.rank - 2
    lead = 3 - spatial
    kernel = tuple(d for d in node.operand(1).tensor.shape[2:] if isinstance(d, int))
    low = tuple(a["padding"]) if transposed else tuple(p[0] for p in a["padding"])
    return Windows(
        x, (1,) * lead + kernel, (1,) * lead + tuple(a["stride"]), (0,) * lead + low, (1,) * lead + tuple(a["dilation"]),
        a["groups"], transposed,
    )


def windows_channels(node: Node) -> tuple[int, int]:
    """Channels in and out of one group."""
    groups, weight = node.attrs["groups"], node.operand(1).tensor.shape
    x, out = node.operand(0).tensor.shape[1], node.type.shape[1]
    assert isinstance(out, int) and isinstance(weight[0], int) and isinstance(weight[1], int)
    if node.op.name == "conv_transpose":
        return weight[0] // groups, weight[1]
    return (x if isinstance(x, int) else weight[1] * groups) // groups, out // groups


def _filters(node: Node, windows: Windows, b: Builder, *, plain: bool) -> View:
    """The filter as [outputs, taps * channels of a group], dense."""
    weight = node.operand(1)
    each_in, each_out = windows_channels(node)
    taps = windows.kernel[0] * windows.kernel[1] * windows.kernel[2]
    form = f"transposed:{windows.groups}" if windows.transposed else "taps_last"
    found = b.weight(weight)
    shape = (each_out * windows.groups, taps * each_in)
    if found is not None:
        from mcomp.ir.encoding import DENSE

        decoded = not plain and found.type.encoding != DENSE
        buffer = b.constant(found, "values", f"decoded:{form}" if decoded else form)
        return dense(buffer, shape)
    view = b.read(weight)
    if windows.transposed:
        split = view.reshape((windows.groups, each_in, each_out, *view.shape[2:])) or view
        order = (0, 2, *range(3, split.rank), 1)
    else:
        split, order = view, (0, *range(2, view.rank), 1)
    source = split.permute(order)
    copy = b.temp(view.dtype, source.shape)
    b.copy(source, copy)
    return dense(copy.buffer, shape)


def _places(shape: tuple[Dim, ...], text: KernelText) -> list[str]:
    """Lines that split flat output places `rows_safe` into the image and three coordinates `o0`, `o1`, `o2`."""
    spatial = shape[2:]
    lines, behind = [], dims.product(tuple(spatial))
    lines.append(f"image = rows_safe // {text.number(behind)}")
    lines.append(f"rest = rows_safe % {text.number(behind)}")
    lead = 3 - len(spatial)
    lines += [f"o{i} = rows_safe * 0" for i in range(lead)]
    for i, size in enumerate(spatial):
        behind = dims.product(tuple(spatial[i + 1 :]))
        at = "rest" if behind == 1 else f"rest // {text.number(behind)}"
        lines.append(f"o{lead + i} = {at}" + (f" % {text.number(size)}" if i else ""))
    return lines


def _tile_text(
    text: KernelText, shape: tuple[Dim, ...], windows: Windows, filters: View, zero: int, acc: str, each_in: int,
    each_out: int
) -> tuple[Group, ...]:
    """Compute `acc`, a tile of output places times the outputs of a group."""
    rank, x = len(shape), windows.x
    place_axes = (0, *range(2, rank))
    rows = group("rows", place_axes, shape, inside="rows_in", place="[:, None]")
    # The columns of a tile count inside of a group; the group adds its first channel.
    cols = Group("cols", (1,), (each_out,), "cols_in", "[None, :]")
    start_tile(text, rows, cols)
    text.head += _places(shape, text)
    first = ""
    if windows.groups > 1:
        text.head += [batch_line(text, windows.groups), f"channels = z * {each_out} + cols"]
        first = f" + z * {text.number(dims.mul(x.strides[1], each_in))}"
        shown = Group("channels", (1,), (shape[1],), "cols_in", "[None, :]")
        w_cols = f"(z * {each_out} + cols_safe) * {filters.shape[1]}"
    else:
        shown = cols
        w_cols = f"cols_safe * {filters.shape[1]}"
    text.line(
        f"acc = windows.conv({text.base(x)}{first}, image * {text.number(x.strides[0])}, o0, o1, o2, "
        f"{text.number(x.strides[1])}, "
        f"{windows.axes(text)}, {text.pointer(filters)}, {w_cols}, {zero}, tl.zeros((BLOCK_M, BLOCK_N), dtype={acc}), "
        f"{each_in}, {windows.constants()}, {windows.transposed}, BLOCK_K)"
    )
    return (rows, shown)


def _depthwise_text(
    text: KernelText, shape: tuple[Dim, ...], windows: Windows, filters: View, zero: int, acc: str
) -> tuple[Group, ...]:
    """Compute `acc`, a tile of output places times channels with a filter each."""
    x, rank = windows.x, len(shape)
    text.meta("BLOCK_M", "BLOCK_N")
    rows = group("rows", (0, *range(2, rank)), shape, inside="rows_in", place="[:, None]")
    cols = group("cols", (1,), shape, inside="cols_in", place="[None, :]")
    m, n = text.number(rows.numel), text.number(cols.numel)
    text.head += [
        "rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)",
        "cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)",
        f"rows_in = rows < {m}", f"cols_in = cols < {n}",
        f"rows_safe = tl.minimum(rows, {m} - 1)", f"cols_safe = tl.minimum(cols, {n} - 1)", *_places(shape, text),
    ]
    text.line(
        f"acc = windows.depthwise({text.base(x)}, image * {text.number(x.strides[0])}, o0, o1, o2, "
        f"cols_safe * {text.number(x.strides[1])}, {windows.axes(text)}, {text.pointer(filters)}, cols_safe * "
        f"{filters.shape[1]}, "
        f"{zero}, {zero}, tl.zeros((BLOCK_M, BLOCK_N), dtype={acc}), {windows.constants()})"
    )
    return (rows, cols)


def _channel_grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    return (-(-sizes["rows"] // chosen["BLOCK_M"]), -(-sizes["cols"] // chosen["BLOCK_N"]))


def _per_channel(view: View, shape: tuple[Dim, ...]) -> View:
    """One element for each channel, as wide as the result."""
    rest = (0,) * (len(shape) - 2)
    return View(view.buffer, view.dtype, shape, (0, view.strides[0], *rest), view.offset)


def _float_bytes(
    text: KernelText, node: Node, place: Coded, shape: tuple[Dim, ...], groups: tuple[Group, ...], b: Builder, *,
    subtract: bool
) -> None:
    """The i32 tile of a convolution of bytes as floats with both scales; `subtract`: zero points are still in it."""
    weight = b.weight(node.operand(1))
    encoding = place.type.encoding
    assert weight is not None and isinstance(encoding, Affine) and isinstance(weight.type.encoding, Affine)
    shift = 128 if encoding.dtype is dtypes.u8 else 0
    sums = dense(b.constant(weight, "values", "row_sums"), (weight.type.shape[0],))
    if subtract and encoding.zero != shift:
        text.line(f"acc = acc - ({encoding.zero - shift}) * {text.load(_per_channel(sums, shape), groups)}")
    scales = place.part("scales")
    if scales is None:
        text.line(f"acc = acc.to(tl.float32) * {encoding.scale!r}")
    else:
        step = 0 if scales.shape[0] == 1 else scales.strides[0]
        wide = View(scales.buffer, scales.dtype, shape, (step, *(0,) * (len(shape) - 1)), scales.offset)
        text.line(f"acc = acc.to(tl.float32) * {text.load(wide, groups)}")
    kept = weight.type.encoding.scale_shape(weight.type.shape)
    factor = b.constant(weight, "scales")
    one = View(factor, factor.dtype, (weight.type.shape[0],), (0 if kept[0] == 1 else 1,))
    text.line(f"acc = acc * {text.load(_per_channel(one, shape), groups)}")

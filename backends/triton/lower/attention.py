"""Attention as one kernel, and rotary position embedding."""

from __future__ import annotations

from dataclasses import replace

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.elementwise import flat, flat_grid, order_of
from mcomp.backends.triton.lower.tail import Tail, finish, library_ways, ours_first, plain
from mcomp.backends.triton.lower.tiles import batch_grid, batch_line
from mcomp.backends.triton.program import Config, Numbers
from mcomp.backends.triton.text import KNOWN, Group, KernelText, group
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import bool_
from mcomp.ir.graph import Node

WIDEST = 256
"""Heads of up to so many features fit."""


@lowers("attention", target=TARGET)
def lower_attention(node: Node, b: Builder) -> Declined | None:
    return attention(node, plain(node), b)


def attention(node: Node, tail: Tail, b: Builder) -> Declined | None:
    """Queries by tiles, keys and values in a loop, then the tail."""
    dtype, shape = node.type.dtype, node.type.shape
    if dtype.name not in ("f32", "f16", "bf16"):
        return Declined(f"{dtype} attention has no Triton kernel")
    query, key, value = (b.read(node.operand(i)) for i in range(3))
    depth, wide = query.shape[-1], value.shape[-1]
    if not isinstance(depth, int) or not isinstance(wide, int) or max(depth, wide) > WIDEST:
        return Declined(f"heads of {depth} and {wide} features do not fit; at most {WIDEST} do")
    views = tail.views(b)
    if isinstance(views, Declined):
        return views
    rank = len(shape)
    lead = shape[:-2]
    if node.attrs["grouped"]:
        key, value = _repeated(key, lead[-1]), _repeated(value, lead[-1])
    length, keys = shape[-2], key.shape[-2]
    query = query.expand((*lead, *query.shape[-2:]))
    key, value = _spread(key, lead, node), _spread(value, lead, node)
    text = KernelText()
    text.meta("BLOCK_M", "BLOCK_N", "BLOCK_D", "BLOCK_V")
    n, z = text.number(length), group("z", range(rank - 2), shape)
    text.head += ["rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)", f"rows_in = rows < {n}",
                  f"rows_safe = tl.minimum(rows, {n} - 1)", batch_line(text, z.numel), "cols = tl.arange(0, BLOCK_V)",
                  f"cols_in = cols < {wide}"]
    rows = Group("rows_safe", (rank - 2,), (length,))

    def begin(view: View) -> str:
        return " + ".join([text.base(view), *_lead_terms(text, view, z, node)])

    mask = node.maybe(3)
    kind, mask_text = 0, "None, rows_safe, 0"
    if mask is not None:
        given = b.read(mask).expand((*lead, length, keys))
        kind = 1 if given.dtype is bool_ else 2
        mask_text = f"{begin(given)}, {text.row_terms(given, rows)}, {text.number(given.strides[-1])}"
    scale = node.attrs["scale"] if node.attrs["scale"] is not None else depth**-0.5
    number = text.number
    text.line(
        f"acc = attention.attend({begin(query)}, {text.row_terms(query, rows)}, {number(query.strides[-1])}, "
        f"{begin(key)}, 0, {number(key.strides[-2])}, {number(key.strides[-1])}, "
        f"{begin(value)}, 0, {number(value.strides[-2])}, {number(value.strides[-1])}, {mask_text}, "
        f"rows, {number(keys)}, {float(scale)!r}, {kind}, {node.attrs['causal']}, {depth}, {wide}, BLOCK_M, BLOCK_N, "
        f"BLOCK_D, BLOCK_V)"
    )
    shown = (z, group("rows", (rank - 2,), shape, inside="rows_in", place="[:, None]"),
             group("cols", (rank - 1,), shape, inside="cols_in", place="[None, :]"))
    # Heads are joined behind attention more often than not: rows of all heads lie side by side.
    order = (*range(rank - 3), rank - 2, rank - 3, rank - 1) if rank >= 3 else None
    room = tail.room(b, order)
    finish(tail, views, "acc", shown, room, text, b)
    sizes: dict[str, Dim] = {"rows": length, "inner": keys, "batch": dims.product(lead), "cols": wide}
    ours = b.launch("attention", text, _grid, configs.attention(depth, wide, configs.BITS[dtype.name]), sizes=sizes,
                    kind="attention", dtypes=(dtype.name,))
    # Torch's kernels give NaN for rows of which masks leave nothing, and multiply f32 by TF32.
    library = library_ways(node, tail, views, room, b) if mask is None and dtype.bits == 16 and rank == 4 else []
    b.choose([("tile", [ours]), *library], ours_first, {"rows": length})
    return None


def _repeated(view: View, heads: Dim) -> View:
    """Key or value heads as many as query heads: the head axis as (key heads, sharers), with the sharers at step 0."""
    each = dims.floordiv(heads, view.shape[-3])
    at = view.rank - 3
    shape = (*view.shape[:at], view.shape[at], each, *view.shape[at + 1 :])
    strides = (*view.strides[:at], view.strides[at], 0, *view.strides[at + 1 :])
    return replace(view, shape=shape, strides=strides)


def _spread(view: View, lead: tuple[Dim, ...], node: Node) -> View:
    """Keys or values for all heads, whose head axis is two where heads share them."""
    heads = view.shape[-4:-2] if node.attrs["grouped"] else lead[-1:]
    return view.expand((*lead[:-1], *heads, *view.shape[-2:]))


def _lead_terms(text: KernelText, view: View, z: Group, node: Node) -> list[str]:
    """The part of places that the head decides. Grouped keys have one axis more than the result."""
    extra = view.rank - node.type.rank
    if not extra:
        return text.terms(view, z)
    axes = tuple(range(view.rank - 2))
    return text.terms(view, Group("z", axes, tuple(view.shape[a] for a in axes)))


def _grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    return (-(-sizes["rows"] // chosen["BLOCK_M"]), *batch_grid(sizes["batch"]))


@lowers("rope", target=TARGET)
def lower_rope(node: Node, b: Builder) -> Declined | None:
    """x * cos + rotated x * sin: the rotated element is read at its own place."""
    x, shape = b.read(node.operand(0)), node.type.shape
    if x.dtype.name not in KNOWN:
        return Declined(f"{x.dtype} is not computed with in Triton")
    size = shape[-1]
    if not isinstance(size, int):
        return Declined("the size of its last axis is not known")
    order = None if b.is_output(node.result) else order_of([x], len(shape))
    out = b.write(node.result, order)
    text = KernelText()
    at = flat(text, shape, order)
    # The index along the last axis: its place in the order tells how to split the flat index.
    last = Group(at.var, at.axes, at.sizes)
    only = View(x.buffer, x.dtype, shape, (0,) * (len(shape) - 1) + (1,))
    text.line(f"place = {text.row_terms(only, last)}")
    if node.attrs["interleaved"]:
        text.line("away = tl.where(place % 2 == 0, 1, -1)")
        text.line("sign = tl.where(place % 2 == 0, -1.0, 1.0)")
    else:
        text.line(f"away = tl.where(place < {size // 2}, {size // 2}, {-(size // 2)})")
        text.line(f"sign = tl.where(place < {size // 2}, -1.0, 1.0)")
    index, _ = text.index(x, [at], full=True)
    step = text.number(x.strides[-1])
    from mcomp.backends.triton.text import widened

    given = text.load(x, [at])
    text.line(f"other = {widened(f'tl.load({text.pointer(x)} + {index} + away * {step}, mask=inside, other=0)', x.dtype)}")
    cos, sin = (text.load(b.read(node.operand(i)).expand(shape), [at]) for i in (1, 2))
    text.store(out, [at], f"{given} * {cos} + sign * other * {sin}")
    b.emit(b.launch("rope", text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)}, kind="pointwise",
                    dtypes=(x.dtype.name,)))
    return None

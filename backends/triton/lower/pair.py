"""Two products in a row whose middle is narrow, as one kernel: the factors of a low-rank weight."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.backend import Declined
from mcomp.backends.triton import configs
from mcomp.backends.triton.builder import Builder
from mcomp.backends.triton.configs import power
from mcomp.backends.triton.lower.products import FLOATS
from mcomp.backends.triton.lower.tail import Tail, finish
from mcomp.backends.triton.lower.tiles import safe
from mcomp.backends.triton.program import Config, Numbers
from mcomp.backends.triton.text import Group, KernelText, group
from mcomp.ir import dims
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Node

WIDEST = 256
"""The middle of a pair is held in registers and shared memory; wider ones are computed as two products."""


def pair_at(nodes: Sequence[Node], b: Builder) -> tuple[Node, Node] | None:
    """The two products that a run of nodes starts with, where the second alone reads what the first gives."""
    if len(nodes) < 2 or any(n.op.name != "linear" for n in nodes[:2]):
        return None
    first, second = nodes[:2]
    if second.operand(0) is not first.result or first.result.users != (second,):
        return None
    return first, second


def lower_pair(pair: tuple[Node, Node], tail: Tail, b: Builder) -> Declined | None:
    """(x V' + b) U' + c, then the tail: a program keeps the middle for its rows and goes over all columns."""
    first, second = pair
    inner, outer = first.operand(1), second.operand(1)
    dtype = first.type.dtype
    if dtype not in FLOATS or dtype.bits < 16:
        return Declined(f"{dtype} pairs have no Triton kernel")
    if inner.tensor.encoding != DENSE or outer.tensor.encoding != DENSE or first.operand(0).tensor.encoding != DENSE:
        return Declined("its factors are encoded", "two products are computed")
    rank = inner.tensor.shape[0]
    if not isinstance(rank, int) or rank > WIDEST or (dtype.bits == 32 and rank > WIDEST // 2):
        return Declined(f"its middle has {rank} features; at most {WIDEST} of 16 bits fit", "two products are computed")
    views = tail.views(b)
    if isinstance(views, Declined):
        return views
    shape = second.type.shape
    text = KernelText()
    text.meta("BLOCK_M", "BLOCK_N", "BLOCK_K", "BLOCK_R")
    rows_dim, n = dims.product(shape[:-1]), shape[-1]
    m = text.number(rows_dim)
    text.head += ["rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)", f"rows_in = rows < {m}",
                  f"rows_safe = tl.minimum(rows, {m} - 1)", f"r = tl.minimum(tl.arange(0, BLOCK_R), {rank} - 1)",
                  f"r_in = tl.arange(0, BLOCK_R) < {rank}"]
    rows = group("rows", range(len(shape) - 1), shape, inside="rows_in", place="[:, None]")
    x, v, u = b.read(first.operand(0)), b.read(inner), b.read(outer)
    size = v.shape[1]
    text.line(
        f"acc = products.dense({text.base(x)}, {text.row_terms(x, safe(rows))}, {text.number(x.strides[-1])}, "
        f"{text.base(v)}, "
        f"r * {text.number(v.strides[0])}, {text.number(v.strides[1])}, None, 0, {text.number(size)}, "
        f"tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32), "
        f"{f'{size} % BLOCK_K == 0' if isinstance(size, int) else 'False'}, BLOCK_K)"
    )
    if first.maybe(2) is not None:
        bias = b.read(first.operand(2))
        text.line(f"acc = acc + numbers.wide(tl.load({text.base(bias)} + r * {text.number(bias.strides[0])}))[None, :]")
    kept = "tl.float32" if dtype.bits == 32 else f"{text.pointer(x)}.dtype.element_ty"
    text.line(f"middle = numbers.narrow(tl.where(r_in[None, :], acc, 0.0), {kept})")
    text.line(f"for start in range(0, {text.number(n)}, BLOCK_N):")
    text.indent = "    "
    text.line("cols = start + tl.arange(0, BLOCK_N)")
    text.line(f"cols_in = cols < {text.number(n)}")
    cols = Group("cols", (len(shape) - 1,), (n,), "cols_in", "[None, :]", outer=False)
    text.line(
        f"w = tl.load({text.base(u)} + ((r * {text.number(u.strides[1])})[:, None] + (cols * "
        f"{text.number(u.strides[0])})[None, :]), "
        "mask=r_in[:, None] & cols_in[None, :], other=0)"
    )
    text.line("tile = products.dot(middle, w, tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32))")
    if second.maybe(2) is not None:
        text.line(f"tile = tile + {text.load(b.read(second.operand(2)).expand(shape), (rows, cols))}")
    finish(tail, views, "tile", (rows, cols), tail.room(b), text, b)
    text.indent = ""
    sizes = {"rows": rows_dim, "cols": n, "inner": size, "middle": rank}
    b.emit(b.launch("pair", text, _grid, _configs(configs.BITS[dtype.name]), sizes=sizes, kind="pair", dtypes=(dtype.name,)))
    return None


def _grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    return (-(-sizes["rows"] // chosen["BLOCK_M"]),)


def _configs(bits: int) -> configs.Configs:
    def found(sizes: Numbers, chip: configs.Chip) -> list[Config]:
        middle = power(sizes["middle"], 16, WIDEST)
        if chip.interpreted:
            return [configs.config(BLOCK_M=power(sizes["rows"], 16, 64), BLOCK_N=power(sizes["cols"], 16, 64),
                                   BLOCK_K=power(sizes["inner"], 16, 128), BLOCK_R=middle)]
        listed = []
        shapes = [(64, 64, 64, 4, 3), (64, 128, 64, 8, 3), (32, 64, 64, 4, 3), (16, 64, 64, 4, 3), (128, 64, 64, 8, 3)]
        if bits == 32:
            shapes = [(32, 32, 32, 4, 2), (16, 32, 32, 4, 2), (16, 64, 32, 4, 2)]
        for bm, bn, bk, warps, stages in shapes:
            held = (stages * bk * (bm + middle) + middle * (bm + bn)) * bits // 8
            if held <= chip.shared and bm * middle <= (64 * 256 if bits == 16 else 16 * 128):
                bm = min(bm, power(sizes["rows"], 16, 256))
                listed.append(configs.config(warps, stages, BLOCK_M=bm, BLOCK_N=bn, BLOCK_K=bk, BLOCK_R=middle))
        return list(dict.fromkeys(listed)) or [
            configs.config(4, 1, BLOCK_M=16, BLOCK_N=32, BLOCK_K=32, BLOCK_R=middle)
        ]

    return found

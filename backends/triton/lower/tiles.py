"""What products have in common: tiles and their indices, and a linear layer with where all of it is."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.backend import Declined
from mcomp.backends.triton.access import Place, View
from mcomp.backends.triton.builder import Builder
from mcomp.backends.triton.lower.tail import Tail, finish
from mcomp.backends.triton.program import Config, Numbers
from mcomp.backends.triton.text import Group, KernelText, group
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node, Value


@dataclass(frozen=True)
class Tiles:
    """The groups of indices of a tile: rows, columns, and (where there are several products) which product."""

    rows: Group
    cols: Group
    batch: tuple[Group, ...] = ()

    @property
    def all(self) -> tuple[Group, ...]:
        return (*self.batch, self.rows, self.cols)


def start_tile(text: KernelText, rows: Group, cols: Group, *, batch: Group | None = None) -> Tiles:
    """Begin a kernel that computes one tile of rows and columns per program: vectors `rows`, `cols`, and `rows_safe`,
    `cols_safe`, which stay inside."""
    text.meta("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")
    m, n = text.number(rows.numel), text.number(cols.numel)
    text.head += [
        f"pm, pn = products.tile_of(tl.program_id(0), {m}, {n}, BLOCK_M, BLOCK_N, GROUP_M)",
        "rows = pm * BLOCK_M + tl.arange(0, BLOCK_M)", "cols = pn * BLOCK_N + tl.arange(0, BLOCK_N)",
        f"rows_in = rows < {m}", f"cols_in = cols < {n}",
        f"rows_safe = tl.minimum(rows, {m} - 1)", f"cols_safe = tl.minimum(cols, {n} - 1)",
    ]
    if batch is not None:
        text.head.append(batch_line(text, batch.numel))
    return Tiles(rows, cols, () if batch is None else (batch,))


MOST_PROGRAMS = 65535
"""Along the second and third axis of a grid."""


def batch_line(text: KernelText, count: Dim) -> str:
    """Which of `count` alike products a program computes: they lie along two axes of the grid, as `batch_grid` has them, and
    some of the last may be computed twice."""
    return f"z = tl.minimum(tl.program_id(1) + tl.program_id(2) * {MOST_PROGRAMS}, {text.number(count)} - 1)"


def batch_grid(count: int) -> tuple[int, int]:
    """The programs along the second and third axis for so many."""
    return min(count, MOST_PROGRAMS), max(1, -(-count // MOST_PROGRAMS))


def tile_grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    """Programs for all tiles, and for all products."""
    tiles = -(-sizes["rows"] // chosen["BLOCK_M"]) * -(-sizes["cols"] // chosen["BLOCK_N"])
    return (tiles, *batch_grid(sizes.get("batch", 1)))


def vector_grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    """Programs for all pieces of every row, and for all parts of the inner axis."""
    return (-(-sizes["cols"] // chosen["BLOCK_N"]), sizes["rows"], sizes.get("batch", 1))


def safe(g: Group) -> Group:
    """The group with indices that stay inside."""
    return Group(f"{g.var}_safe", g.axes, g.sizes)


@dataclass(frozen=True)
class Linear:
    """A linear node with its tail, and where everything is that its kernels read and write."""

    node: Node
    tail: Tail
    views: dict[Value, Place]
    bias: View | None
    room: list[Place]
    sizes: dict[str, Dim]

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.node.type.shape

    def along_cols(self, view: View) -> View:
        """A view of one axis as wide as the result, whose last axis it goes along."""
        lead = (0,) * (len(self.shape) - 1)
        return View(view.buffer, view.dtype, self.shape, (*lead, view.strides[0]), view.offset)

    def finish(self, text: KernelText, groups: tuple[Group, ...], b: Builder, *factors: View) -> None:
        """Multiply the tile `acc` by factors, add the bias, compute the tail and store."""
        for factor in factors:
            text.line(f"acc = acc * {text.load(factor, groups)}")
        if self.bias is not None:
            text.line(f"acc = acc + {text.load(self.bias, groups)}")
        finish(self.tail, self.views, "acc", groups, self.room, text, b)


def prepared(node: Node, tail: Tail, sizes: dict[str, Dim], b: Builder) -> Linear | Declined:
    """What the kernels of a linear node have in common."""
    views = tail.views(b)
    if isinstance(views, Declined):
        return views
    bias = node.maybe(2)
    spread = None if bias is None else b.read(bias).expand(node.type.shape)
    return Linear(node, tail, views, spread, tail.room(b), sizes)


def result_groups(shape: tuple[Dim, ...]) -> tuple[Group, Group]:
    return (group("rows", range(len(shape) - 1), shape, inside="rows_in", place="[:, None]"),
            group("cols", (len(shape) - 1,), shape, inside="cols_in", place="[None, :]"))

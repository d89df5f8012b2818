"""Linear layers whose rows are computed element by element on the way: where they are multiplied, or before, in a kernel of
their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcomp.backend import Declined
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Place, View
from mcomp.backends.triton.builder import Builder, work_of_part
from mcomp.backends.triton.expressions import is_scalar, scalar_lines, unsupported
from mcomp.backends.triton.lower.elementwise import flat, flat_grid, leaf_of, load_leaf, widened
from mcomp.backends.triton.lower.linear import Way, factors_of
from mcomp.backends.triton.lower.tiles import Linear, result_groups, safe, start_tile, tile_grid, vector_grid
from mcomp.backends.triton.program import Launch
from mcomp.backends.triton.text import KNOWN, Group, KernelText, group, stored_type
from mcomp.ir.graph import Node, Value

MOST_NODES, MOST_LEAVES = 12, 4
"""Longer chains, and such that read more, are computed once only: a product by tiles computes them for every tile."""
_PLAIN_WAYS = ("dense", "rows", "floats")


@dataclass(frozen=True)
class Computed:
    """The rows of a linear layer, `value`, computed by `nodes` from `leaves`."""

    value: Value
    nodes: tuple[Node, ...]
    leaves: dict[Value, Place]

    def lines(self, text: KernelText, groups: Sequence[Group], b: Builder) -> str:
        """Statements that compute elements; the name of the last."""
        shape = self.value.tensor.shape
        names = {value: load_leaf(text, widened(leaf, shape), groups) for value, leaf in self.leaves.items()}
        known = scalar_lines(self.nodes, names, b.number, text.line, prefix="u")
        assert not isinstance(known, str), known
        return known[self.value]

    def apart(self, target: View, b: Builder) -> Launch:
        """The launch that computes them all."""
        text = KernelText()
        at = flat(text, target.shape)
        text.store(target, [at], self.lines(text, [at], b))
        return b.launch("pointwise", text, flat_grid, configs.pointwise, sizes={"count": target.numel}, kind="pointwise",
                        work=work_of_part(self.nodes), dtypes=(target.dtype.name,))


def run_before(nodes: Sequence[Node]) -> tuple[list[Node], Node] | None:
    """Element-wise nodes, with which a run starts, and the linear behind them that alone reads what they come to; None where
    it starts with anything else."""
    for i, node in enumerate(nodes):
        if node.op.name == "linear" and i:
            taken = [*nodes[:i]]
            inside, value = {*taken, node}, taken[-1].result
            alone = all(u in inside for n in taken for v in n.results for u in v.users)
            first = node.operand(0) is value and value.users == (node,) and value not in node.operands[1:]
            same = all(n.result.tensor.shape == value.tensor.shape for n in taken)
            return (taken, node) if alone and first and same else None
        if not is_scalar(node):
            return None
    return None


def computed(nodes: Sequence[Node], b: Builder) -> Computed | Declined:
    """The rows that element-wise nodes come to."""
    inside = {v for n in nodes for v in n.results}
    leaves: dict[Value, None] = {}
    for node in nodes:
        if (reason := unsupported(node)) is not None:
            return Declined(reason)
        for value in node.operands:
            if value is not None and value not in inside and not isinstance(b.number(value), (bool, int, float)):
                leaves[value] = None
    if any(value.type.dtype.name not in KNOWN for value in leaves):
        return Declined("it reads elements that are not computed with in Triton")
    return Computed(nodes[-1].result, tuple(nodes), {value: leaf_of(value, b) for value in leaves})


def inside_ways(whole: Linear, way: Way, rows: Computed, b: Builder) -> dict[str, Launch]:
    """The launches of a product that compute its rows themselves, by tiles and row by row; none where the weight is stored
    in groups, or the rows take too much."""
    if way.kind not in _PLAIN_WAYS or len(rows.nodes) > MOST_NODES or len(rows.leaves) > MOST_LEAVES:
        return {}
    return {"tile, rows computed": _tile(whole, way, rows, b), "vector, rows computed": _vector(whole, way, rows, b)}


def _tile(whole: Linear, way: Way, rows: Computed, b: Builder) -> Launch:
    text = KernelText()
    tiles = start_tile(text, *result_groups(whole.shape))
    place = safe(tiles.rows)
    lead = Group(place.var, place.axes, place.sizes, place="[:, None]")
    columns = Group("cols_safe", (0,), (way.values.shape[0],))
    text.line("acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)")
    inner = _loop(text, whole, rows, "[None, :]")
    x = rows.lines(text, (lead, inner), b)
    text.line(f"a = tl.where((rows_safe >= 0)[:, None] & k_in[None, :], {x}, 0.0)")
    text.line(f"a = numbers.narrow(a, {_element(rows)})")
    text.line(f"w = tl.load({text.pointer(way.values)} + ((k * {text.number(way.values.strides[1])})[:, None] + "
              f"({text.row_terms(way.values, columns)})[None, :]), mask=k_in[:, None], other={_nothing(way)})")
    text.line(f"acc = products.dot(a, numbers.narrow(w, {_element(rows)}), acc)")
    text.indent = ""
    whole.finish(text, tiles.all, b, *factors_of(whole, way))
    dtype = rows.value.tensor.dtype.name
    form = configs.products(configs.BITS[dtype])
    return b.launch("linear_computed", text, tile_grid, form, sizes=whole.sizes, kind="linear_computed", dtypes=(dtype,))


def _vector(whole: Linear, way: Way, rows: Computed, b: Builder) -> Launch:
    text = KernelText()
    text.meta("BLOCK_N", "BLOCK_K")
    shape = whole.shape
    n = text.number(shape[-1])
    text.head += ["row = tl.program_id(1)", "cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)",
                  f"cols_in = cols < {n}", f"cols_safe = tl.minimum(cols, {n} - 1)"]
    row, cols = group("row", range(len(shape) - 1), shape), group("cols", (len(shape) - 1,), shape, inside="cols_in")
    columns = Group("cols_safe", (0,), (way.values.shape[0],))
    text.line("sums = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)")
    inner = _loop(text, whole, rows, "")
    x = rows.lines(text, (row, inner), b)
    text.line(f"a = numbers.wide(numbers.narrow(tl.where(k_in, {x}, 0.0), {_element(rows)}))")
    text.line(f"w = tl.load({text.pointer(way.values)} + (({text.row_terms(way.values, columns)})[:, None] + "
              f"(k * {text.number(way.values.strides[1])})[None, :]), mask=k_in[None, :], other={_nothing(way)})")
    text.line("sums += a[None, :] * numbers.wide(w)")
    text.indent = ""
    text.line("acc = tl.sum(sums, 1)")
    whole.finish(text, (row, cols), b, *factors_of(whole, way))
    dtype = rows.value.tensor.dtype.name
    return b.launch("vector_computed", text, vector_grid, configs.vectors, sizes=whole.sizes, kind="vector_computed",
                    dtypes=(dtype,))


def _loop(text: KernelText, whole: Linear, rows: Computed, place: str) -> Group:
    """Begin a loop over the inner axis; the group of its indices, which are an axis of the rows."""
    size, shape = whole.sizes["inner"], rows.value.tensor.shape
    text.line(f"for start in range(0, {text.number(size)}, BLOCK_K):")
    text.indent = "    "
    text.line("k = start + tl.arange(0, BLOCK_K)")
    text.line(f"k_in = k < {text.number(size)}")
    return Group("k", (len(shape) - 1,), (shape[-1],), "k_in", place, outer=False)


def _nothing(way: Way) -> str:
    return "0.0" if way.values.dtype.is_float else "0"


def _element(rows: Computed) -> str:
    return stored_type(rows.value.tensor.dtype)


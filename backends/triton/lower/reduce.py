"""Reductions: a program goes over the reduced elements of some results in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.expressions import scalar_lines
from mcomp.backends.triton.program import Config, Numbers
from mcomp.backends.triton.text import KNOWN, Group, KernelText, computed_type, group
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import bool_
from mcomp.ir.graph import Node, Value

SIMPLE = ("sum", "mean", "amax", "amin", "prod", "all", "any")
OTHER = ("var", "std", "norm", "logsumexp")
INDEXED = ("argmax", "argmin", "max_with_index", "min_with_index")


@lowers(*SIMPLE, *OTHER, *INDEXED, target=TARGET)
def lower_reduction(node: Node, b: Builder) -> Declined | None:
    return reduction(node, (), b)


def reduction(
    node: Node, before: Sequence[Node], b: Builder, *, name: str = "", axes: tuple[int, ...] | None = None
) -> Declined | None:
    """A reduction of what element-wise nodes compute. `name`, `axes`: where the node is a reduction under another name,
    whose axes stay."""
    x = node.operand(0).tensor
    if x.dtype.name not in KNOWN:
        return Declined(f"{x.dtype} is not computed with in Triton")
    return _Reduction(node, tuple(before), b, name or node.op.name, axes).emit()


@dataclass
class _Reduction:
    """Writes the kernel of a reduction."""

    node: Node
    before: tuple[Node, ...]
    b: Builder
    name: str
    axes: tuple[int, ...] | None

    def emit(self) -> Declined | None:
        node, b = self.node, self.b
        x = node.operand(0)
        shape = x.tensor.shape
        axes = self._axes(len(shape))
        made = {v for n in self.before for v in n.results}
        leaves: dict[Value, None] = {}
        for value in [x, *(v for n in self.before for v in n.operands if v is not None)]:
            if (value not in made and not isinstance(b.number(value), (bool, int, float))) or (value is x and x not in made):
                if value.type.dtype.name not in KNOWN:
                    return Declined(f"{value.type.dtype} is not computed with in Triton")
                leaves[value] = None
        self.text = text = KernelText()
        self.views = {v: b.read(v).expand(shape) for v in leaves}
        self.kind = computed_type(x.tensor.dtype)
        self.whole = not x.tensor.dtype.is_float
        sizes: dict[str, Dim] = {
            "rows": dims.product(tuple(d for i, d in enumerate(shape) if i not in axes)),
            "cols": dims.product(tuple(shape[i] for i in axes)),
        }
        text.meta("ROWS", "COLS")
        text.head += ["rows_at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)",
                      f"rows_in = rows_at < {text.number(sizes['rows'])}"]
        kept = [i for i in range(len(shape)) if i not in axes]
        self.rows = group("rows_at", kept, shape, inside="rows_in", place="[:, None]")
        self.cols = group("cols", axes, shape, inside="cols_in", place="[None, :]", outer=False)
        self.count = text.number(sizes["cols"])
        self.passes = 0
        found = getattr(self, f"_{self.name}", None)
        values = self._indexed() if self.name in INDEXED else found() if found is not None else None
        if values is None:
            return Declined(f"{node.op.name} with these attributes has no Triton kernel")
        only = Group("rows_at", self.rows.axes, self.rows.sizes, "rows_in")
        for result, value in zip(node.results, values):
            text.store(self._wide(b.write(result), axes, len(shape)), (only,), value)
        b.emit(b.launch(node.op.name, text, _grid, configs.chunks, sizes=sizes, kind="reduce",
                        dtypes=(x.tensor.dtype.name,)))
        return None

    def _axes(self, rank: int) -> tuple[int, ...]:
        if self.axes is not None:
            return self.axes
        a = self.node.attrs
        if "axes" in a:
            return tuple(sorted(a["axes"]))
        return tuple(range(rank)) if a["axis"] is None else (a["axis"],) if rank else ()

    def _wide(self, out: View, axes: Sequence[int], rank: int) -> View:
        """The result seen by the operand's axes."""
        if out.rank == rank:
            return replace(out, strides=tuple(0 if i in axes else s for i, s in enumerate(out.strides)))
        return out.insert(axes)

    # passes

    def _loop(self, body: str) -> None:
        """Go over the elements; `{x}` is the piece at hand, `{in_}` tells which of it counts."""
        text = self.text
        self.passes += 1
        text.line(f"for start in range(0, {self.count}, COLS):")
        text.indent = "    "
        text.line("cols = start + tl.arange(0, COLS)")
        text.line(f"cols_in = cols < {self.count}")
        names = {v: text.load(view, (self.rows, self.cols)) for v, view in self.views.items()}
        known = scalar_lines(self.before, names, self.b.number, text.line, prefix=f"e{self.passes}_")
        assert not isinstance(known, str), known
        x = known[self.node.operand(0)]
        text.line(body.replace("{x}", x).replace("{in_}", "(rows_in[:, None] & cols_in[None, :])"))
        text.indent = ""

    def _total(self, body: str, name: str, kind: str = "") -> None:
        """`name` = the sum of what `body` gives for the pieces."""
        self.text.line(f"{name}s = tl.zeros((ROWS, COLS), {kind or self.kind})")
        self._loop(f"{name}s += tl.where({{in_}}, {body}, 0)")
        self.text.line(f"{name} = tl.sum({name}s, 1)")

    def _extreme(self, most: bool, form: str = "{x}", name: str = "top") -> None:
        dtype = self.node.operand(0).tensor.dtype
        sign = "-" if most else ""
        function, along = ("maximum", "largest") if most else ("minimum", "smallest")
        if dtype.is_float:
            start, kind, choose = f"float('{sign}inf')", self.kind, f"math.{function}"
        else:
            kind = "tl.int32" if dtype is bool_ or dtype.bits < 32 else self.kind
            bits = 63 if dtype.bits == 64 else 31
            start, choose = str(-(2**bits) if most else 2**bits - 1), f"tl.{function}"
            form = f"({form}).to({kind})"
        self.text.line(f"{name}s = tl.full((ROWS, COLS), {start}, {kind})")
        self._loop(f"{name}s = {choose}({name}s, tl.where({{in_}}, {form}, {start}))")
        self.text.line(f"{name} = rows.{along}({name}s, 1)")

    # operators: the names of the results

    def _sum(self) -> list[str]:
        self._total("{x}", "total", "tl.int64" if self.whole else "")
        return ["total"]

    def _mean(self) -> list[str]:
        self._total("{x}", "total")
        return [f"total / {self.count}"]

    def _amax(self) -> list[str]:
        self._extreme(True)
        return ["(top != 0)" if self.node.type.dtype is bool_ else "top"]

    def _amin(self) -> list[str]:
        self._extreme(False)
        return ["(top != 0)" if self.node.type.dtype is bool_ else "top"]

    def _any(self) -> list[str]:
        self._total("({x}).to(tl.int32)", "total", "tl.int32")
        return ["(total != 0)"]

    def _all(self) -> list[str]:
        self._total("({x} == 0).to(tl.int32)", "total", "tl.int32")
        return ["(total == 0)"]

    def _prod(self) -> list[str]:
        kind = "tl.int64" if self.whole else self.kind
        self.text.line(f"products_ = tl.full((ROWS, COLS), 1, {kind})")
        self._loop("products_ = products_ * tl.where({in_}, {x}, 1)")
        return ["rows.product(products_, 1)"]

    def _var(self) -> list[str]:
        self._total("{x}", "total")
        self.text.line(f"mean = (total / {self.count})[:, None]")
        self._total("({x} - mean) * ({x} - mean)", "square")
        left = f"({self.count} - {self.node.attrs['correction']!r})"
        self.text.line(f"below = tl.zeros_like(square) + {left}")
        return ["square / tl.where(below < 0, 0.0, below)"]

    def _std(self) -> list[str]:
        return [f"tl.sqrt({self._var()[0]})"]

    def _logsumexp(self) -> list[str]:
        self._extreme(True)
        self.text.line("base = tl.where(math.is_inf(top), 0.0, top)")
        self._total("tl.exp({x} - base[:, None])", "total")
        return ["base + tl.log(total)"]

    def _norm(self) -> list[str] | None:
        p = self.node.attrs["p"]
        if p == 2.0:
            self._total("{x} * {x}", "total")
            return ["tl.sqrt(total)"]
        if p == 1.0:
            self._total("tl.abs({x})", "total")
            return ["total"]
        if p == float("inf"):
            self._extreme(True, "tl.abs({x})")
            return [f"tl.where(tl.zeros_like(top) + {self.count} == 0, 0.0, top)"]
        return None

    def _indexed(self) -> list[str]:
        """The extreme, and the first index where it is; of NaN if there is one."""
        name = self.name
        self._extreme("max" in name)
        floats = self.node.operand(0).tensor.dtype.is_float
        match = "({x} == top[:, None])" + (" | ({x} != {x})" if floats else "")
        if not floats:
            match = "(({x}).to(top.dtype) == top[:, None])"
        self.text.line("firsts = tl.full((ROWS, COLS), 2147483647, tl.int32)")
        self._loop(f"firsts = tl.minimum(firsts, tl.where({{in_}} & ({match}), cols[None, :], 2147483647))")
        place = "tl.min(firsts, 1).to(tl.int64)"
        if name.startswith("arg"):
            return [place]
        return ["(top != 0)" if self.node.results[0].tensor.dtype is bool_ else "top", place]


def _grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    return (-(-sizes["rows"] // chosen["ROWS"]),)

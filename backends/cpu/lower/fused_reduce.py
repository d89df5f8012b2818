"""Reductions with the element-wise nodes before them as one kernel: what is reduced never lies in memory."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.backend import Declined
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import Builder, pointer
from mcomp.backends.cpu.cxx import Real, Size, c_type, register_type
from mcomp.backends.cpu.expressions import is_scalar, load, scalar_lines
from mcomp.backends.cpu.kernel import Kernel
from mcomp.backends.cpu.loops import collapse, common_order
from mcomp.backends.cpu.lower.reduce import OPERATIONS, operation
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node

HEADERS = ("reduce.hpp", "math.hpp", "types.hpp", "fault.hpp", "lanes.hpp")
_BLOCKS = {"var": ("RunningVariance", "variance(correction)"), "std": ("RunningVariance", "deviation(correction)"),
           "logsumexp": ("RunningLogSumExp<{kind}>", "result()")}
"""Reductions that are more than one pass over a row, block by block: their state and its result."""


def reduction_at(nodes: Sequence[Node]) -> list[Node] | None:
    """Element-wise nodes, with which a run starts, and the reduction behind them that alone reads them."""
    for at, node in enumerate(nodes):
        if is_scalar(node):
            continue
        if at == 0 or node.op.name not in (*OPERATIONS, "norm", *_BLOCKS):
            return None
        taken, shape = list(nodes[: at + 1]), node.operand(0).tensor.shape
        inside = set(taken)
        alone = all(u in inside for n in taken[:-1] for v in n.results for u in v.users)
        return taken if alone and all(n.type.shape == shape for n in taken[:-1]) else None
    return None


def lower_reduced(before: Sequence[Node], node: Node, b: Builder) -> Declined | None:
    """A reduction of what element-wise nodes compute, along any axes."""
    x = node.operand(0)
    axes = tuple(sorted(node.attrs["axes"]))
    if not axes or x.tensor.dtype.is_complex or x.tensor.dtype.bits < 8:
        return Declined(f"{x.tensor.dtype} reduced over {list(axes)} has no kernel")
    made = {v for n in before for v in n.results}
    leaves = dict.fromkeys(
        v for n in before for v in n.operands
        if v is not None and v not in made and not isinstance(b.number(v), (bool, int, float, complex))
    )
    found = scalar_lines(before, {value: f"v{i + 1}" for i, value in enumerate(leaves)}, b.number)
    if isinstance(found, str):
        return Declined(found)
    lines, known = found
    if x not in known or not leaves:
        return Declined(f"%{x.name} is a number")
    shape = x.tensor.shape
    sources = [b.read(v) for v in leaves]
    order = common_order(shape, sources) or tuple(range(len(shape)))
    last = next((a for a in reversed(order) if shape[a] != 1), order[-1])
    along = last in axes or shape[last] == 1
    if node.op.name in _BLOCKS and not along:
        return Declined(f"the axes of {node.op.name} are not the innermost ones")
    writer = _Reduced(node, axes, order, sources, (*lines, f"return {known[x]};"), b)
    b.emit(writer.rows() if along else writer.columns())
    return None


class _Reduced:
    """Writes the kernel of a reduction over some axes of a shape, visited in `order`. Access 0 is the result, seen with the
    axes that it lacks; the others are the `sources`, whose elements are `v1`, `v2` ... in `term`."""

    def __init__(
        self, node: Node, axes: Sequence[int], order: Sequence[int], sources: Sequence[Access], term: Sequence[str],
        b: Builder,
    ) -> None:
        self.node, self.term = node, term
        shape = node.operand(0).tensor.shape
        out = b.write(node.result)
        wide = out if node.attrs["keepdim"] else out.insert(axes)
        self.accesses = [wide.expand(shape), *(s.expand(shape) for s in sources)]
        self.pointers = (pointer("o0", out, write=True), *(pointer(f"p{i + 1}", s) for i, s in enumerate(sources)))
        self.kept = collapse(shape, self.accesses, [a for a in order if a not in axes])
        self.reduced = collapse(shape, self.accesses, [a for a in order if a in axes])
        self.numbers: dict[str, Size | Real] = {}
        self.count = self._number("count", dims.product(tuple(shape[a] for a in axes)))
        self.stored = c_type(out.dtype)

    def rows(self) -> Kernel:
        """The innermost axis is reduced: one worker goes over what makes up an element of the result."""
        *outer, length = self.reduced.sizes or (1,)
        steps = [s[-1] if s else 0 for s in self.reduced.strides]
        runs = self._number("runs", dims.product(tuple(outer)))
        at = self._offsets("run", outer, [s[:-1] for s in self.reduced.strides], "b", "a")
        n = self._number("n", length)
        fixed, moving = self._loads("b", steps, "i")
        state = _BLOCKS.get(self.node.op.name)
        call, close = f"total = op.join(total, reduce_terms(op, {n}, ", "));"
        result = f"op.template finish<{self.stored}>(total, {self.count})"
        if state is None:
            head, numbers = operation(self.node, register_type(self.node.operand(0).tensor.dtype))
            start = "auto total = op.widen(op.start());"
        else:
            kind = register_type(self.node.operand(0).tensor.dtype)
            head, numbers = "", {}
            if "correction" in self.node.attrs:
                numbers["correction"] = Real(self.node.attrs["correction"])
            start = f"{state[0].format(kind=kind)} total;"
            call, close = f"reduce_blocks<{kind}>(total, {n}, ", ");"
            result = f"convert<{self.stored}>(total.{state[1]})"
        rows = self._number("rows", dims.product(self.kept.sizes))
        body = "\n".join((
            head, f"const Range r = w.range({rows});", "for (int64_t row = r.begin; row < r.end; ++row) {",
            *_indented((*self._offsets("row", self.kept.sizes, self.kept.strides, "a"), start)),
            f"  for (int64_t run = 0; run < {runs}; ++run) {{",
            *_indented((*at, *fixed, f"{call}[=](int64_t i) MCOMP_LAMBDA {{"), 2),
            *_indented((*moving, *self.term), 3), f"    }}{close}", "  }", f"  o0[a0] = {result};", "}",
        ))
        headers = HEADERS if state is None else (*HEADERS, "reduce_blocks.hpp")
        return Kernel(self.node.op.name, body, self.pointers, (*self.numbers.items(), *numbers.items()), headers)

    def columns(self) -> Kernel:
        """The innermost axis stays: a worker goes over the rows of some of its elements side by side."""
        *outer, width = self.kept.sizes
        steps = [s[-1] for s in self.kept.strides]
        fixed, moving = self._loads("b", steps, "(first + j)")
        at = self._offsets("i", self.reduced.sizes, self.reduced.strides, "b", "a")
        declared, numbers = operation(self.node, register_type(self.node.operand(0).tensor.dtype))
        rows, columns = self._number("rows", dims.product(tuple(outer))), self._number("columns", width)
        step = self._number("o0_step", steps[0])
        body = "\n".join((
            declared, f"const int64_t tiles = ceil_div({columns}, kSumLanes);",
            f"const Range r = w.range({rows} * tiles);", "for (int64_t item = r.begin; item < r.end; ++item) {",
            "  const int64_t row = item / tiles, first = item % tiles * kSumLanes;",
            *_indented(self._offsets("row", outer, [s[:-1] for s in self.kept.strides], "a")),
            "  const auto terms = [=](int64_t i) MCOMP_LAMBDA {", *_indented((*at, *fixed), 2),
            "    return [=](int64_t j) MCOMP_LAMBDA {", *_indented((*moving, *self.term), 3), "    };", "  };",
            f"  reduce_columns(op, terms, o0 + a0 + first * {step}, {step}, {self.count}, "
            f"min_i64(kSumLanes, {columns} - first));",
            "}",
        ))
        return Kernel(self.node.op.name, body, self.pointers, (*self.numbers.items(), *numbers.items()), HEADERS)

    def _number(self, name: str, value: Size) -> str:
        if isinstance(value, int) and value in (0, 1):
            return str(value)
        self.numbers[name] = value
        return name

    def _offsets(
        self, index: str, sizes: Sequence[Dim], strides: Sequence[Sequence[Dim]], to: str, base: str = ""
    ) -> list[str]:
        """Lines that find where a flat index into loops lies in every access, counted from `base`: `to`0, `to`1 ..."""
        lines = [f"int64_t {to}_rest = {index};"] if len(sizes) > 1 else []
        where: list[list[str]] = [[f"{base}{i}"] if base else [] for i in range(len(strides))]
        for loop in range(len(sizes) - 1, -1, -1):
            at = index
            if len(sizes) > 1:
                size, at = self._number(f"{to}_size{loop}", sizes[loop]), f"{to}_at{loop}"
                lines.append(f"const int64_t {at} = {f'{to}_rest % {size}' if loop else f'{to}_rest'};")
                if loop:
                    lines.append(f"{to}_rest /= {size};")
            for i, steps in enumerate(strides):
                step = self._number(f"{to}{i}_step{loop}", steps[loop])
                if step != "0":
                    where[i].append(at if step == "1" else f"{at} * {step}")
        return [*lines, *(f"const int64_t {to}{i} = {' + '.join(terms) or '0'};" for i, terms in enumerate(where))]

    def _loads(self, base: str, steps: Sequence[Dim], index: str) -> tuple[list[str], list[str]]:
        """Lines that load the sources' elements: those that stay the same along a row, and those that do not."""
        fixed: list[str] = []
        moving: list[str] = []
        for i, (access, stride) in enumerate(zip(self.accesses, steps)):
            if i == 0:
                continue
            step = self._number(f"p{i}_step", stride)
            at = {"0": "", "1": f" + {index}"}.get(step, f" + {index} * {step}")
            line = f"const auto v{i} = {load(f'p{i}[{base}{i}{at}]', access.dtype)};"
            (fixed if step == "0" else moving).append(line)
        return fixed, moving


def _indented(lines: Sequence[str], depth: int = 1) -> list[str]:
    return [f"{'  ' * depth}{line}" for line in lines]

"""Writing a kernel's source: pointers and sizes as parameters, addresses from strides, loads and stores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcomp.backends.triton.access import Buffer, View
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import DType, bool_, f64

_TRITON = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "f8e4m3": "float8e4nv", "f8e5m2": "float8e5",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "i4": "int8", "i3": "int8", "i2": "int8", "u8": "uint8",
    "u4": "uint8", "bool": "int1",
}
KNOWN = frozenset(_TRITON)
"""Element types that kernels read and write."""


def stored_type(dtype: DType) -> str:
    """The type that elements have in memory, as the language names it; truths are bytes."""
    return "tl.uint8" if dtype is bool_ else f"tl.{_TRITON[dtype.name]}"


def computed_type(dtype: DType) -> str:
    """The type that elements are computed in: f32 for narrower floats."""
    return "tl.float32" if dtype.is_float and dtype is not f64 else f"tl.{_TRITON[dtype.name]}"


@dataclass(frozen=True)
class Group:
    """A vector of flat indices, over some axes of a result in this order.

    `var`: its name in the kernel. `inside`: name of the vector that tells which of them exist, empty where all do.
    `place`: how a vector becomes an axis of the tile, such as `[:, None]`. `outer`: whether it is defined before any loop,
    so that what is computed from it can be kept.
    """

    var: str
    axes: tuple[int, ...]
    sizes: tuple[Dim, ...]
    inside: str = ""
    place: str = ""
    outer: bool = True

    @property
    def numel(self) -> Dim:
        return dims.product(self.sizes)


def group(var: str, axes: Iterable[int], shape: Sequence[Dim], *, inside: str = "", place: str = "",
          outer: bool = True) -> Group:
    """A group over some axes of a shape."""
    chosen = tuple(axes)
    return Group(var, chosen, tuple(shape[a] for a in chosen), inside, place, outer)


class KernelText:
    """The source of one kernel as it grows. Equal kernels come out as equal text: names are given by order."""

    def __init__(self) -> None:
        self.pointers: dict[tuple[Buffer, str], str] = {}
        self.numbers: dict[Dim, str] = {}
        self.head: list[str] = []
        self.kept: dict[str, str] = {}
        self.lines: list[str] = []
        self.metas: list[str] = []
        self.written: list[Buffer] = []
        self.fault = False
        self.indent = ""
        self._loads = 0

    # parameters

    def pointer(self, view: View) -> str:
        """The name of the pointer to a view's buffer."""
        key = (view.buffer, "u8" if view.dtype is bool_ else view.dtype.name)
        return self.pointers.setdefault(key, f"p{len(self.pointers)}")

    def base(self, view: View) -> str:
        """The pointer to a view's first element."""
        return self.pointer(view) + ("" if view.offset == 0 else f" + {self.number(view.offset)}")

    def number(self, dim: Dim) -> str:
        """A size: itself where it is known, else a parameter."""
        if isinstance(dim, int):
            return str(dim)
        return self.numbers.setdefault(dim, f"n{len(self.numbers)}")

    def meta(self, *names: str) -> None:
        """Declare constexpr parameters."""
        self.metas += [n for n in names if n not in self.metas]

    def line(self, text: str) -> None:
        """Add lines to the body."""
        self.lines += [self.indent + part for part in text.splitlines()]

    # addresses

    def index(self, view: View, groups: Sequence[Group], *, full: bool = False) -> tuple[str, list[Group]]:
        """The text of the elements' places from the buffer's start, and the groups that it depends on. `full`: on all."""
        terms: list[str] = [] if view.offset == 0 else [self.number(view.offset)]
        used: list[Group] = []
        for g in groups:
            found = self.terms(view, g)
            if not found and full:
                found = [f"{g.var} * 0"]
            if found:
                inner = " + ".join(found)
                terms.append(f"({inner}){g.place}" if g.place else inner)
                used.append(g)
        return " + ".join(terms) or "0", used

    def row_terms(self, view: View, g: Group) -> str:
        """The part of the elements' places that a group decides, as a vector."""
        return " + ".join(self.terms(view, g)) or f"{g.var} * 0"

    def terms(self, view: View, g: Group) -> list[str]:
        runs: list[list[Dim]] = []  # size, stride, elements of the group behind it
        behind: Dim = 1
        for axis, size in zip(reversed(g.axes), reversed(g.sizes)):
            stride = view.strides[axis]
            if size == 1:
                continue
            if runs and stride == dims.mul(runs[-1][1], runs[-1][0]):
                runs[-1][0] = dims.mul(runs[-1][0], size)
            else:
                runs.append([size, stride, behind])
            behind = dims.mul(behind, size)
        found = []
        for i, (size, stride, inner) in enumerate(reversed(runs)):
            if stride == 0:
                continue
            text = g.var
            if inner != 1:
                text = f"{text} // {self.number(inner)}"
            if i > 0:
                text = f"{text} % {self.number(size)}"
            if text != g.var:
                text = self._keep(text, g)
            found.append(text if stride == 1 else f"{text} * {self.number(stride)}")
        return found

    def _keep(self, text: str, g: Group) -> str:
        if not g.outer:
            return f"({text})"
        return self.kept.setdefault(text, f"{g.var}_{len(self.kept)}")

    # elements

    def load(self, view: View, groups: Sequence[Group], *, raw: bool = False, name: str = "") -> str:
        """Load elements as they are computed (`raw`: as they are stored); returns their name."""
        index, used = self.index(view, groups)
        mask = inside_of(used)
        nothing = "0.0" if view.dtype.is_float else "0"
        text = f"tl.load({self.pointer(view)} + {index}{f', mask={mask}, other={nothing}' if mask else ''})"
        if not raw:
            text = widened(text, view.dtype)
        return self.named(text, name)

    def named(self, text: str, name: str = "") -> str:
        """A name for what an expression gives."""
        target = name or f"v{self._loads}"
        self._loads += 1
        self.line(f"{target} = {text}")
        return target

    def store(self, view: View, groups: Sequence[Group], value: str) -> None:
        """Store a computed value."""
        index, used = self.index(view, groups, full=True)
        mask = inside_of(used)
        kind = stored_type(view.dtype)
        if view.buffer not in self.written:
            self.written.append(view.buffer)
        stored = f"numbers.narrow({value}, {kind})" if view.dtype.is_float else f"({value}).to({kind})"
        self.line(f"tl.store({self.pointer(view)} + {index}, {stored}{f', mask={mask}' if mask else ''})")

    # the whole

    def source(self, name: str) -> str:
        """The function under a name."""
        parameters = [*self.pointers.values()]
        if self.fault:
            parameters.append("fault")
        parameters += self.numbers.values()
        parameters += [f"{m}: tl.constexpr" for m in self.metas]
        kept = [f"{new} = {old}" for old, new in self.kept.items()]
        body = "\n".join(f"    {line}" for line in (*self.head, *kept, *self.lines))
        return f"@triton.jit\ndef {name}({', '.join(parameters)}):\n{body}\n"


def inside_of(groups: Sequence[Group]) -> str:
    """The mask of a tile over some groups; empty where nothing is outside."""
    return " & ".join(f"{g.inside}{g.place}" for g in groups if g.inside)


def widened(text: str, dtype: DType) -> str:
    """A loaded value as it is computed."""
    if dtype is bool_:
        return f"({text} != 0)"
    if dtype.is_float and dtype.bits < 32:
        return f"numbers.wide({text})"
    return text


def literal(value: bool | int | float, dtype: DType) -> str:
    """A number of an element type as it is computed, as a scalar."""
    kind = computed_type(dtype)
    if dtype.is_float:
        given = float(value)
        text = f'float("{given}")' if math.isnan(given) or math.isinf(given) else repr(given)
        return f"tl.full((), {text}, {kind})"
    return f"tl.full((), {bool(value) if dtype is bool_ else int(value)}, {kind})"

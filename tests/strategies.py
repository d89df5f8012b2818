"""Hypothesis strategies: random sizes, types, and well-typed graphs with a symbolic batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from mcomp.errors import IRError
from mcomp.ir import Bounds, Editor, Graph, Loc, TensorType, Value, dims, fused, sym
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import bool_, f32, f64, i32, i64, to_torch

SYMBOLS = ("B", "S")


@st.composite
def random_dims(draw: st.DrawFn, depth: int = 3) -> tuple[Dim, Callable[[Mapping[str, int]], int]]:
    """A size, and a function that computes it from values of `SYMBOLS` without any algebra.

    Divisors are positive numbers.
    """
    if depth == 0 or draw(st.booleans()):
        if draw(st.booleans()):
            number = draw(st.integers(-6, 12))
            return number, lambda values: number
        name = draw(st.sampled_from(SYMBOLS))
        return sym(name), lambda values: values[name]
    a, f = draw(random_dims(depth=depth - 1))
    kind = draw(st.sampled_from(("add", "sub", "mul", "floordiv", "mod", "max", "min", "ceildiv")))
    if kind in ("floordiv", "mod", "ceildiv"):
        n = draw(st.integers(1, 7))
        if kind == "ceildiv":
            return dims.ceildiv(a, n), lambda values: -(-f(values) // n)
        return (dims.call(kind, a, n), lambda values: f(values) // n if kind == "floordiv" else f(values) % n)
    b, g = draw(random_dims(depth=depth - 1))
    symbolic: dict[str, Callable[[Dim, Dim], Dim]] = {
        "add": dims.add, "sub": lambda x, y: dims.add(x, dims.mul(y, -1)), "mul": dims.mul, "max": dims.maximum,
        "min": dims.minimum,
    }
    plain: dict[str, Callable[[int, int], int]] = {
        "add": int.__add__, "sub": int.__sub__, "mul": int.__mul__, "max": max, "min": min,
    }
    return symbolic[kind](a, b), lambda values: plain[kind](f(values), g(values))


locations: st.SearchStrategy[Loc] = st.recursive(
    st.builds(
        Loc, path=st.sampled_from(("", "fc", "encoder.layer.0.fc-1", "weird path", "größe", 'quo"te', "a.b[0]")),
        file=st.sampled_from(("", "model.py", "dir with space/m.py", "C:\\m.py")), line=st.integers(0, 999),
    ).filter(lambda loc: bool(loc)).map(lambda loc: loc if loc.file else Loc(loc.path)),
    lambda inner: st.builds(
        lambda rule, parts: fused(rule, *parts), st.sampled_from(("fuse", "fold.batch_norm", "quantize{bits=8}")),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)

_EXACT_UNARY = ("neg", "abs", "relu", "floor", "sign", "square", "trunc")
_FLOAT_UNARY = ("tanh", "sigmoid", "gelu", "silu", "exp", "sqrt", "erf", "rsqrt")
_BINARY = ("add", "sub", "mul", "maximum", "minimum")
_COMPARISONS = ("eq", "lt", "ge")
_REDUCTIONS = ("sum", "amax", "mean", "prod")
_STEPS = (
    "unary", "unary", "binary", "binary", "scalar", "constant", "compare", "reduce", "reshape", "permute", "unsqueeze",
    "squeeze", "slice", "cat", "cast", "linear", "expand", "softmax", "split", "transpose_matmul",
)


_SMOOTH_STEPS = tuple(s for s in _STEPS if s not in ("compare", "cast"))
_ROUGH = ("floor", "trunc", "sign", "sqrt", "rsqrt", "exp", "square")
_ALIGNED = frozenset({*_BINARY, *_COMPARISONS, "where", "cat"})


def _aligned(shapes: list[tuple[Dim, ...]]) -> bool:
    """Whether sizes that meet are literally equal or 1, so that the graph runs for every size of B."""
    rank = max(len(s) for s in shapes)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    return all(len({d for d in sizes if d != 1}) <= 1 for sizes in zip(*padded))


class _Growth:
    """A graph under construction: each step adds a node if it is well typed, else nothing."""

    def __init__(self, draw: st.DrawFn, editor: Editor, values: list[Value], smooth: bool) -> None:
        self.draw = draw
        self.editor = editor
        self.values = values
        self.smooth = smooth

    def pick(self, *dtypes: Any) -> Value | None:
        """One of the newest values of these element types."""
        fitting = [v for v in self.values if not dtypes or v.tensor.dtype in dtypes][-6:]
        return self.draw(st.sampled_from(fitting)) if fitting else None

    def add(self, op: str, operands: list[Value | None], attrs: Mapping[str, Any] | None = None) -> None:
        """Add a node unless inference says that it does not fit."""
        loc = self.draw(st.one_of(st.just(Loc("layer")), locations))
        if op in _ALIGNED and not _aligned([v.tensor.shape for v in operands if v is not None]):
            return
        try:
            node = self.editor.add(op, operands, attrs, loc=loc)
        except IRError:
            return
        self.values += node.results

    def const(self, array: np.ndarray, name: str) -> Value:
        return self.editor.const(array, name=name)

    def numbers(self, *shape: int) -> np.ndarray:
        seed = self.draw(st.integers(0, 5))
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def step(self) -> None:
        getattr(self, f"step_{self.draw(st.sampled_from(_SMOOTH_STEPS if self.smooth else _STEPS))}")()

    def step_unary(self) -> None:
        x = self.pick(f32, i64)
        if x is not None:
            names = _EXACT_UNARY + (_FLOAT_UNARY if x.tensor.dtype is f32 else ())
            if self.smooth:
                names = tuple(n for n in names if n not in _ROUGH)
            self.add(self.draw(st.sampled_from(names)), [x])

    def step_binary(self) -> None:
        x = self.pick(f32, i64)
        if x is not None:
            self.add(self.draw(st.sampled_from(_BINARY)), [x, self.pick(x.tensor.dtype)])

    def step_scalar(self) -> None:
        x = self.pick(f32, i64)
        if x is None:
            return
        number = self.draw(st.sampled_from((0, 1, 2, -3)))
        self.add("full", [], {"value": number, "shape": (), "dtype": x.tensor.dtype})
        self.add(self.draw(st.sampled_from(_BINARY)), [x, self.values[-1]])

    def step_constant(self) -> None:
        x = self.pick(f32)
        if x is not None and x.tensor.rank and isinstance(x.tensor.shape[-1], int):
            self.add("mul", [x, self.const(self.numbers(x.tensor.shape[-1]), "scale")])

    def step_compare(self) -> None:
        x = self.pick(f32, i64)
        if x is None:
            return
        y = self.pick(x.tensor.dtype)
        before = len(self.values)
        self.add(self.draw(st.sampled_from(_COMPARISONS)), [x, y])
        if len(self.values) > before:
            self.add("where", [self.values[-1], x, y])

    def step_reduce(self) -> None:
        x = self.pick(f32, i64)
        if x is None or not x.tensor.rank:
            return
        axes = self.draw(st.sets(st.integers(0, x.tensor.rank - 1), min_size=1))
        op = self.draw(st.sampled_from(_REDUCTIONS))
        self.add(op, [x], {"axes": tuple(sorted(axes)), "keepdim": self.draw(st.booleans())})

    def step_reshape(self) -> None:
        x = self.pick()
        if x is None:
            return
        shape = x.tensor.shape
        if len(shape) >= 2 and self.draw(st.booleans()):
            at = self.draw(st.integers(0, len(shape) - 2))
            self.add("reshape", [x], {"shape": (*shape[:at], dims.mul(shape[at], shape[at + 1]), *shape[at + 2 :])})
        elif shape and isinstance(shape[-1], int) and shape[-1] % 2 == 0:
            self.add("reshape", [x], {"shape": (*shape[:-1], 2, shape[-1] // 2)})

    def step_permute(self) -> None:
        x = self.pick()
        if x is not None:
            self.add("permute", [x], {"order": tuple(self.draw(st.permutations(range(x.tensor.rank))))})

    def step_unsqueeze(self) -> None:
        x = self.pick()
        if x is not None and x.tensor.rank < 5:
            self.add("unsqueeze", [x], {"axes": (self.draw(st.integers(0, x.tensor.rank)),)})

    def step_squeeze(self) -> None:
        x = self.pick()
        if x is not None:
            self.add("squeeze", [x], {"axes": tuple(i for i, d in enumerate(x.tensor.shape) if d == 1)})

    def step_slice(self) -> None:
        x = self.pick()
        if x is None or not x.tensor.rank:
            return
        axis = self.draw(st.integers(0, x.tensor.rank - 1))
        size = x.tensor.shape[axis]
        stop = size if not isinstance(size, int) else self.draw(st.integers(min(1, size), size))
        start = self.draw(st.integers(0, stop - 1)) if isinstance(stop, int) and stop else 0
        self.add("slice", [x], {"axis": axis, "start": start, "stop": stop, "step": self.draw(st.integers(1, 2))})

    def step_cat(self) -> None:
        x = self.pick(f32, i64)
        if x is not None and x.tensor.rank:
            axis = self.draw(st.integers(0, x.tensor.rank - 1))
            self.add("cat", [x, self.pick(x.tensor.dtype), x], {"axis": axis})

    def step_split(self) -> None:
        x = self.pick()
        if x is None or not x.tensor.rank:
            return
        size = x.tensor.shape[-1]
        if isinstance(size, int) and size >= 2:
            self.add("split", [x], {"axis": x.tensor.rank - 1, "sizes": (1, size - 1)})

    def step_cast(self) -> None:
        x = self.pick(f32, i64, bool_, i32, f64)
        if x is None:
            return
        wide = (f32, f64) if x.tensor.dtype.is_float else (f32, i64, i32)
        self.add("cast", [x], {"dtype": self.draw(st.sampled_from(wide))})

    def step_linear(self) -> None:
        x = self.pick(f32)
        if x is None or not x.tensor.rank or not isinstance(x.tensor.shape[-1], int) or not x.tensor.shape[-1]:
            return
        width = self.draw(st.sampled_from((1, 3, 4)))
        weight = self.const(self.numbers(width, x.tensor.shape[-1]), "weight")
        bias = self.const(self.numbers(width), "bias") if self.draw(st.booleans()) else None
        self.add("linear", [x, weight, bias])

    def step_expand(self) -> None:
        x = self.pick()
        if x is not None and x.tensor.rank and x.tensor.shape[0] == 1:
            self.add("expand", [x], {"shape": (3, *x.tensor.shape[1:])})

    def step_softmax(self) -> None:
        x = self.pick(f32)
        if x is not None and x.tensor.rank:
            self.add("softmax", [x], {"axis": x.tensor.rank - 1})

    def step_transpose_matmul(self) -> None:
        x = self.pick(f32)
        if x is None or x.tensor.rank < 2:
            return
        rank = x.tensor.rank
        self.add("permute", [x], {"order": (*range(rank - 2), rank - 1, rank - 2)})
        self.add("matmul", [x, self.values[-1]])


@st.composite
def graphs(draw: st.DrawFn, max_steps: int = 12, smooth: bool = False) -> Graph:
    """A well-typed graph over f32[B, 4] and f32[B, 3, 4] (and sometimes i64[B, 4]) of element-wise, shape, reduction
    and linear operators, with constants and locations. Sizes of B of at least 1 run it. `smooth`: only operators that
    turn small differences into small differences, to compare results that are not bit for bit the same."""
    graph = Graph(draw(st.sampled_from(("main", "net.1", "with space"))))
    graph.symbols["B"] = draw(st.sampled_from((Bounds(1), Bounds(1, 64))))
    batch = sym("B")
    values = [graph.add_input("x", TensorType((batch, 4), f32)), graph.add_input("y", TensorType((batch, 3, 4), f32))]
    if draw(st.booleans()):
        values.append(graph.add_input("n", TensorType((batch, 4), i64)))
    with graph.edit("grow") as editor:
        growth = _Growth(draw, editor, values, smooth)
        for _ in range(draw(st.integers(1, max_steps))):
            growth.step()
    made = [v for v in growth.values if v.producer is not None] or values
    unused = [v for v in made if not v.uses]
    chosen = unused[-3:] or made[-1:]
    if draw(st.booleans()):
        chosen = [*chosen, draw(st.sampled_from(made))]
    graph.set_outputs(chosen)
    return graph


def inputs_for(graph: Graph, batch: int, seed: int = 0) -> list[torch.Tensor]:
    """Random inputs of a graph made by `graphs`, for one size of B."""
    generator = torch.Generator().manual_seed(seed)
    made: list[torch.Tensor] = []
    for value in graph.inputs:
        shape = [dims.evaluate(d, {"B": batch}) for d in value.tensor.shape]
        made.append((torch.randn(shape, generator=generator) * 3).to(to_torch(value.tensor.dtype)))
    return made

"""Cases of indexing and control operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.ir import sym
from mcomp.ir.parser import parse_graph
from tests.ops.suite import Case, Fill, Sizes, index_below

S = sym("S")


def _along(x: np.ndarray, indices: np.ndarray, axis: int) -> tuple[Any, ...]:
    """numpy's index for elements along an axis, the other axes counted from zero."""
    grid = list(np.indices(indices.shape))
    grid[axis] = indices
    return tuple(grid)


def _gathered(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    return x[_along(x, indices, axis)]


def _indexed(x: np.ndarray, *indices: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    by_axis = dict(zip(axes, indices))
    return x[tuple(by_axis.get(i, slice(None)) for i in range(x.ndim))]


def _put(x: np.ndarray, values: np.ndarray, *indices: np.ndarray, axes: tuple[int, ...],
         accumulate: bool) -> np.ndarray:
    out = x.copy()
    by_axis = dict(zip(axes, indices))
    at = tuple(by_axis.get(i, slice(None)) for i in range(x.ndim))
    if accumulate:
        np.add.at(out, at, values)
    else:
        out[at] = values
    return out


_UFUNCS = {"add": np.add, "multiply": np.multiply, "amax": np.maximum, "amin": np.minimum}


def _scattered(
    x: np.ndarray, indices: np.ndarray, src: np.ndarray, axis: int, reduce: str, include_self: bool
) -> np.ndarray:
    out = x.copy()
    at = _along(x, indices, axis)
    used = src[tuple(slice(0, d) for d in indices.shape)]
    if reduce == "none":
        out[at] = used
        return out
    if not include_self:
        out[at] = {"add": 0, "multiply": 1, "amax": -np.inf, "amin": np.inf, "mean": 0}[reduce]
    if reduce == "mean":
        count = np.full(out.shape, 1.0 if include_self else 0.0)
        np.add.at(count, at, 1)
        np.add.at(out, at, used)
        return out / np.maximum(count, 1)
    _UFUNCS[reduce].at(out, at, used)
    return out


def _unique_along(axis: int, size: str | int) -> Fill:
    """Indices that do not repeat along an axis."""
    def fill(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
        high = sizes[size] if isinstance(size, str) else size
        out = np.zeros(shape, np.int64)
        for at in np.ndindex(*(d for i, d in enumerate(shape) if i != axis)):
            where = (*at[:axis], slice(None), *at[axis:])
            out[where] = rng.permutation(max(high, shape[axis]))[: shape[axis]]
        return out
    return fill


def _masked(x: np.ndarray, mask: np.ndarray, src: np.ndarray) -> np.ndarray:
    out = x.copy()
    chosen = np.broadcast_to(mask, x.shape)
    out[chosen] = src.reshape(-1)[: int(chosen.sum())]
    return out


def _replaced(x: np.ndarray, src: np.ndarray, axis: int, at: Any) -> np.ndarray:
    out = x.copy()
    out[(slice(None),) * axis + (at,)] = src
    return out


_SIX = index_below(6)

_READS = [
    Case("embedding", ("f32[6, C]", "i64[B, S]"), fills={1: _SIX}, expect=lambda w, i: w[i]),
    Case("embedding", ("bf16[6, 4]", "i32[S]"), fills={1: _SIX}, expect=lambda w, i: w[i]),
    Case("embedding", ("f32[6, C]", "i64[]"), fills={1: _SIX}, label="scalar", expect=lambda w, i: w[i]),
    Case("gather", ("f32[B, 6, C]", "i64[B, S, C]"), {"axis": 1}, fills={1: _SIX}, expect=_gathered),
    Case("gather", ("i64[6, C]", "i64[S, 2]"), {"axis": 0}, fills={1: _SIX}, label="narrower", expect=_gathered,
         sizes=({"C": 3, "S": 5}, {"C": 2, "S": 1}, {"C": 4, "S": 0})),
    Case("take", ("f32[B, 6, C]", "i64[S]"), {"axis": 1}, fills={1: _SIX},
         expect=lambda x, i, axis: np.take(x, i, axis)),
    Case("take", ("bool[6]", "i32[S]"), {"axis": 0}, fills={1: _SIX}, expect=lambda x, i, axis: np.take(x, i, axis)),
    Case("index", ("f32[6, C]", "i64[B, S]"), {"axes": (0,)}, fills={1: index_below(6, -6)}, expect=_indexed),
    Case("index", ("f32[B, 6, 5, C]", "i64[S]", "i64[S]"), {"axes": (1, 2)}, fills={1: _SIX, 2: index_below(5)},
         label="adjacent",
         expect=_indexed),
    Case("index", ("f32[6, B, 5]", "i64[S, 1]", "i64[T]"), {"axes": (0, 2)}, fills={1: _SIX, 2: index_below(5)},
         label="apart",
         expect=_indexed),
    Case("index", ("bool[6, 5]", "i64[B, 1, S, 1]", "i64[B, 1, 1, T]"), {"axes": (0, 1)},
         fills={1: _SIX, 2: index_below(5)},
         label="mask", expect=_indexed),
    Case("index", ("i64[B, 6]", "i32[S]"), {"axes": (1,)}, fills={1: _SIX}, label="i32", expect=_indexed),
    Case("tril", ("f32[B, 5, 6]",), {"diagonal": 1}, expect=lambda x, diagonal: np.tril(x, diagonal)),
    Case("tril", ("bool[S, S]",), expect=lambda x, diagonal: np.tril(x, diagonal)),
    Case("triu", ("f32[S, T]",), {"diagonal": -1}, expect=lambda x, diagonal: np.triu(x, diagonal)),
    Case("triu", ("i64[B, S, S]",), {"diagonal": 2}, expect=lambda x, diagonal: np.triu(x, diagonal)),
    Case("nonzero", ("bool[B, S]",), {"symbol": "u"}, expect=lambda x, symbol: np.argwhere(x)),
    Case("nonzero", ("f32[S]",), {"symbol": "u"}, expect=lambda x, symbol: np.argwhere(x)),
]

_WRITES = [
    Case("index_put", ("f32[6, C]", "f32[S, C]", "i64[S]"), {"axes": (0,), "accumulate": True}, fills={2: _SIX},
         special=False,
         label="accumulate", expect=_put),
    Case("index_put", ("f32[68, C]", "f32[]", "i64[S]"), {"axes": (0,)}, fills={2: _unique_along(0, 68)},
         label="scalar", expect=_put),
    Case("index_put", ("i64[B, 68, 3]", "i64[B, S]", "i64[S]", "i64[]"), {"axes": (1, 2)},
         fills={2: _unique_along(0, 68), 3: index_below(3)}, label="two", expect=_put),
    Case("scatter", ("f32[B, 70]", "i64[B, S]", "f32[B, S]"), {"axis": 1}, fills={1: _unique_along(1, 70)},
         expect=_scattered),
    Case("scatter", ("i64[70, C]", "i64[S, C]", "i64[S + 1, C]"), {"axis": 0}, fills={1: _unique_along(0, 70)},
         expect=_scattered),
    Case("slice_scatter", ("f32[B, 9]", "f32[B, 4]"), {"axis": 1, "start": 1, "stop": 9, "step": 2},
         expect=lambda x, src, axis, start, stop, step: _replaced(x, src, axis, slice(start, stop, step))),
    Case("slice_scatter", ("i64[S + 3, C]", "i64[3, C]"), {"axis": 0, "start": S, "stop": S + 3}, label="tail",
         expect=lambda x, src, axis, start, stop, step: _replaced(x, src, axis, slice(start, stop, step))),
    Case("select_scatter", ("f32[B, 5, C]", "f32[B, C]"), {"axis": 1, "index": 2},
         expect=lambda x, src, axis, index: _replaced(x, src, axis, index)),
    Case("masked_scatter", ("f32[B, S]", "bool[S]", "f32[B, S]"), expect=_masked),
    Case("masked_scatter", ("i64[B, S]", "bool[B, S]", "i64[B*S]"), expect=_masked),
]
_WRITES += [
    Case("scatter", ("f32[B, 6]", "i64[B, S]", "f32[B, S]"), {"axis": 1, "reduce": reduce, "include_self": include},
         label=f"{reduce}{'' if include else '-without-self'}", fills={1: _SIX}, special=False, expect=_scattered,
         sizes=({"B": 3, "S": 4}, {"B": 1, "S": 1}, {"B": 2, "S": 11}, {"B": 2, "S": 0}))
    for reduce in ("add", "multiply", "amax", "amin", "mean") for include in (True, False)
]
_WRITES.append(
    Case("scatter", ("i64[6, C]", "i64[S, C]", "i64[S, C]"), {"axis": 0, "reduce": "add"}, label="i64-add",
         fills={1: _SIX}, expect=_scattered)
)


def _branch(name: str, op: str) -> Any:
    return parse_graph(
        f"graph @{name}[B in 0..](%p: f32[B, 3], %q: f32[B, 3]) -> (f32[B, 3]) {{\n"
        f"  %r = {op} %p, %q : f32[B, 3]\n  return %r\n}}"
    )


_CONTROL = [
    Case("cond", ("bool[]", "f32[B, 3]", "f32[B, 3]"),
         {"then": _branch("then", "add"), "else": _branch("otherwise", "mul")},
         expect=lambda pred, a, b, **graphs: a + b if pred else a * b, special=False),
    Case("assert_", ("bool[B]",), {"message": "must hold"}, fills={0: lambda rng, shape, sizes: np.ones(shape, bool)}),
    Case("item", ("i64[]",), {"symbol": "u"}),
]

CASES = [*_READS, *_WRITES, *_CONTROL]

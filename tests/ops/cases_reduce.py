"""Cases of reductions, running reductions, sorting and Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from mcomp.ir import sym
from tests.ops.suite import Case, ascending, between, distinct, whole

S = sym("S")


def _over(f: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of numpy as the formula of a reduction here."""
    return lambda x, axes, keepdim: f(x, axis=axes, keepdims=keepdim)


def _norm(x: np.ndarray, axes: tuple[int, ...], keepdim: bool, p: float) -> np.ndarray:
    magnitude = np.abs(x)
    if np.isinf(p):
        return (np.max if p > 0 else np.min)(magnitude, axis=axes, keepdims=keepdim)
    if p == 0:
        return np.sum(magnitude != 0, axis=axes, keepdims=keepdim)
    return np.sum(magnitude**p, axis=axes, keepdims=keepdim) ** (1 / p)


_FORMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("[B, S]", {"axes": (1,)}), ("[B, S]", {"axes": (0,)}), ("[B, S, C]", {"axes": (1,), "keepdim": True}),
    ("[B, S, C]", {"axes": (0, 2)}), ("[B, S, C]", {"axes": (0, 1, 2)}),
)


def _reductions() -> list[Case]:
    cases: list[Case] = []
    for shape, chosen in _FORMS:
        for op, f in (("sum", np.sum), ("amax", np.max)):
            cases.append(Case(op, (f"f32{shape}",), chosen, label=f"f32{shape}{chosen}".replace(" ", ""),
                              expect=_over(f), special=op == "amax", empty=op == "sum"))
    for op, f in (("mean", np.mean), ("amin", np.min), ("prod", np.prod)):
        for shape, chosen in _FORMS[:4]:
            cases.append(Case(op, (f"f32{shape}",), chosen, label=f"f32{shape}{chosen}".replace(" ", ""),
                              expect=_over(f), special=op == "amin", empty=op != "amin",
                              fills={} if op != "prod" else {0: between(0.5, 1.4)}))
    for op, f in (("sum", np.sum), ("amax", np.max), ("amin", np.min), ("prod", np.prod)):
        cases.append(Case(op, ("i64[B, S]",), {"axes": (1,)}, expect=_over(f), empty=op in ("sum", "prod"),
                          fills={0: whole(-2, 3)}))
    for op, f in (("all", np.all), ("any", np.any)):
        cases.append(Case(op, ("bool[B, S]",), {"axes": (1,)}, expect=_over(f)))
        cases.append(Case(op, ("bool[B, S, C]",), {"axes": (0, 1), "keepdim": True}, expect=_over(f)))
    for op, f in (("sum", np.sum), ("mean", np.mean)):
        cases += [Case(op, (f"{t}[B, S]",), {"axes": (1,)}, expect=_over(f), special=False) for t in ("bf16", "f16",
                                                                                                      "f64")]
    for correction in (0.0, 1.0):
        for op, f in (("var", np.var), ("std", np.std)):
            cases.append(Case(op, ("f32[B, S, 6]",), {"axes": (2,), "keepdim": True, "correction": correction},
                              label=f"correction={correction}", special=False,
                              expect=lambda x, axes, keepdim, correction, f=f: f(x, axis=axes, keepdims=keepdim,
                                                                                 ddof=correction)))
    cases += [Case("norm", ("f32[B, S]",), {"axes": (1,), "p": p}, label=f"p={p}", expect=_norm, special=False,
                   empty=p != -np.inf and p != np.inf, sizes=({"B": 3, "S": 5}, {"B": 1, "S": 1}, {"B": 0, "S": 3},
                                                              {"B": 4, "S": 67}))
              for p in (0.0, 1.0, 2.0, 3.0, np.inf, -np.inf)]
    cases += [
        Case("var", ("f32[B, 5]",), {"axes": (0, 1), "correction": 1.0}, label="all", special=False,
             sizes=({"B": 3}, {"B": 1}),
             expect=lambda x, axes, keepdim, correction: np.var(x, ddof=1)),
        Case("logsumexp", ("f32[B, S]",), {"axes": (1,)}, special=True,
             expect=lambda x, axes, keepdim: _logsumexp(x, axes, keepdim)),
        Case("logsumexp", ("f32[B, S, C]",), {"axes": (0, 2), "keepdim": True}, special=False,
             expect=lambda x, axes, keepdim: _logsumexp(x, axes, keepdim)),
        Case("sum", ("f32[]",), {"axes": ()}, label="scalar", expect=lambda x, axes, keepdim: x),
        Case("var", ("f32[]",), {"axes": (), "correction": 0.0}, label="scalar", special=False,
             expect=lambda x, axes, keepdim, correction: x * 0),
        Case("sum", ("complex64[B, S]",), {"axes": (1,)}, expect=_over(np.sum)),
        Case("sum", ("i32[B, S]",), {"axes": (0, 1)}, expect=_over(np.sum)),
        Case("amax", ("bf16[B, S]",), {"axes": (1,)}, label="bf16", empty=False),
        Case("sum", ("f32[B, 4099]",), {"axes": (1,)}, label="long", special=False, sizes=({"B": 2},),
             expect=_over(np.sum)),
    ]
    return cases


def _logsumexp(x: np.ndarray, axes: tuple[int, ...], keepdim: bool) -> np.ndarray:
    if 0 in x.shape:
        return np.log(np.sum(np.exp(x), axis=axes, keepdims=keepdim))
    return special.logsumexp(x, axis=axes, keepdims=keepdim)


def _extremes() -> list[Case]:
    cases: list[Case] = []
    for op, f, g in (("argmax", np.argmax, np.max), ("argmin", np.argmin, np.min)):
        short = op[3:]
        cases += [
            Case(op, ("f32[B, S]",), {"axis": 1}, empty=True,
                 sizes=({"B": 3, "S": 5}, {"B": 5, "S": 67}, {"B": 1, "S": 1}, {"B": 0, "S": 3}),
                 expect=lambda x, axis, keepdim, f=f: f(x, axis)),
            Case(op, ("f32[B, S, C]",), {"axis": 1, "keepdim": True}, empty=False,
                 expect=lambda x, axis, keepdim, f=f: f(x, axis)[:, None]),
            Case(op, ("i64[B, S]",), label="all", empty=False, expect=lambda x, axis, keepdim, f=f: np.asarray(f(x))),
            Case(f"{short}_with_index", ("f32[B, S]",), {"axis": 1}, empty=False,
                 expect=lambda x, axis, keepdim, f=f, g=g: (g(x, axis), f(x, axis))),
            Case(f"{short}_with_index", ("i64[B, S, C]",), {"axis": 0, "keepdim": True}, empty=False,
                 expect=lambda x, axis, keepdim, f=f, g=g: (g(x, axis, keepdims=True), f(x, axis)[None])),
        ]
    cases += [
        Case("median_with_index", ("f32[B, S]",), {"axis": 1}, empty=False, fills={0: distinct()},
             expect=lambda x, axis, keepdim: _lower_median(x)),
        Case("median_with_index", ("f32[S, C]",), {"axis": 0, "keepdim": True}, empty=False, fills={0: distinct()}),
    ]
    return cases


def _lower_median(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(x, axis=1)
    at = order[:, (x.shape[1] - 1) // 2]
    return x[np.arange(len(x)), at], at


def _running(f: Callable[..., np.ndarray], x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A running extreme and the last index that has it."""
    values = f(x, axis)
    at = np.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return values, np.maximum.accumulate(np.where((x == values) | np.isnan(x), at, 0), axis)


def _scans() -> list[Case]:
    cases: list[Case] = []
    for op, f in (("cumsum", np.cumsum), ("cumprod", np.cumprod)):
        narrow = {0: between(0.6, 1.5)}
        cases += [
            Case(op, ("f32[B, S]",), {"axis": 1}, special=False, expect=lambda x, axis, f=f: f(x, axis), fills=narrow),
            Case(op, ("f32[B, S, C]",), {"axis": 0}, special=False, expect=lambda x, axis, f=f: f(x, axis),
                 fills=narrow),
            Case(op, ("i64[B, S]",), {"axis": 1}, expect=lambda x, axis, f=f: f(x, axis), fills={0: whole(-2, 3)}),
            Case(op, ("f32[B, S]",), {"axis": 1}, label="odd"),
        ]
    cases += [
        Case("cumsum", ("i32[S]",), {"axis": 0}, expect=np.cumsum), Case("cumsum", ("bf16[B, S]",), {"axis": 1},
                                                                         special=False),
        Case("logcumsumexp", ("f32[B, S]",), {"axis": 1}, special=False,
             expect=lambda x, axis: np.logaddexp.accumulate(x, axis)),
        Case("logcumsumexp", ("f32[S, C]",), {"axis": 0}, label="odd"),
    ]
    for op, g in (("cummax", np.maximum.accumulate), ("cummin", np.minimum.accumulate)):
        cases += [
            Case(op, ("f32[B, S]",), {"axis": 1}, expect=lambda x, axis, g=g: _running(g, x, axis)),
            Case(op, ("i64[B, S, C]",), {"axis": 1}, expect=lambda x, axis, g=g: _running(g, x, axis)),
        ]
    return cases


def _sorted(x: np.ndarray, axis: int, descending: bool, stable: bool) -> tuple[np.ndarray, np.ndarray]:
    """A stable sort; NaN is the largest."""
    ranks = np.where(np.isnan(x), np.inf, x)
    order = np.lexsort((np.isnan(x), ranks), axis) if not descending else np.lexsort((~np.isnan(x), -ranks), axis)
    return np.take_along_axis(x, order, axis), order


def _top(x: np.ndarray, k: int, axis: int, largest: bool, sorted: bool) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-x if largest else x, axis, kind="stable")
    at = np.take(order, range(k), axis)
    return np.take_along_axis(x, at, axis), at


_SORTS = [
    Case("sort", ("f32[B, S]",), {"axis": 1}, special=False, expect=_sorted),
    Case("sort", ("f32[B, S]",), {"axis": 1, "descending": True}, special=False, expect=_sorted, label="descending"),
    Case("sort", ("f32[S, C]",), {"axis": 0}, label="odd"),
    Case("sort", ("f32[S, C]",), {"axis": 0, "descending": True}, label="odd-descending"),
    Case("sort", ("i64[B, S, C]",), {"axis": 1}, expect=_sorted),
    Case("topk", ("f32[B, 9]",), {"k": 3, "axis": 1}, fills={0: distinct()}, expect=_top),
    Case("topk", ("f32[B, S + 2, C]",), {"k": 2, "axis": 1, "largest": False}, label="smallest", fills={0: distinct()},
         expect=_top),
    Case("topk", ("f32[B, S]",), {"k": S, "axis": 1}, label="all", fills={0: distinct()}, expect=_top),
]


def _searched(table: np.ndarray, x: np.ndarray, right: bool) -> np.ndarray:
    side = "right" if right else "left"
    if table.ndim == 1:
        return np.searchsorted(table, x, side)
    return np.stack([np.searchsorted(t, row, side) for t, row in zip(table, x)]) if len(x) else np.zeros(x.shape)


_SEARCHES = [
    Case("searchsorted", ("f32[6]", "f32[B, S]"), fills={0: ascending()}, special=False, expect=_searched),
    Case("searchsorted", ("i64[6]", "i64[B, S]"), {"right": True}, fills={0: ascending()}, expect=_searched),
    Case("searchsorted", ("f32[B, C]", "f32[B, S]"), {"right": True}, label="rows", fills={0: ascending()},
         special=False,
         expect=_searched),
]


def _fourier(x: np.ndarray, axes: tuple[int, ...], inverse: bool, norm: str) -> np.ndarray:
    return (np.fft.ifftn if inverse else np.fft.fftn)(x, axes=axes, norm=norm)


_FOURIER = [
    Case("fft", ("complex64[B, 8]",), {"axes": (1,)}, expect=_fourier),
    Case("fft", ("complex64[B, 6, 5]",), {"axes": (1, 2), "norm": "ortho"}, expect=_fourier),
    Case("fft", ("complex64[B, S]",), {"axes": (1,), "inverse": True}, label="inverse", expect=_fourier),
    Case("rfft", ("f32[B, S]",), {"axis": 1}, special=False,
         expect=lambda x, axis, norm: np.fft.rfft(x, axis=axis, norm=norm)),
    Case("rfft", ("f32[8, C]",), {"axis": 0, "norm": "forward"}, special=False,
         expect=lambda x, axis, norm: np.fft.rfft(x, axis=axis, norm=norm)),
    Case("irfft", ("complex64[B, 5]",), {"axis": 1, "length": 8},
         expect=lambda x, axis, length, norm: np.fft.irfft(x, length, axis, norm)),
    Case("irfft", ("complex64[B, S//2 + 1]",), {"axis": 1, "length": S}, label="symbolic",
         sizes=({"B": 2, "S": 9}, {"B": 1, "S": 1},
                {"B": 0, "S": 4}), expect=lambda x, axis, length, norm: np.fft.irfft(x, length, axis, norm)),
]

CASES = [*_reductions(), *_extremes(), *_scans(), *_SORTS, *_SEARCHES, *_FOURIER]

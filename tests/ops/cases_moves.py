"""Cases of creation, view and shape operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.ir import sym
from mcomp.ir.dtypes import bf16, bool_, complex64, f32, f64, i32, i64
from tests.ops.suite import Case, between

B, S, C, T = sym("B"), sym("S"), sym("C"), sym("T")


def _moved(x: np.ndarray, low: Any, high: Any, mode: str, value: float) -> np.ndarray:
    width = list(zip(low, high))
    if mode == "constant":
        return np.pad(x, width, constant_values=np.asarray(value).astype(x.dtype))
    return np.pad(x, width, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


_CREATION = [
    Case("full", (), {"value": 2.5, "shape": (B, 3)}, label="f32",
         expect=lambda value, shape, dtype: np.full(shape, value)),
    Case("full", (), {"value": -7, "shape": (B,), "dtype": i64}, label="i64",
         expect=lambda value, shape, dtype: np.full(shape, value)),
    Case("full", (), {"value": B + S, "dtype": i64}, label="size",
         expect=lambda value, shape, dtype: np.asarray(value)),
    Case("full", (), {"value": True, "shape": (B, 2), "dtype": bool_}, label="bool"),
    Case("full", (), {"value": float("-inf"), "shape": (2, B)}, label="infinite"),
    Case("full", (), {"value": float("nan"), "shape": (S,), "dtype": bf16}, label="nan-bf16"),
    Case("full", (), {"value": 1 + 2j, "shape": (S,), "dtype": complex64}, label="complex"),
    Case("arange", (), {"length": S}, label="i64", expect=lambda start, step, length, dtype: np.arange(length)),
    Case("arange", (), {"start": 5, "step": -2, "length": S, "dtype": i32}, label="down",
         expect=lambda start, step, length, dtype: 5 - 2 * np.arange(length)),
    Case("arange", (), {"start": B, "length": S}, label="from-size",
         expect=lambda start, step, length, dtype: start + np.arange(length)),
    Case("arange", (), {"start": -1.0, "step": 0.1, "length": S, "dtype": f32}, label="f32",
         expect=lambda start, step, length, dtype: start + step * np.arange(length)),
    Case("eye", (), {"rows": B, "columns": S}, label="f32", expect=lambda rows, columns, dtype: np.eye(rows, columns)),
    Case("eye", (), {"rows": 4, "columns": 4, "dtype": bool_}, label="bool",
         expect=lambda rows, columns, dtype: np.eye(rows)),
    Case("rand", (), {"shape": (B, 4)}, label="f32", compare="type"),
    Case("randn", (), {"shape": (B, 4), "dtype": f64}, label="f64", compare="type"),
    Case("randint", (), {"low": 2, "high": 9, "shape": (B, 4)}, label="i64", compare="type"),
    Case("bernoulli", ("f32[B, S]",), fills={0: between(0, 1)}, compare="type"),
    Case("multinomial", ("f32[B, 9]",), {"samples": 4}, fills={0: between(0.1, 1)}, compare="type", empty=False),
    Case("multinomial", ("f32[6]",), {"samples": 9, "replacement": True}, fills={0: between(0.1, 1)}, compare="type"),
    Case("dropout", ("f32[B, S]",), {"p": 0.3}, expect=lambda x, p: x),
]

_VIEWS = [
    Case("reshape", ("f32[B, S, 4]",), {"shape": (B * S, 4)}, expect=lambda x, shape: x.reshape(shape)),
    Case("reshape", ("i64[B, 12]",), {"shape": (B, 3, 4)}, label="split", expect=lambda x, shape: x.reshape(shape)),
    Case("reshape", ("f32[1, 1]",), {"shape": ()}, label="scalar", expect=lambda x, shape: x.reshape(shape)),
    Case("permute", ("f32[B, S, C]",), {"order": (2, 0, 1)}, expect=lambda x, order: x.transpose(order)),
    Case("permute", ("bool[B, S]",), {"order": (1, 0)}, expect=lambda x, order: x.T),
    Case("permute", ("bf16[B, S, C, T]",), {"order": (0, 2, 1, 3)}, expect=lambda x, order: x.transpose(order)),
    Case("permute", ("f32[]",), {"order": ()}, label="scalar", expect=lambda x, order: x),
    Case("expand", ("f32[B, 1, C]",), {"shape": (B, S, C)}, expect=lambda x, shape: np.broadcast_to(x, shape)),
    Case("expand", ("f32[S]",), {"shape": (3, B, S)}, label="leading",
         expect=lambda x, shape: np.broadcast_to(x, shape)),
    Case("expand", ("i64[]",), {"shape": (B, 2)}, label="scalar", expect=lambda x, shape: np.broadcast_to(x, shape)),
    Case("slice", ("f32[B, S, 9]",), {"axis": 2, "start": 2, "stop": 7},
         expect=lambda x, axis, start, stop, step: x[..., 2:7]),
    Case("slice", ("f32[B, 9]",), {"axis": 1, "start": 1, "stop": 9, "step": 3}, label="step",
         expect=lambda x, axis, start, stop, step: x[:, 1:9:3]),
    Case("slice", ("i64[S + 2, C]",), {"axis": 0, "start": S, "stop": S + 2}, label="tail",
         expect=lambda x, axis, start, stop, step: x[-2:]),
    Case("slice", ("f32[B, 4]",), {"axis": 1, "start": 4, "stop": 4}, label="nothing",
         expect=lambda x, axis, start, stop, step: x[:, 4:]),
    Case("select", ("f32[B, 5, C]",), {"axis": 1, "index": 3}, expect=lambda x, axis, index: x[:, 3]),
    Case("select", ("f32[S + 1]",), {"axis": 0, "index": S}, label="last", expect=lambda x, axis, index: x[-1]),
    Case("squeeze", ("f32[B, 1, S, 1]",), {"axes": (1, 3)}, expect=lambda x, axes: x[:, 0, :, 0]),
    Case("squeeze", ("f32[1]",), {"axes": (0,)}, label="scalar", expect=lambda x, axes: x[0]),
    Case("unsqueeze", ("f32[B, S]",), {"axes": (0, 2)}, expect=lambda x, axes: x[None, :, None]),
    Case("unsqueeze", ("bool[]",), {"axes": (0,)}, expect=lambda x, axes: x[None]),
    Case("unfold", ("f32[B, 10]",), {"axis": 1, "size": 4, "step": 3},
         expect=lambda x, axis, size, step: np.lib.stride_tricks.sliding_window_view(x, 4, 1)[:, ::3]),
    Case("unfold", ("f32[S + 2, C]",), {"axis": 0, "size": 3, "step": 1}, label="symbolic", empty=False,
         expect=lambda x, axis, size, step: np.lib.stride_tricks.sliding_window_view(x, 3, 0)),
    Case("contiguous", ("f32[B, S]",), expect=lambda x: x),
]

_SHAPE = [
    Case("cat", ("f32[B, S]", "f32[B, T]", "f32[B, 2]"), {"axis": 1}, expect=lambda *x, axis: np.concatenate(x, axis)),
    Case("cat", ("i64[B, C]", "i64[2, C]"), {"axis": 0}, expect=lambda *x, axis: np.concatenate(x, axis)),
    Case("cat", ("bool[B, 1, C]", "bool[B, S, C]"), {"axis": 1}, expect=lambda *x, axis: np.concatenate(x, axis)),
    Case("cat", ("bf16[B, S]",), {"axis": 0}, label="one", expect=lambda *x, axis: x[0]),
    Case("split", ("f32[B, 9, C]",), {"axis": 1, "sizes": (2, 3, 4)},
         expect=lambda x, axis, sizes: np.split(x, (2, 5), 1)),
    Case("split", ("f32[B, S + 1]",), {"axis": 1, "sizes": (S, 1)}, label="symbolic",
         expect=lambda x, axis, sizes: np.split(x, (x.shape[1] - 1,), 1)),
    Case("flip", ("f32[B, S, C]",), {"axes": (0, 2)}, expect=lambda x, axes: np.flip(x, axes)),
    Case("flip", ("i64[S]",), {"axes": (0,)}, expect=lambda x, axes: x[::-1]),
    Case("roll", ("f32[B, S, C]",), {"shifts": (2, -1), "axes": (1, 2)},
         expect=lambda x, shifts, axes: np.roll(x, shifts, axes)),
    Case("roll", ("i64[S]",), {"shifts": (50,), "axes": (0,)}, label="far",
         expect=lambda x, shifts, axes: np.roll(x, shifts, axes)),
    Case("repeat", ("f32[B, S]",), {"repeats": (2, 3)}, expect=lambda x, repeats: np.tile(x, repeats)),
    Case("repeat", ("f32[1, 4]",), {"repeats": (B, 1)}, label="symbolic",
         expect=lambda x, repeats: np.tile(x, repeats)),
    Case("repeat_interleave", ("f32[B, S, C]",), {"repeats": 3, "axis": 1},
         expect=lambda x, repeats, axis: np.repeat(x, 3, 1)),
    Case("pad", ("f32[B, S]",), {"low": (0, 2), "high": (1, 3), "value": 1.5}, expect=_moved),
    Case("pad", ("i64[B, S]",), {"low": (0, 1), "high": (0, 0), "value": -1.0}, expect=_moved),
    Case("pad", ("bool[B, S]",), {"low": (1, 0), "high": (0, B)}, label="by-size", expect=_moved),
    Case("pad", ("f32[B, C, 5, 6]",), {"low": (0, 0, 2, 1), "high": (0, 0, 1, 3), "mode": "reflect"}, label="reflect",
         expect=_moved),
    Case("pad", ("f32[B, C, 5, 6]",), {"low": (0, 0, 2, 1), "high": (0, 0, 1, 3), "mode": "replicate"},
         label="replicate",
         expect=_moved),
    Case("pad", ("f32[B, C, 5, 6]",), {"low": (0, 0, 2, 1), "high": (0, 0, 1, 6), "mode": "circular"}, label="circular",
         expect=_moved),
    Case("diagonal", ("f32[B, 4, 6]",), {"offset": 1, "axis1": 1, "axis2": 2},
         expect=lambda x, offset, axis1, axis2: np.diagonal(x, 1, 1, 2)),
    Case("diagonal", ("f32[S, S]",), {"axis1": 0, "axis2": 1}, label="square",
         expect=lambda x, offset, axis1, axis2: np.diagonal(x)),
    Case("diagonal", ("f32[S, T]",), {"offset": -2}, label="below",
         expect=lambda x, offset, axis1, axis2: np.diagonal(x, -2)),
    Case("diag_embed", ("f32[B, S]",), {"axis1": 1, "axis2": 2},
         expect=lambda x, offset, axis1, axis2: x[:, :, None] * np.eye(x.shape[1]), special=False),
    Case("diag_embed", ("f32[B, S]",), {"offset": -1, "axis1": 2, "axis2": 0}, label="offset"),
    Case("im2col", ("f32[B, C, 7, 8]",), {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
         special=False),
    Case("im2col", ("f32[B, 2, S + 2, S + 2]",), {"kernel": (3, 3)}, label="symbolic",
         expect=lambda x, kernel, **rest: np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3)).transpose(
             0, 1, 4, 5, 2, 3).reshape(x.shape[0], 18, (x.shape[2] - 2) * (x.shape[3] - 2))),
    Case("col2im", ("f32[B, 12, 20]",), {"output": (5, 6), "kernel": (2, 2)}, special=False),
    Case("col2im", ("f32[B, 18, 9]",), {"output": (6, 5), "kernel": (3, 3), "stride": (2, 1), "padding": (1, 0)},
         label="stride", special=False),
]

CASES = [*_CREATION, *_VIEWS, *_SHAPE]

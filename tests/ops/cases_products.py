"""Cases of matrix products, attention, normalization and recurrent layers, with formulas in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.ops.suite import Case, Sizes, between


def _linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    out = x @ weight.T
    return out if bias is None else out + bias


def _grouped(x: np.ndarray, weight: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    out = np.zeros((x.shape[0], weight.shape[2]))
    start = 0
    for matrix, stop in zip(weight, offsets):
        out[start:stop] = x[start:stop] @ matrix
        start = stop
    return out


def _offsets(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    return np.sort(rng.integers(0, sizes["T"] + 1, shape))


def _bilinear(x1: np.ndarray, x2: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    out = np.einsum("...i,oij,...j->...o", x1, weight, x2)
    return out if bias is None else out + bias


_SMALL = dict.fromkeys(range(4), between(-0.5, 0.5))
"""Data whose long sums stay small, for sums are compared to an absolute tolerance."""

_LINEAR = [
    Case("linear", ("f32[B, 7]", "f32[5, 7]", "f32[5]"), fills=_SMALL, special=False, expect=_linear),
    Case("linear", ("f32[B, S, C]", "f32[T, C]"), fills=_SMALL, special=False, expect=_linear),
    Case("linear", ("f32[C]", "f32[9, C]", "f32[9]"), fills=_SMALL, special=False, expect=_linear),
    Case("linear", ("f64[B, 2, S, 16]", "f64[48, 16]", "f64[48]"), fills=_SMALL, special=False, expect=_linear),
    Case("linear", ("bf16[B, 33]", "bf16[17, 33]", "bf16[17]"), fills=_SMALL, special=False, expect=_linear),
    Case("linear", ("f16[B, 8]", "f16[4, 8]"), fills=_SMALL, special=False, expect=_linear),
    Case("matmul", ("f32[B, S, C]", "f32[B, C, T]"), fills=_SMALL, special=False, expect=np.matmul),
    Case("matmul", ("f32[B, 1, S, C]", "f32[3, C, T]"), label="broadcast", fills=_SMALL, special=False,
         expect=np.matmul),
    Case("matmul", ("f32[S, C]", "f32[C, T]"), fills=_SMALL, special=False, expect=np.matmul),
    Case("matmul", ("f32[C]", "f32[B, C, T]"), label="row", fills=_SMALL, special=False, expect=np.matmul),
    Case("matmul", ("f32[B, S, C]", "f32[C]"), label="column", fills=_SMALL, special=False, expect=np.matmul),
    Case("matmul", ("f32[C]", "f32[C]"), label="dot", fills=_SMALL, special=False, expect=np.matmul),
    Case("matmul", ("bf16[B, S, 8]", "bf16[B, 8, 5]"), fills=_SMALL, special=False, expect=np.matmul),
    Case("matmul", ("i64[S, C]", "i64[C, T]"), special=False, expect=np.matmul),
    Case("grouped_matmul", ("f32[T, 6]", "f32[4, 6, 5]", "i32[4]"), fills={**_SMALL, 2: _offsets}, special=False,
         expect=_grouped),
    Case("bilinear", ("f32[B, S, 5]", "f32[B, S, 7]", "f32[3, 5, 7]", "f32[3]"), fills=_SMALL, special=False,
         expect=_bilinear),
    Case("bilinear", ("f32[B, 5]", "f32[B, 4]", "f32[6, 5, 4]"), fills=_SMALL, special=False, expect=_bilinear),
]


def _attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray | None = None, *, causal: bool,
    scale: float | None, grouped: bool,
) -> np.ndarray:
    if grouped:
        key = np.repeat(key, query.shape[-3] // key.shape[-3], axis=-3)
        value = np.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    scores = query @ np.swapaxes(key, -1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.where(np.isneginf(top), 0.0, np.exp(scores - np.where(np.isneginf(top), 0.0, top)))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1.0, total) @ value


def _rows_masked(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    kept = rng.integers(0, 2, shape).astype(bool)
    kept[..., ::2, :] = False
    return kept


def _minus_infinity(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    return np.where(_rows_masked(rng, shape, sizes), rng.standard_normal(shape), -np.inf)


_QKV = ("f32[B, 4, S, 8]", "f32[B, 4, T, 8]", "f32[B, 4, T, 8]")
_GROUPED = ("f32[B, 6, S, 8]", "f32[B, 2, T, 8]", "f32[B, 2, T, 8]")


def _attention_case(label: str, operands: tuple[str | None, ...], **options: Any) -> Case:
    fills = options.pop("fills", {})
    return Case("attention", operands, options, label=label, fills=fills, special=False, expect=_attention)


def _rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, interleaved: bool) -> np.ndarray:
    rotated = np.empty_like(x)
    half = x.shape[-1] // 2
    if interleaved:
        rotated[..., ::2], rotated[..., 1::2] = -x[..., 1::2], x[..., ::2]
    else:
        rotated[..., :half], rotated[..., half:] = -x[..., half:], x[..., :half]
    return x * cos + rotated * sin


_ATTENTION = [
    _attention_case("plain", _QKV),
    _attention_case("causal", _QKV, causal=True),
    _attention_case("scale", _QKV, scale=0.25),
    _attention_case("value-width", ("f32[B, 2, S, 8]", "f32[B, 2, T, 8]", "f32[B, 2, T, 5]")),
    _attention_case("bool-mask", (*_QKV, "bool[B, 1, 1, T]")),
    _attention_case("float-mask", (*_QKV, "f32[B, 4, S, T]")),
    _attention_case("mask-2d", (*_QKV, "bool[S, T]")),
    _attention_case("masked-rows", (*_QKV, "bool[B, 1, S, T]"), fills={3: _rows_masked}),
    _attention_case("masked-rows-float", (*_QKV, "f32[B, 1, S, T]"), fills={3: _minus_infinity}),
    _attention_case("causal-mask", (*_QKV, "bool[B, 1, S, T]"), causal=True),
    _attention_case("causal-float-mask", (*_QKV, "f32[1, 1, S, T]"), causal=True),
    _attention_case("grouped", _GROUPED, grouped=True),
    _attention_case("grouped-causal", _GROUPED, grouped=True, causal=True),
    _attention_case("grouped-mask", (*_GROUPED, "bool[B, 1, S, T]"), grouped=True),
    _attention_case("rank-3", ("f32[B, S, 16]", "f32[B, T, 16]", "f32[B, T, 16]")),
    _attention_case("bf16", ("bf16[B, 2, S, 16]", "bf16[B, 2, T, 16]", "bf16[B, 2, T, 16]")),
    Case("rope", ("f32[B, 2, S, 8]", "f32[B, 1, S, 8]", "f32[B, 1, S, 8]"), special=False, expect=_rope),
    Case("rope", ("f32[B, 2, S, 6]", "f32[S, 6]", "f32[S, 6]"), {"interleaved": True}, label="interleaved",
         special=False, expect=_rope),
]


def _layer_norm(
    x: np.ndarray, weight: np.ndarray | None = None, bias: np.ndarray | None = None, *, axes_count: int, eps: float
) -> np.ndarray:
    axes = tuple(range(x.ndim - axes_count, x.ndim))
    out = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return out * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


def _rms_norm(
    x: np.ndarray, weight: np.ndarray | None = None, *, axes_count: int, eps: float, offset: float
) -> np.ndarray:
    axes = tuple(range(x.ndim - axes_count, x.ndim))
    out = x / np.sqrt((x * x).mean(axes, keepdims=True) + eps)
    return out if weight is None else out * (weight + offset)


def _channels(vector: np.ndarray, x: np.ndarray) -> np.ndarray:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def _group_norm(
    x: np.ndarray, weight: np.ndarray | None = None, bias: np.ndarray | None = None, *, groups: int, eps: float
) -> np.ndarray:
    if x.size == 0:
        return x
    grouped = x.reshape(x.shape[0], groups, -1)
    out = _layer_norm(grouped, axes_count=1, eps=eps).reshape(x.shape)
    out = out if weight is None else out * _channels(weight, x)
    return out if bias is None else out + _channels(bias, x)


def _batch_norm(
    x: np.ndarray, mean: np.ndarray, variance: np.ndarray, weight: np.ndarray | None = None,
    bias: np.ndarray | None = None, *, eps: float,
) -> np.ndarray:
    out = (x - _channels(mean, x)) / np.sqrt(_channels(variance, x) + eps)
    out = out if weight is None else out * _channels(weight, x)
    return out if bias is None else out + _channels(bias, x)


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


_NORM = [
    Case("layer_norm", ("f32[B, S, 32]", "f32[32]", "f32[32]"), {"axes_count": 1, "eps": 1e-5}, special=False,
         expect=_layer_norm),
    Case("layer_norm", ("f32[B, 3, 5]", "f32[3, 5]", None), {"axes_count": 2, "eps": 1e-6}, label="two-axes",
         special=False, expect=lambda x, w, b=None, **a: _layer_norm(x, w, **a)),
    Case("layer_norm", ("f32[B, 9]",), {"axes_count": 1, "eps": 1e-12}, label="plain", special=False,
         expect=_layer_norm),
    Case("layer_norm", ("bf16[B, 64]", "bf16[64]", "bf16[64]"), {"axes_count": 1, "eps": 1e-5}, special=False,
         expect=_layer_norm),
    Case("rms_norm", ("f32[B, S, 24]", "f32[24]"), {"axes_count": 1, "eps": 1e-6}, special=False, expect=_rms_norm),
    Case("rms_norm", ("f32[B, 24]", "f32[24]"), {"axes_count": 1, "eps": 1e-6, "offset": 1.0}, label="offset",
         special=False, expect=_rms_norm),
    Case("rms_norm", ("bf16[B, 16]",), {"axes_count": 1, "eps": 1e-6}, label="bf16", special=False, expect=_rms_norm),
    Case("group_norm", ("f32[B, 6, S]", "f32[6]", "f32[6]"), {"groups": 3, "eps": 1e-5}, special=False,
         expect=_group_norm),
    Case("group_norm", ("f32[B, 4, 5, S]",), {"groups": 4, "eps": 1e-5}, label="instance", special=False,
         sizes=({"B": 3, "S": 5}, {"B": 2, "S": 31}, {"B": 1, "S": 1}), expect=_group_norm),
    Case("group_norm", ("f32[B, 8]", "f32[8]", "f32[8]"), {"groups": 1, "eps": 1e-5}, label="flat", special=False,
         expect=_group_norm),
    Case("batch_norm", ("f32[B, C, S, T]", "f32[C]", "f32[C]", "f32[C]", "f32[C]"), {"eps": 1e-5},
         fills={2: between(0.2, 3.0)}, special=False, expect=_batch_norm),
    Case("batch_norm", ("f32[B, C]", "f32[C]", "f32[C]"), {"eps": 1e-3}, label="flat", fills={2: between(0.2, 3.0)},
         special=False, expect=_batch_norm),
    Case("softmax", ("f32[B, S]",), {"axis": 1}, expect=_softmax),
    Case("softmax", ("f32[B, S, C]",), {"axis": 1}, label="middle", expect=_softmax),
    Case("softmax", ("bf16[B, S]",), {"axis": 1}, special=False, expect=_softmax),
    Case("log_softmax", ("f32[B, S]",), {"axis": 1}, special=False, expect=_log_softmax),
    Case("log_softmax", ("f32[B, S, C]",), {"axis": 0}, label="first", special=False, expect=_log_softmax),
]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _lstm_step(
    x: np.ndarray, state: list[np.ndarray], w: np.ndarray, u: np.ndarray, b: np.ndarray, c: np.ndarray, p: Any
) -> list[np.ndarray]:
    i, f, g, o = np.split(x @ w.T + state[0] @ u.T + b + c, 4, axis=-1)
    cell = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
    hidden = _sigmoid(o) * np.tanh(cell)
    return [hidden if p is None else hidden @ p.T, cell]


def _gru_step(
    x: np.ndarray, state: list[np.ndarray], w: np.ndarray, u: np.ndarray, b: np.ndarray, c: np.ndarray, p: Any
) -> list[np.ndarray]:
    r, z, n = np.split(x @ w.T + b, 3, axis=-1)
    hr, hz, hn = np.split(state[0] @ u.T + c, 3, axis=-1)
    reset, update = _sigmoid(r + hr), _sigmoid(z + hz)
    return [(1 - update) * np.tanh(n + reset * hn) + update * state[0]]


def _rnn_step(nonlinearity: str) -> Any:
    def step(x: np.ndarray, state: list[np.ndarray], w: Any, u: Any, b: Any, c: Any, p: Any) -> list[np.ndarray]:
        total = x @ w.T + state[0] @ u.T + b + c
        return [np.tanh(total) if nonlinearity == "tanh" else np.maximum(total, 0)]

    return step


def _recurrent(step: Any, states: int) -> Any:
    def run(
        x: np.ndarray, *rest: np.ndarray, layers: int, bidirectional: bool, batch_first: bool, bias: bool,
        dynamic: bool, projection: bool = False, nonlinearity: str = "",
    ) -> tuple[np.ndarray, ...]:
        assert not dynamic  # rounded rows: tests/cpu/test_backend_recurrent.py
        advance = _rnn_step(nonlinearity) if nonlinearity else step
        initial, weights = rest[:states], list(rest[states:])
        y = np.swapaxes(x, 0, 1) if batch_first else x
        finals: list[list[np.ndarray]] = [[] for _ in range(states)]
        directions = 2 if bidirectional else 1
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                w, u = weights.pop(0), weights.pop(0)
                b, c = (weights.pop(0), weights.pop(0)) if bias else (0.0, 0.0)
                p = weights.pop(0) if projection else None
                state = [s[layer * directions + direction] for s in initial]
                steps = []
                for now in y[::-1] if direction else y:
                    state = advance(now, state, w, u, b, c, p)
                    steps.append(state[0])
                outputs.append(np.stack(steps[::-1] if direction else steps))
                for final, s in zip(finals, state):
                    final.append(s)
            y = np.concatenate(outputs, axis=-1)
        return (np.swapaxes(y, 0, 1) if batch_first else y, *(np.stack(f) for f in finals))

    return run


def _weights(
    gates: int, inputs: int, hidden: int, *, layers: int = 1, directions: int = 1, bias: bool = True, output: int = 0
) -> tuple[str, ...]:
    found: list[str] = []
    rows, kept = gates * hidden, output or hidden
    for layer in range(layers):
        width = inputs if layer == 0 else directions * kept
        for _ in range(directions):
            found += [f"f32[{rows}, {width}]", f"f32[{rows}, {kept}]"]
            found += [f"f32[{rows}]"] * 2 if bias else []
            found += [f"f32[{output}, {hidden}]"] if output else []
    return tuple(found)


def _recurrent_case(op: str, label: str, x: str, states: tuple[str, ...], weights: tuple[str, ...],
                    **attrs: Any) -> Case:
    step, count = {"lstm": (_lstm_step, 2), "gru": (_gru_step, 1), "rnn": (None, 1)}[op]
    operands = (x, *states, *weights)
    small = {i: between(-0.5, 0.5) for i in range(len(operands))}
    sizes = ({"B": 3, "T": 4}, {"B": 2, "T": 19}, {"B": 1, "T": 1})
    return Case(
        op, operands, {"layers": 1, **attrs}, label=label, sizes=sizes, fills=small, special=False,
        expect=_recurrent(step, count),
    )


_RECURRENT = [
    _recurrent_case("lstm", "plain", "f32[T, B, 5]", ("f32[1, B, 6]",) * 2, _weights(4, 5, 6)),
    _recurrent_case("lstm", "batch-first", "f32[B, T, 5]", ("f32[1, B, 6]",) * 2, _weights(4, 5, 6), batch_first=True),
    _recurrent_case("lstm", "deep-bidirectional", "f32[B, T, 5]", ("f32[4, B, 6]",) * 2,
                    _weights(4, 5, 6, layers=2, directions=2), layers=2, bidirectional=True, batch_first=True),
    _recurrent_case("lstm", "no-bias", "f32[T, B, 5]", ("f32[2, B, 6]",) * 2,
                    _weights(4, 5, 6, layers=2, bias=False), layers=2, bias=False),
    _recurrent_case("lstm", "projection", "f32[T, B, 5]", ("f32[2, B, 3]", "f32[2, B, 6]"),
                    _weights(4, 5, 6, directions=2, output=3), bidirectional=True, projection=True),
    _recurrent_case("gru", "plain", "f32[T, B, 5]", ("f32[1, B, 6]",), _weights(3, 5, 6)),
    _recurrent_case("gru", "deep-bidirectional", "f32[B, T, 5]", ("f32[4, B, 6]",),
                    _weights(3, 5, 6, layers=2, directions=2), layers=2, bidirectional=True, batch_first=True),
    _recurrent_case("gru", "no-bias", "f32[T, B, 5]", ("f32[1, B, 6]",), _weights(3, 5, 6, bias=False), bias=False),
    _recurrent_case("rnn", "tanh", "f32[B, T, 5]", ("f32[2, B, 6]",), _weights(1, 5, 6, layers=2), layers=2,
                    batch_first=True, nonlinearity="tanh"),
    _recurrent_case("rnn", "relu", "f32[T, B, 5]", ("f32[2, B, 6]",), _weights(1, 5, 6, directions=2),
                    bidirectional=True, nonlinearity="relu"),
]

CASES = [*_LINEAR, *_ATTENTION, *_NORM, *_RECURRENT]

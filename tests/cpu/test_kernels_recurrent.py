"""recurrent.hpp against torch.nn.LSTM, GRU and RNN, and with int8 weights against a loop in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_harness import each_isa, load, ptr

CELLS = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
FLOATS, BYTE_WEIGHTS, BYTES = 0, 1, 2


def array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def make(cell: str, inputs: int, hidden: int, bias: bool, both: bool, first: bool, size: int = 0) -> torch.nn.RNNBase:
    torch.manual_seed(0)
    options = {"bias": bias, "bidirectional": both, "batch_first": first}
    if cell == "lstm":
        return torch.nn.LSTM(inputs, hidden, proj_size=size, **options)
    if cell == "gru":
        return torch.nn.GRU(inputs, hidden, **options)
    return torch.nn.RNN(inputs, hidden, nonlinearity=cell, **options)


def run(
    isa: str, cell: str, mode: int, gx: np.ndarray, out: np.ndarray, w_hh: np.ndarray, *, first: bool = False,
    scales: np.ndarray | None = None, w_hr: np.ndarray | None = None, hr_scales: np.ndarray | None = None,
    bias: np.ndarray | None = None, h0: np.ndarray | None = None, c0: np.ndarray | None = None, reverse: bool = False,
    threads: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """One direction. gx[steps, batch, gates * hidden] and out likewise, or batch first. Returns the last states."""
    order = (1, 0) if first else (0, 1)
    (steps, batch), hidden = (gx.shape[d] for d in order), gx.shape[2] // CELLS[cell]
    size = w_hh.shape[1]
    sizes = [
        steps, batch, hidden, *(gx.strides[d] // 4 for d in order), *(out.strides[d] // 4 for d in order), reverse,
        threads, size,
    ]
    h_last, c_last = np.full((batch, size), np.nan, np.float32), np.full((batch, hidden), np.nan, np.float32)
    load("recurrent_driver", isa).layer(
        list(CELLS).index(cell), mode, ptr(np.array(sizes, np.int64)), ptr(gx), ptr(w_hh), ptr(scales), ptr(w_hr),
        ptr(hr_scales), ptr(bias), ptr(h0), ptr(c0), ptr(out), ptr(h_last), ptr(c_last),
    )
    return h_last, c_last


@each_isa
@pytest.mark.parametrize("cell", [*CELLS, "projected"])
@pytest.mark.parametrize(
    "steps, batch, hidden", [(1, 1, 1), (7, 1, 40), (5, 6, 33), (3, 9, 16), (4, 0, 8), (6, 2, 100)]
)
@pytest.mark.parametrize("start", [False, True])
def test_layer_matches_torch(isa: str, cell: str, steps: int, batch: int, hidden: int, start: bool) -> None:
    """Both directions, batch first with a state and bias, time first without."""
    size = hidden
    if cell == "projected":
        cell, hidden = "lstm", max(2, hidden)
        size = max(1, hidden // 3)
    both = 2
    model = make(cell, 12, hidden, start, True, start, 0 if size == hidden else size).eval()
    x = torch.randn(batch, steps, 12) if start else torch.randn(steps, batch, 12)
    h0, c0 = torch.randn(both, batch, size), torch.randn(both, batch, hidden)
    state = ((h0, c0) if cell == "lstm" else h0) if start else None
    if batch == 0:
        want, last = torch.zeros(*x.shape[:2], both * size), (h0, c0) if cell == "lstm" else h0
    else:
        with torch.inference_mode():
            want, last = model(x, state)
    out = np.full(want.shape, np.nan, np.float32)
    for direction in range(both):
        suffix = "_l0" + "_reverse" * direction
        projected = x @ getattr(model, "weight_ih" + suffix).T
        if start:
            projected = projected + getattr(model, "bias_ih" + suffix)
        h_last, c_last = run(
            isa, cell, FLOATS, array(projected), out[:, :, direction * size : (direction + 1) * size],
            array(getattr(model, "weight_hh" + suffix)), first=start, reverse=bool(direction),
            bias=array(getattr(model, "bias_hh" + suffix)) if start else None,
            w_hr=array(getattr(model, "weight_hr" + suffix)) if size != hidden else None,
            h0=array(h0[direction]) if start else None, c0=array(c0[direction]) if start else None,
        )
        h = last[0] if cell == "lstm" else last
        np.testing.assert_allclose(h_last, array(h[direction]), rtol=1e-5, atol=2e-6)
        if cell == "lstm":
            np.testing.assert_allclose(c_last, array(last[1][direction]), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(out, array(want), rtol=1e-5, atol=2e-6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def product(h: np.ndarray, weight: np.ndarray, scales: np.ndarray, mode: int) -> np.ndarray:
    """Rows times int8 weights; with rounded rows exactly as the kernel rounds them."""
    if mode == BYTES:
        scale = np.abs(h).max(1, keepdims=True) / np.float32(127)
        scale = np.where(scale == 0, np.float32(1), scale)
        return np.rint(h * (1 / scale)).astype(np.float64) @ weight.T.astype(np.float64) * (scale * scales)
    return h @ (weight * scales[:, None]).T


def loop(
    cell: str, mode: int, gx: np.ndarray, h: np.ndarray, c: np.ndarray, weights: list[np.ndarray], bias: np.ndarray
) -> np.ndarray:
    """States of all steps. weights: recurrent weights and their scales, and those of the projection if there is one."""
    outs = []
    for x in gx:
        s = product(h.astype(np.float32), weights[0], weights[1], mode) + bias
        if cell == "lstm":
            i, f, g, o = np.split(x + s, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            if len(weights) > 2:
                h = product(h.astype(np.float32), weights[2], weights[3], mode)
        elif cell == "gru":
            (xr, xz, xn), (sr, sz, sn) = np.split(x, 3, axis=1), np.split(s, 3, axis=1)
            z = sigmoid(xz + sz)
            h = (1 - z) * np.tanh(xn + sigmoid(xr + sr) * sn) + z * h
        else:
            h = np.tanh(x + s)
        outs.append(h)
    return np.stack(outs)


@each_isa
@pytest.mark.parametrize("mode", [BYTE_WEIGHTS, BYTES])
@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", "projected"])
@pytest.mark.parametrize("steps, batch, hidden", [(1, 1, 3), (9, 1, 41), (5, 7, 32), (4, 13, 70)])
def test_int8_weights(isa: str, mode: int, cell: str, steps: int, batch: int, hidden: int) -> None:
    rng = np.random.default_rng(1)
    size = hidden
    if cell == "projected":
        cell, size = "lstm", max(1, hidden // 2)
    rows = CELLS[cell] * hidden

    def matrix(n: int, k: int) -> list[np.ndarray]:
        return [rng.integers(-127, 128, (n, k)).astype(np.int8), rng.uniform(0.5, 1, n).astype(np.float32) / (120 * k**0.5)]

    weights = matrix(rows, size) + (matrix(size, hidden) if size != hidden else [])
    gx, bias, h0, c0 = (
        rng.standard_normal(s).astype(np.float32) for s in ((steps, batch, rows), rows, (batch, size), (batch, hidden))
    )
    projection = dict(zip(("w_hr", "hr_scales"), weights[2:]))
    out = np.full((steps, batch, size), np.nan, np.float32)
    h_last, _ = run(isa, cell, mode, gx, out, weights[0], scales=weights[1], bias=bias, h0=h0, c0=c0, **projection)
    want = loop(cell, mode, gx, h0, c0, weights, bias)
    # A state next to the middle between two bytes may round the other way: one byte more or less, once in a while.
    np.testing.assert_allclose(out, want, atol=2e-2 if mode == BYTES else 1e-5)
    assert np.abs(out - want).mean() < (2e-4 if mode == BYTES else 1e-6)
    np.testing.assert_array_equal(h_last, out[-1])
    one = np.full_like(out, np.nan)
    run(isa, cell, mode, gx, one, weights[0], scales=weights[1], bias=bias, h0=h0, c0=c0, threads=1, **projection)
    np.testing.assert_allclose(one, out, rtol=0, atol=0 if mode == BYTES else 1e-5)


@each_isa
def test_nan_in_a_state_reaches_the_results_of_its_row(isa: str) -> None:
    rng = np.random.default_rng(2)
    weights, scales = rng.integers(-127, 128, (64, 16)).astype(np.int8), np.full(64, 0.01, np.float32)
    h0 = rng.standard_normal((3, 16)).astype(np.float32)
    h0[1, 5] = np.nan
    out = np.zeros((2, 3, 16), np.float32)
    run(isa, "lstm", BYTES, np.zeros((2, 3, 64), np.float32), out, weights, scales=scales, h0=h0, c0=np.zeros_like(h0))
    assert np.isnan(out[:, 1]).all() and np.isfinite(out[:, ::2]).all()

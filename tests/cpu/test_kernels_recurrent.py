"""recurrent.hpp against torch.nn.LSTM, GRU and RNN."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from kernel_harness import each_isa, i64, load, ptr

CELLS = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


def array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def make(cell: str, inputs: int, hidden: int, bias: bool, both: bool, first: bool) -> torch.nn.RNNBase:
    torch.manual_seed(0)
    options = {"bias": bias, "bidirectional": both, "batch_first": first}
    if cell == "lstm":
        return torch.nn.LSTM(inputs, hidden, **options)
    if cell == "gru":
        return torch.nn.GRU(inputs, hidden, **options)
    return torch.nn.RNN(inputs, hidden, nonlinearity=cell, **options)


@each_isa
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "steps, batch, hidden", [(1, 1, 1), (7, 1, 40), (5, 6, 33), (3, 9, 16), (4, 0, 8), (6, 2, 100)]
)
@pytest.mark.parametrize("start", [False, True])
def test_layer_matches_torch(isa: str, cell: str, steps: int, batch: int, hidden: int, start: bool) -> None:
    """Both directions, batch first with a state and bias, time first without."""
    gates, both = CELLS[cell], 2
    if batch == 0:
        return check_empty_batch(isa, cell, steps, hidden)
    model = make(cell, 12, hidden, start, True, start).eval()
    x = torch.randn(batch, steps, 12) if start else torch.randn(steps, batch, 12)
    h0, c0 = torch.randn(both, batch, hidden), torch.randn(both, batch, hidden)
    state = ((h0, c0) if cell == "lstm" else h0) if start else None
    with torch.inference_mode():
        want, last = model(x, state)
    out = np.full(want.shape, np.nan, np.float32)
    order = (1, 0) if start else (0, 1)
    out_steps = [out.strides[d] // 4 for d in order]
    lib = load("recurrent_driver", isa)
    lib.packed_size.restype = ctypes.c_int64
    packed = np.empty(lib.packed_size(*i64(gates, hidden)), np.float32)
    for direction in range(both):
        suffix = "_l0" + "_reverse" * direction
        w_ih, w_hh = getattr(model, "weight_ih" + suffix), getattr(model, "weight_hh" + suffix)
        projected = x @ w_ih.T
        bias = None
        if start:
            projected = projected + getattr(model, "bias_ih" + suffix)
            bias = array(getattr(model, "bias_hh" + suffix))
        gx = array(projected)
        h_last, c_last, cells = (np.empty((batch, hidden), np.float32) for _ in range(3))
        sizes = [steps, batch, hidden, *(gx.strides[d] // 4 for d in order), *out_steps, direction, 2]
        first = ptr(array(h0[direction])) if start else None
        first_c = ptr(array(c0[direction])) if start else None
        half = out[:, :, direction * hidden :]
        lib.layer_f32(
            list(CELLS).index(cell),
            ptr(np.array(sizes, np.int64)),
            ptr(gx),
            ptr(array(w_hh)),
            ptr(packed),
            ptr(bias),
            first,
            first_c,
            ptr(half),
            ptr(h_last),
            ptr(c_last),
            ptr(cells),
        )
        h = last[0] if cell == "lstm" else last
        np.testing.assert_allclose(h_last, array(h[direction]), rtol=1e-5, atol=2e-6)
        if cell == "lstm":
            np.testing.assert_allclose(c_last, array(last[1][direction]), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(out, array(want), rtol=1e-5, atol=2e-6)
    return None


def check_empty_batch(isa: str, cell: str, steps: int, hidden: int) -> None:
    lib = load("recurrent_driver", isa)
    w_hh, gates = np.ones((CELLS[cell] * hidden, hidden), np.float32), CELLS[cell]
    lib.packed_size.restype = ctypes.c_int64
    packed, empty = np.empty(lib.packed_size(*i64(gates, hidden)), np.float32), np.empty(0, np.float32)
    sizes = np.array([steps, 0, hidden, 0, gates * hidden, 0, hidden, 0, 2], np.int64)
    lib.layer_f32(
        list(CELLS).index(cell), ptr(sizes), ptr(empty), ptr(w_hh), ptr(packed), *[None] * 3, *[ptr(empty)] * 4
    )
    assert packed.sum() == w_hh.size

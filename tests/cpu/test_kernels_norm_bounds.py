"""The error bounds that softmax.hpp and norm.hpp state, on rows that are hard to sum."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import each_isa, i64, load, ptr
from test_kernels_norm import norm, softmax

UNIT = 2.0**-24
LANES = {"avx512": 16, "avx2": 8, "portable": 4}
COLUMN = 256
"""Terms of a column that are added in float."""
_SECOND_ORDER = 1.001
"""The bounds are to first order."""


def depth(isa: str, *, four: bool = False) -> int:
    """kSumDepth of lanes.hpp, kFourDepth of norm.hpp."""
    lanes = LANES[isa]
    levels = lanes.bit_length() - 1
    return 512 // lanes - 1 + levels if four else 31 + 64 // lanes - 1 + levels


def hard_rows(n: int) -> np.ndarray:
    """Rows whose mean is large against their deviations, whose terms cancel, that hold one outlier, are all alike, tiny, or
    all of one sign."""
    rng = np.random.default_rng(n)
    noise = rng.standard_normal((8, n))
    rows = np.stack([
        noise[0] + 1e4, noise[1] * 1e-3 + 30.0, noise[2] * 10.0 ** rng.integers(-6, 7, n), np.full(n, 0.1),
        noise[4] * 1e-20, np.abs(noise[5]) + 1.0, np.where(np.arange(n) % 2, 1e6, -1e6) + noise[6], noise[7],
    ])
    rows[7, n // 2] = 1e5
    return rows.astype(np.float32)


def within(got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> None:
    excess = np.abs(got.astype(np.float64) - want) - _SECOND_ORDER * bound
    assert (excess <= 0).all(), f"{float(excess.max()):.3g} over the bound at {np.argwhere(excess > 0)[:4].tolist()}"


def moments(x: np.ndarray, eps: float, axis: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The exact mean and scale, and the mean magnitude."""
    mean = x.mean(axis, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis, keepdims=True)
    return mean, 1.0 / np.sqrt(variance + float(np.float32(eps))), np.abs(x).mean(axis, keepdims=True)


def layer_bound(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float, axis: tuple[int, ...], d: int
) -> tuple[np.ndarray, np.ndarray]:
    """The exact result and the bound of norm.hpp."""
    mean, r, magnitude = moments(x, eps, axis)
    off = (d + 1) * UNIT * magnitude
    want = (x - mean) * r * weight + bias
    scale = (d + 15) / 2 * UNIT + (off * r) ** 2 / 2
    return want, np.abs(weight) * r * (off + np.abs(x - mean) * scale) + UNIT * np.abs(want)


@each_isa
@pytest.mark.parametrize("n", [1, 5, 64, 384, 5000])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_layer_and_rms_norm_stay_within_their_bounds(isa: str, n: int, eps: float) -> None:
    x, rng = hard_rows(n), np.random.default_rng(0)
    weight, bias = (rng.standard_normal(n).astype(np.float32) * 3 for _ in range(2))
    d = max(depth(isa), depth(isa, four=True))
    exact = x.astype(np.float64)
    want, bound = layer_bound(exact, weight.astype(np.float64), bias.astype(np.float64), eps, (1,), d)
    within(norm(isa, "layer", x, weight, bias, (8, 0, n, 0), eps), want, bound)
    rms = exact / np.sqrt((exact**2).mean(1, keepdims=True) + float(np.float32(eps))) * weight
    within(norm(isa, "rms", x, weight, None, (8, 0, n, 0), eps), rms, (depth(isa) + 13) / 2 * UNIT * np.abs(rms) + 2.0**-126)


@each_isa
def test_group_and_batch_norm_stay_within_their_bounds(isa: str) -> None:
    x = hard_rows(360).reshape(2, 4, 12, 30).transpose(0, 2, 1, 3).reshape(2, 12, 120).copy()
    rng = np.random.default_rng(0)
    weight, bias = (rng.standard_normal(12).astype(np.float32) * 3 for _ in range(2))
    wide = x.astype(np.float64).reshape(2, 3, 4, 120)
    spread = [v.astype(np.float64).reshape(1, 3, 4, 1) for v in (weight, bias)]
    want, bound = layer_bound(wide, spread[0], spread[1], 1e-5, (2, 3), depth(isa))
    got = norm(isa, "group", x, weight, bias, (2, 12, 120, 3), 1e-5)
    within(got.reshape(wide.shape), want, bound)
    last = np.ascontiguousarray(x.transpose(0, 2, 1))
    got = norm(isa, "group_last", last, weight, bias, (2, 12, 120, 3), 1e-5).transpose(0, 2, 1)
    _, bound = layer_bound(wide, spread[0], spread[1], 1e-5, (2, 3), COLUMN)
    within(got.reshape(wide.shape), want, bound)

    mean, variance = (x.mean((0, 2)) * np.float32(1.5)).astype(np.float32), np.abs(x[0, :, 0]) * np.float32(1e-3)
    y = np.empty_like(x)
    given = [np.ascontiguousarray(v, np.float32) for v in (mean, variance, weight, bias)]
    load("norm_driver", isa).batch_norm_f32(
        2, ptr(x), ptr(y), *(ptr(v) for v in given), *i64(2, 12, 120), ctypes.c_float(1e-5)
    )
    m, v, w, b = (a.astype(np.float64)[:, None] for a in given)
    scale = w / np.sqrt(v + float(np.float32(1e-5)))
    wide = x.astype(np.float64)
    within(y, (wide - m) * scale + b, 7 * UNIT * (np.abs(wide) + np.abs(m)) * np.abs(scale) + 2 * UNIT * np.abs(b))


def scores(n: int, inner: int) -> np.ndarray:
    """Rows of equal, falling, far and few large scores."""
    rng = np.random.default_rng(n)
    rows = np.stack([
        rng.standard_normal(n) * 3, np.zeros(n), -np.linspace(0, 80, n), rng.standard_normal(n) + 1e4,
        np.where(rng.random(n) < 0.01, 40.0, -40.0), rng.standard_normal(n) * 1e-3,
    ]).astype(np.float32)
    return np.ascontiguousarray(np.repeat(rows[:, :, None], inner, 2))


@each_isa
@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("n", [1, 7, 197, 5000])
def test_softmax_stays_within_its_bounds(isa: str, n: int, inner: int) -> None:
    x = scores(n, inner)
    d = depth(isa) if inner == 1 else COLUMN
    wide = x.astype(np.float64)
    top = wide.max(1, keepdims=True)
    t = top - wide
    total = np.exp(-t).sum(1, keepdims=True)
    want = np.exp(-t) / total
    within(softmax(isa, "softmax", x), want, UNIT * (t + np.log(n) + d + 11) * want + 2.0**-126)
    want = -t - np.log(total)
    within(softmax(isa, "log_softmax", x), want, UNIT * (t + 5 * np.log(n) + d + 5 + np.abs(want)))
    want = (top + np.log(total))[:, 0]
    within(softmax(isa, "logsumexp", x), want, UNIT * (5 * np.log(n) + d + 5 + np.abs(want)))

"""gemm_pair.hpp against numpy, on every instruction set."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import each_byte_isa, each_isa, i64, load, ptr

SHAPES = [
    (1, 40, 8, 70), (3, 37, 5, 33), (16, 64, 16, 32), (57, 100, 24, 45), (61, 33, 1, 1), (130, 70, 33, 65),
    (700, 17, 6, 9), (300, 8, 300, 5), (40, 9, 1100, 3), (0, 8, 4, 8), (7, 0, 4, 8), (7, 8, 0, 8), (7, 8, 4, 0),
]  # fmt: skip
"""Rows, inputs, rank, outputs: columns or rows divided, one block of rows or more."""
THREADS = (1, 2, 3)


@each_isa
def test_float_pairs_over_ragged_shapes(isa: str) -> None:
    lib = load("pair_driver", isa)
    rng = np.random.default_rng(3)
    for m, k, r, n in SHAPES:
        a, v, u = (rng.standard_normal(s).astype(np.float32) for s in ((m, k + 3), (r, k), (n, r)))
        inner, bias = rng.standard_normal(r).astype(np.float32), rng.standard_normal(n).astype(np.float32)
        want = (a[:, :k].astype(np.float64) @ v.T.astype(np.float64) + inner) @ u.T.astype(np.float64) + bias
        size = np.abs(a[:, :k]).astype(np.float64) @ np.abs(v).T @ np.abs(u).T + np.abs(inner) @ np.abs(u).T
        for threads in THREADS:
            got = np.full((m, n), np.nan, dtype=np.float32)
            rest = (ptr(inner), ptr(u), *i64(m, k, r, n), ptr(bias), ptr(got))
            lib.pair_f32(threads, ptr(a), *i64(k + 3), ptr(v), *rest)
            assert np.all(np.abs(got - want) <= 2e-6 * (size + np.abs(want) + 1))


@each_isa
def test_float_pairs_propagate_nan_and_infinity(isa: str) -> None:
    lib = load("pair_driver", isa)
    rng = np.random.default_rng(4)
    a, v, u = (np.abs(rng.standard_normal(s)).astype(np.float32) for s in ((70, 20), (8, 20), (33, 8)))
    a[3, 4], a[60, 1] = np.nan, np.inf
    got = np.empty((70, 33), dtype=np.float32)
    lib.pair_f32(2, ptr(a), *i64(20), ptr(v), None, ptr(u), *i64(70, 20, 8, 33), None, ptr(got))
    assert np.isnan(got[3]).all() and np.isinf(got[60]).all()
    assert np.isfinite(np.delete(got, (3, 60), axis=0)).all()


@each_byte_isa
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("each_row", [False, True])
def test_int8_pairs_with_one_middle_scale(isa: str, signed: bool, each_row: bool) -> None:
    """Scales are powers of two, and the bias keeps the middle off ties: its bytes and the result are exact."""
    lib = load("pair_driver", isa)
    run = lib.pair_s8_s8 if signed else lib.pair_u8_u8
    low, zero = (-128, 7) if signed else (0, 101)
    rng = np.random.default_rng(5)
    for m, k, r, n in SHAPES:
        a, v, u = _bytes(rng, m, k, r, n, low)
        row_zero = rng.integers(low, low + 256, max(m, 1)).astype(np.int32)
        row_scale = np.exp2(rng.integers(-2, 2, max(m, 1))).astype(np.float32)
        scales = row_scale[:m, None] if each_row else row_scale[0]
        zeros = row_zero[:m, None] if each_row else row_zero[0]
        v_scale, u_scale = (np.exp2(rng.integers(-8, -4, max(c, 1))).astype(np.float32) for c in (r, n))
        inner, bias = (rng.integers(-9, 9, max(c, 1)).astype(np.float32) for c in (r, n))
        inner += np.float32(2.0**-11)
        sums = (a.astype(np.int64) - zeros) @ v.T.astype(np.int64)
        middle = sums * (scales * v_scale[:r].astype(np.float64)) + inner[:r]
        coded = np.clip(np.rint(middle / 8.0) + zero, low, low + 255).astype(np.int64)
        want = ((coded - zero) @ u.T.astype(np.int64)) * (8.0 * u_scale[:n].astype(np.float64)) + bias[:n]
        for threads in THREADS:
            got = np.full((m, n), np.nan, dtype=np.float32)
            run(threads, ptr(a), ptr(v), ptr(u), *i64(m, k, r, n), ptr(row_scale), ptr(row_zero), int(each_row),
                ptr(v_scale), ptr(u_scale), ptr(inner), ctypes.c_float(8.0), zero, 0, ptr(bias), ptr(got))
            np.testing.assert_array_equal(got, want.astype(np.float32))


@each_byte_isa
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_int8_pairs_with_middle_scales_per_row(isa: str, signed: bool, symmetric: bool) -> None:
    lib = load("pair_driver", isa)
    run = lib.pair_s8_s8 if signed else lib.pair_u8_u8
    low = -128 if signed else 0
    rng = np.random.default_rng(6)
    one, none = np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.int32)
    for m, k, r, n in SHAPES:
        a, v, u = _bytes(rng, m, k, r, n, low)
        ones = np.ones(max(r, n, 1), dtype=np.float32)
        middle = a.astype(np.int64) @ v.T.astype(np.int64)
        least, most = (f(middle, axis=1, initial=0) for f in (np.min, np.max)) if m else (none, none)
        span = np.maximum(most, -least) / 127 if symmetric else (most - least) / 255
        want = middle @ u.T.astype(np.int64)
        # Each byte is off by half a step, and by half a step more where its zero point is rounded.
        allowed = 1.01 * np.where(span > 0, span, 1)[:m, None] * np.abs(u.astype(np.int64)).sum(axis=1)
        for threads in THREADS:
            got = np.full((m, n), np.nan, dtype=np.float32)
            run(threads, ptr(a), ptr(v), ptr(u), *i64(m, k, r, n), ptr(one), ptr(none), 0, ptr(ones), ptr(ones), None,
                ctypes.c_float(0.0), 0, int(symmetric), None, ptr(got))
            assert np.all(np.abs(got - want) <= allowed + 1e-5 * np.abs(want))


def _bytes(rng: np.random.Generator, m: int, k: int, r: int, n: int, low: int) -> tuple[np.ndarray, ...]:
    """Rows of activations, and both weights."""
    a = rng.integers(low, low + 256, (m, k)).astype(np.int8 if low < 0 else np.uint8)
    return a, rng.integers(-127, 128, (r, k)).astype(np.int8), rng.integers(-127, 128, (n, r)).astype(np.int8)

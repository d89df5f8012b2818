"""fft.hpp, complex.hpp, rope.hpp, and the median, multinomial, erfinv and digamma functions."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from kernel_harness import each_isa, i64, load, ptr


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_complex(*shape: int, seed: int = 0) -> np.ndarray:
    return (random(*shape, seed=seed) + 1j * random(*shape, seed=seed + 1)).astype(np.complex64)


@each_isa
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 12, 30, 49, 97, 128, 400, 1000])
def test_fourier_transforms(isa: str, n: int) -> None:
    run = load("signal_driver", isa).fft_c64
    for outer, inner in [(3, 1), (2, 5), (0, 1)]:
        x, y = random_complex(outer, n, inner), np.empty((outer, n, inner), np.complex64)
        run(0, 2, ptr(x), ptr(y), *i64(outer, n, inner), ctypes.c_float(1))
        tolerance = {"rtol": 1e-5, "atol": 1e-6 * n**0.5 * 4}
        np.testing.assert_allclose(y, np.fft.fft(x, axis=1), **tolerance)
        run(1, 2, ptr(x), ptr(y), *i64(outer, n, inner), ctypes.c_float(1 / n))
        np.testing.assert_allclose(y, np.fft.ifft(x, axis=1), **tolerance)
        real, half = random(outer, n, inner), np.empty((outer, n // 2 + 1, inner), np.complex64)
        run(2, 2, ptr(real), ptr(half), *i64(outer, n, inner), ctypes.c_float(n**-0.5))
        np.testing.assert_allclose(half, np.fft.rfft(real, axis=1, norm="ortho"), **tolerance)
        back = np.empty_like(real)
        run(3, 2, ptr(half), ptr(back), *i64(outer, n, inner), ctypes.c_float(n**-0.5))
        np.testing.assert_allclose(back, real, **tolerance)


@each_isa
def test_complex_arithmetic(isa: str) -> None:
    a, b = random_complex(500), random_complex(500, seed=5)
    b[:3] = [1e30 + 1e30j, 1e-30j, 1e-30]
    want = [a + b, a * b, a.astype(np.complex128) / b, np.exp(a), np.log(a), np.abs(a) + 1j * np.angle(a)]
    for kind, expected in enumerate(want):
        y = np.empty_like(a)
        load("signal_driver", isa).complex_binary(kind, ptr(a), ptr(b), ptr(y), *i64(500))
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=1e-6)


@each_isa
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [2, 6, 64])
def test_rope(isa: str, interleaved: bool, dim: int) -> None:
    x = random(2, 7, 3, dim).transpose(0, 2, 1, 3)
    cos, sin = random(7, dim, seed=1), random(7, dim, seed=2)
    y = np.empty(x.shape, np.float32)
    strides = [
        s // 4
        for array in (x, np.broadcast_to(cos, x.shape), np.broadcast_to(sin, x.shape), y)
        for s in array.strides[:3]
    ]
    args = np.array([*x.shape, *strides, int(interleaved)], np.int64)
    load("signal_driver", isa).rope_f32(2, ptr(args), ptr(x), ptr(cos), ptr(sin), ptr(y))
    if interleaved:
        turned = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    else:
        turned = np.concatenate([-x[..., dim // 2 :], x[..., : dim // 2]], -1)
    np.testing.assert_allclose(y, x * cos + turned * sin, rtol=1e-5, atol=1e-6)


@each_isa
def test_special_functions(isa: str) -> None:
    edge = np.concatenate([np.linspace(-1, 1, 2001), [1 - 1e-7, -1 + 1e-9, 1e-30, 1.5, np.nan]])
    wide = np.concatenate([np.linspace(-20.003, 40, 3001), [0.0, -0.0, -3.0, 1e-5, 1e10, np.inf, np.nan]])
    for kind, x, function in ((0, edge, torch.erfinv), (1, wide, torch.digamma)):
        y = np.empty_like(x)
        load("signal_driver", isa).special_f64(kind, ptr(x), ptr(y), *i64(x.size))
        np.testing.assert_allclose(y, function(torch.from_numpy(x)).numpy(), rtol=1e-6, atol=1e-9)


@each_isa
def test_median(isa: str) -> None:
    for shape in [(5, 7, 1), (3, 10, 4), (2, 1, 2)]:
        x = np.round(random(*shape), 1)
        x[0, 0, 0] = np.nan if shape[1] > 1 else 1
        values, indices = np.empty((shape[0], shape[2]), np.float32), np.empty((shape[0], shape[2]), np.int64)
        load("signal_driver", isa).median_f32(ptr(x), ptr(values), ptr(indices), *i64(*shape))
        np.testing.assert_array_equal(values, torch.from_numpy(x).median(1).values.numpy())
        np.testing.assert_array_equal(np.take_along_axis(x, indices[:, None], 1)[:, 0], values)


@each_isa
def test_multinomial(isa: str) -> None:
    p = np.array([[1, 2, 0, 5], [0, 0, 3, 0]], np.float32)
    run, fault = load("signal_driver", isa).multinomial_f32, np.zeros(1, np.int32)
    y = np.empty((2, 20000), np.int64)
    run(ptr(p), ptr(y), *i64(2, 4, 20000), 1, ctypes.c_uint64(3), ptr(fault))
    np.testing.assert_allclose(np.bincount(y[0], minlength=4) / 20000, p[0] / 8, atol=0.02)
    assert (y[1] == 2).all()
    assert fault[0] == 0
    y = np.empty((1, 3), np.int64)
    for seed in range(20):
        run(ptr(p), ptr(y), *i64(1, 4, 3), 0, ctypes.c_uint64(seed), ptr(fault))
        assert sorted(y[0]) == [0, 1, 3]
    assert fault[0] == 0
    for bad in ([[1.0, -1, 2, 3]], [[np.nan, 1, 1, 1]], [[0.0, 0, 1, 1]]):
        fault[0] = 0
        run(ptr(np.array(bad, np.float32)), ptr(y), *i64(1, 4, 3), 0, ctypes.c_uint64(0), ptr(fault))
        assert fault[0] == 7

"""softmax.hpp and norm.hpp against torch in float64."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_harness import each_isa, from_bf16, i64, load, ptr, to_bf16

SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64", np.dtype(np.uint16): "bf16"}
SOFTMAX = {"softmax": 0, "log_softmax": 1, "logsumexp": 2}
NORM = {"layer": 0, "rms": 1, "group": 2, "group_last": 3}
SHAPES = [(1, 1, 1), (3, 7, 1), (5, 64, 1), (2, 197, 1), (1, 5000, 1), (2, 9, 3), (3, 40, 70), (0, 4, 1), (2, 3, 0)]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 3


def softmax(isa: str, kind: str, x: np.ndarray) -> np.ndarray:
    outer, n, inner = x.shape
    y = np.empty((outer, inner) if kind == "logsumexp" else x.shape, x.dtype)
    load("norm_driver", isa)[f"softmax_{SUFFIX[x.dtype]}"](SOFTMAX[kind], 2, ptr(x), ptr(y), *i64(outer, n, inner))
    return y


def softmax_reference(kind: str, x: np.ndarray) -> np.ndarray:
    t = torch.from_numpy(x).double()
    function = {"softmax": torch.softmax, "log_softmax": torch.log_softmax, "logsumexp": torch.logsumexp}[kind]
    return function(t, 1).numpy()


@each_isa
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SOFTMAX)
def test_softmax_matches_torch(isa: str, kind: str, shape: tuple[int, int, int]) -> None:
    x = random(*shape)
    np.testing.assert_allclose(softmax(isa, kind, x), softmax_reference(kind, x), rtol=3e-6, atol=1e-6)
    exact = softmax(isa, kind, x.astype(np.float64))
    np.testing.assert_allclose(exact, softmax_reference(kind, x), rtol=1e-12, atol=1e-12)
    if kind != "softmax":
        return
    rounded = to_bf16(x)
    np.testing.assert_allclose(
        from_bf16(softmax(isa, kind, rounded)), softmax_reference(kind, from_bf16(rounded)), rtol=1e-2, atol=1e-2
    )


@each_isa
@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("kind", SOFTMAX)
def test_softmax_limits(isa: str, kind: str, inner: int) -> None:
    """Masked, infinite and NaN rows, and scores that overflow exp without the shift."""
    inf, nan = np.inf, np.nan
    rows = [
        [-inf] * 5,
        [0, -inf, 1, -inf, 2],
        [inf, 0, 1, 2, 3],
        [nan, 0, 1, 2, 3],
        [0, 1, nan, -inf, 2],
        [1e4, 1e4 - 1, 0, -1e4, -3e38],
    ]
    x = np.ascontiguousarray(np.repeat(np.array(rows, np.float32)[:, :, None], inner, 2))
    np.testing.assert_allclose(softmax(isa, kind, x), softmax_reference(kind, x), rtol=2e-6, atol=1e-30)


def norm(
    isa: str,
    kind: str,
    x: np.ndarray,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    sizes: tuple[int, ...],
    eps: float,
) -> np.ndarray:
    y = np.empty_like(x)
    load("norm_driver", isa).norm_f32(
        NORM[kind], 2, ptr(x), ptr(y), ptr(weight), ptr(bias), *i64(*sizes), ctypes.c_float(eps)
    )
    return y


@each_isa
@pytest.mark.parametrize("n", [1, 5, 64, 384, 5000])
@pytest.mark.parametrize("affine", ["none", "weight", "bias", "both"])
def test_layer_and_rms_norm(isa: str, n: int, affine: str) -> None:
    x = random(7, n) + 10
    weight = random(n, seed=1) if affine in ("weight", "both") else None
    bias = random(n, seed=2) if affine in ("bias", "both") else None
    t, wt, bt = (None if v is None else torch.from_numpy(v).double() for v in (x, weight, bias))
    want = F.layer_norm(t, (n,), wt, bt, 1e-5).numpy()
    got = norm(isa, "layer", x, weight, bias, (7, 0, n, 0), 1e-5)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=5e-5)
    rms = F.rms_norm(t, (n,), wt, 1e-6).numpy()
    np.testing.assert_allclose(norm(isa, "rms", x, weight, None, (7, 0, n, 0), 1e-6), rms, rtol=3e-6, atol=3e-6)


@each_isa
def test_norm_element_types(isa: str) -> None:
    values = random(4, 100), random(100, seed=1), random(100, seed=2)
    x, weight, bias = (torch.from_numpy(v).double() for v in values)
    want = F.layer_norm(x, (100,), weight, bias, 1e-5).numpy()
    lib = load("norm_driver", isa)
    wide = [v.astype(np.float64) for v in values]
    got = np.empty((4, 100))
    lib.layer_norm_f64(ptr(wide[0]), ptr(got), ptr(wide[1]), ptr(wide[2]), *i64(4, 100))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    half = [to_bf16(v) for v in values]
    bits = np.empty((4, 100), np.uint16)
    lib.layer_norm_bf16(ptr(half[0]), ptr(bits), ptr(half[1]), ptr(half[2]), *i64(4, 100))
    np.testing.assert_allclose(from_bf16(bits), want, rtol=3e-2, atol=5e-2)


@each_isa
@pytest.mark.parametrize(
    "shape, groups", [((2, 6, 5, 7), 3), ((3, 8, 1, 1), 8), ((1, 4, 40, 41), 1), ((2, 64, 9, 3), 4), ((0, 4, 2, 2), 2)]
)
def test_group_norm_both_layouts(isa: str, shape: tuple[int, ...], groups: int) -> None:
    x, weight, bias = random(*shape), random(shape[1], seed=1), random(shape[1], seed=2)
    sizes = (shape[0], shape[1], shape[2] * shape[3], groups)
    want = F.group_norm(
        torch.from_numpy(x).double(), groups, torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), 1e-5
    ).numpy()
    np.testing.assert_allclose(norm(isa, "group", x, weight, bias, sizes, 1e-5), want, rtol=2e-5, atol=2e-5)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    got = norm(isa, "group_last", last, weight, bias, sizes, 1e-5).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@each_isa
@pytest.mark.parametrize("outer, channels, inner", [(2, 3, 50), (150, 200, 1), (1, 1, 1), (4, 0, 3), (0, 3, 4)])
def test_batch_norm(isa: str, outer: int, channels: int, inner: int) -> None:
    x, mean = random(outer, channels, inner), random(channels, seed=1)
    var, weight, bias = np.abs(random(channels, seed=2)), random(channels, seed=3), random(channels, seed=4)
    y = np.empty_like(x)
    run = load("norm_driver", isa).batch_norm_f32
    run(2, *(ptr(v) for v in (x, y, mean, var, weight, bias)), *i64(outer, channels, inner), ctypes.c_float(1e-3))
    want = (x.astype(np.float64) - mean[:, None]) / np.sqrt(var[:, None] + 1e-3) * weight[:, None] + bias[:, None]
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-4)


@each_isa
def test_norm_keeps_nan_and_infinity_in_their_row(isa: str) -> None:
    x = random(3, 33)
    x[0, 4], x[1, 2] = np.nan, np.inf
    got = norm(isa, "layer", x, None, None, (3, 0, 33, 0), 1e-5)
    assert np.isnan(got[:2]).all()
    assert np.isfinite(got[2]).all()


@each_isa
@pytest.mark.parametrize("n", [5, 64, 1000])
def test_rows_may_be_normalized_in_place(isa: str, n: int) -> None:
    lib = load("norm_driver", isa)
    for name, number in SOFTMAX.items():
        if name == "logsumexp":
            continue
        x = random(3, n, 1)
        want = softmax(isa, name, x)
        lib.softmax_f32(number, 1, ptr(x), ptr(x), *i64(3, n, 1))
        np.testing.assert_array_equal(x, want)
    x, weight = random(3, n), random(n, seed=1)
    for name in ("layer", "rms"):
        want, y = norm(isa, name, x, weight, None, (3, 0, n, 0), 1e-5), x.copy()
        lib.norm_f32(NORM[name], 1, ptr(y), ptr(y), ptr(weight), None, *i64(3, 0, n, 0), ctypes.c_float(1e-5))
        np.testing.assert_array_equal(y, want)

"""pool.hpp, pool_bytes.hpp, resize.hpp, grid_sample.hpp and random.hpp against torch."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_harness import each_isa, i64, load, ptr

KINDS = ["max", "avg", "avg_valid", "adaptive_avg", "adaptive_max"]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pool(
    isa: str,
    kind: str,
    x: np.ndarray,
    want: np.ndarray,
    window: list[tuple[int, ...]],
    last: bool,
    divisor: int = 0,
    indices: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """x and `want` (for its shape) are channels first, with any number of axes; window: kernel, stride, pad, dilation."""

    def three(values: tuple[int, ...], fill: int) -> list[int]:
        return [fill] * (3 - len(values)) + list(values)

    sizes = [*x.shape[:2], *three(x.shape[2:], 1), *three(want.shape[2:], 1)]
    for values, fill in zip(window, (1, 1, 0, 1), strict=True):
        sizes += three(values, fill)
    move = (lambda a: np.ascontiguousarray(np.moveaxis(a, 1, -1))) if last else np.ascontiguousarray
    y = np.empty_like(move(want))
    at = np.empty(y.shape, np.int64)
    args = np.array([*sizes, int(last)], np.int64)
    run = load("pool_driver", isa).pool_f32
    run(KINDS.index(kind), 2, ptr(args), ptr(move(x)), ptr(y), ptr(at) if indices else None, *i64(divisor))
    return (np.moveaxis(y, -1, 1), np.moveaxis(at, -1, 1)) if last else (y, at)


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 5, 9, 11), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1)}),
    ((1, 70, 8, 8), {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}),
    ((2, 3, 7, 7), {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}),
    ((2, 3, 10), {"kernel_size": (4,), "stride": (3,), "padding": (2,), "ceil_mode": True}),
    ((1, 4, 5, 6, 7), {"kernel_size": (2, 3, 2), "stride": (1, 2, 3), "padding": (1, 1, 0)}),
    ((0, 3, 5, 5), {"kernel_size": (2, 2), "stride": (1, 1), "padding": (0, 0)}),
]


@each_isa
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("case", range(len(WINDOWS)))
def test_max_and_average_pooling(isa: str, case: int, last: bool) -> None:
    shape, options = WINDOWS[case]
    x, rank = random(*shape), len(shape) - 2
    t, ones = torch.from_numpy(x), (1,) * rank
    window = [options["kernel_size"], options["stride"], options["padding"], ones]
    for include in (True, False):
        want = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d][rank - 1](t, **options, count_include_pad=include).numpy()
        got, _ = pool(isa, "avg" if include else "avg_valid", x, want, window, last)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for dilation in (1, 2):
        if shape[0] == 0 or (dilation == 2 and rank == 3):
            continue
        values, at = [F.max_pool1d, F.max_pool2d, F.max_pool3d][rank - 1](
            t, **options, dilation=dilation, return_indices=True
        )
        window[3] = (dilation,) * rank
        got, indices = pool(isa, "max", x, values.numpy(), window, last, indices=True)
        np.testing.assert_array_equal(got, values.numpy())
        np.testing.assert_array_equal(indices, at.numpy())
        np.testing.assert_array_equal(pool(isa, "max", x, values.numpy(), window, last)[0], values.numpy())


def pool_sizes(shape: tuple[int, ...], out: tuple[int, ...], window: list[tuple[int, ...]]) -> np.ndarray:
    """The arguments of a pooling of two axes, channels last."""
    numbers = [*shape[:2], 1, *shape[2:], 1, *out, *(v for two, fill in zip(window, (1, 1, 0, 1)) for v in (fill, *two)), 1]
    return np.array(numbers, np.int64)


@each_isa
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("channels", [1, 7, 20, 64, 150])
def test_averages_of_bytes(isa: str, dtype: type, channels: int) -> None:
    """Whole sums, so that the result is as exact as one product and one quotient."""
    lib, signed = load("pool_driver", isa), int(dtype is np.int8)
    info, scale, zero = np.iinfo(dtype), 0.037, 5 if signed else 131
    x = np.random.default_rng(0).integers(info.min, info.max, (2, channels, 9, 7), dtype=dtype, endpoint=True)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    t = (torch.from_numpy(x).double() - zero) * np.float32(scale).item()
    code = ctypes.c_float(scale), ctypes.c_int(zero)
    for include in (0, 1):
        want = F.avg_pool2d(t, (3, 2), (2, 1), (1, 1), count_include_pad=bool(include)).numpy()
        sizes = pool_sizes(x.shape, want.shape[2:], [(3, 2), (2, 1), (1, 1), (1, 1)])
        y = np.empty(np.moveaxis(want, 1, -1).shape, np.float32)
        lib.average_bytes_f32(0, signed, 2, ptr(sizes), ptr(last), *code, include, *i64(0), ptr(y))
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), want, rtol=3e-7, atol=1e-12)
        lib.average_bytes_f32(0, signed, 2, ptr(sizes), ptr(last), *code, include, *i64(4), ptr(y))
        want = F.avg_pool2d(t, (3, 2), (2, 1), (1, 1), divisor_override=4).numpy()
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), want, rtol=3e-7, atol=1e-12)
    for out in ((1, 1), (4, 3)):
        want = F.adaptive_avg_pool2d(t, out).numpy()
        sizes = pool_sizes(x.shape, out, [(1, 1), (1, 1), (0, 0), (1, 1)])
        y = np.empty(np.moveaxis(want, 1, -1).shape, np.float32)
        lib.average_bytes_f32(1, signed, 2, ptr(sizes), ptr(last), *code, 0, *i64(0), ptr(y))
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), want, rtol=3e-7, atol=1e-12)
        if signed:
            coded = np.empty(y.shape, np.uint8)
            lib.average_bytes_u8(2, ptr(sizes), ptr(last), *code, ctypes.c_float(1 / 0.02), 120, ptr(coded))
            steps = np.moveaxis(want, 1, -1) / 0.02
            assert np.abs(np.clip(steps + 120, 0, 255) - coded).max() <= 0.501


@each_isa
def test_long_averages_of_bytes_do_not_overflow(isa: str) -> None:
    """More terms than fit the 32 bits of a sum."""
    length = (1 << 23) + 3
    x = np.full(length, 255, np.uint8)
    sizes, y = pool_sizes((1, 1, 1, length), (1, 1), [(1, 1), (1, 1), (0, 0), (1, 1)]), np.empty(1, np.float32)
    run = load("pool_driver", isa).average_bytes_f32
    run(1, 0, 2, ptr(sizes), ptr(x), ctypes.c_float(0.5), ctypes.c_int(0), 0, *i64(0), ptr(y))
    np.testing.assert_allclose(y, 127.5, rtol=3e-7)


@each_isa
@pytest.mark.parametrize("last", [False, True])
def test_adaptive_pooling_divisor_and_nan(isa: str, last: bool) -> None:
    for shape, out in [
        ((2, 5, 9, 11), (4, 3)),
        ((2, 70, 7, 7), (1, 1)),
        ((1, 3, 3, 4), (5, 6)),
        ((2, 3, 10), (4,)),
        ((1, 2, 4, 5, 6), (2, 2, 4)),
    ]:
        x, rank = random(*shape), len(shape) - 2
        t, window = torch.from_numpy(x), [(1,) * rank, (1,) * rank, (0,) * rank, (1,) * rank]
        want = [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d][rank - 1](t, out).numpy()
        np.testing.assert_allclose(pool(isa, "adaptive_avg", x, want, window, last)[0], want, rtol=1e-5, atol=1e-6)
        values, at = [F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d][rank - 1](
            t, out, return_indices=True
        )
        got, indices = pool(isa, "adaptive_max", x, values.numpy(), window, last, indices=True)
        np.testing.assert_array_equal(got, values.numpy())
        np.testing.assert_array_equal(indices, at.numpy())
    x = random(2, 5, 6, 6)
    x[0, 1, 2, 3], x[1, 2, 0, 0] = np.nan, -np.inf
    window = [(3, 3), (1, 1), (1, 1), (1, 1)]
    want = F.avg_pool2d(torch.from_numpy(x), 3, 1, 1, divisor_override=5).numpy()
    np.testing.assert_allclose(pool(isa, "avg", x, want, window, last, divisor=5)[0], want, rtol=1e-5, atol=1e-6)
    values, at = F.max_pool2d(torch.from_numpy(x), 3, 1, 1, return_indices=True)
    got, indices = pool(isa, "max", x, values.numpy(), window, last, indices=True)
    np.testing.assert_array_equal(got, values.numpy())
    np.testing.assert_array_equal(indices, at.numpy())
    np.testing.assert_array_equal(pool(isa, "max", x, values.numpy(), window, last)[0], values.numpy())


@each_isa
@pytest.mark.parametrize("kind", ["u8", "i8", "f32"])
def test_vectors_of_channels(isa: str, kind: str) -> None:
    """Channels last, in every way that channels can end."""
    rng = np.random.default_rng(4)
    for channels in (1, 3, 4, 7, 16, 21, 63, 64, 100, 200, 300):
        x = rng.integers(-128, 128, (2, channels, 6, 7)).astype(np.float32)
        want = F.max_pool2d(torch.from_numpy(x), 3, 2, 1).numpy()
        if kind == "f32":
            got, _ = pool(isa, "max", x, want, [(3, 3), (2, 2), (1, 1), (1, 1)], True)
            np.testing.assert_array_equal(got, want)
            mean = F.avg_pool2d(torch.from_numpy(x), 3, 2, 1).numpy()
            got, _ = pool(isa, "avg", x, mean, [(3, 3), (2, 2), (1, 1), (1, 1)], True)
            np.testing.assert_allclose(got, mean, rtol=1e-6)
            continue
        shift, dtype = (128, np.uint8) if kind == "u8" else (0, np.int8)
        sizes = [2, channels, 1, 6, 7, 1, *want.shape[2:], 1, 3, 3, 1, 2, 2, 0, 1, 1, 1, 1, 1, 1]
        source = np.ascontiguousarray(np.moveaxis(x + shift, 1, -1)).astype(dtype)
        y = np.zeros((2, *want.shape[2:], channels), dtype)
        load("pool_driver", isa)[f"max_pool_{kind}"](2, ptr(np.array(sizes, np.int64)), ptr(source), ptr(y))
        np.testing.assert_array_equal(np.moveaxis(y, -1, 1), want + shift)


RESIZE = ["nearest", "nearest-exact", "linear", "cubic"]


@each_isa
@pytest.mark.parametrize("mode", RESIZE)
@pytest.mark.parametrize("align", [False, True])
def test_resize(isa: str, mode: str, align: bool) -> None:
    if align and mode.startswith("nearest"):
        return
    cases: list[tuple[tuple[int, ...], tuple[int, ...] | None, tuple[float, ...] | None]] = [
        ((2, 3, 7, 9), (14, 5), None),
        ((1, 3, 5, 6), None, (2.0, 1.7)),
        ((1, 2, 1, 4), (3, 1), None),
        ((2, 3, 8), (5,), None),
        ((2, 70, 4, 4), None, (0.6, 2.5)),
        ((1, 2, 3, 4, 5), (5, 2, 9), None),
    ]
    for shape, size, factors in cases:
        rank = len(shape) - 2
        if mode == "cubic" and rank != 2:
            continue
        name = (
            mode
            if mode.startswith("nearest")
            else {"linear": ["linear", "bilinear", "trilinear"][rank - 1], "cubic": "bicubic"}[mode]
        )
        x = random(*shape)
        kept = {"recompute_scale_factor": False} if factors else {}
        want = F.interpolate(
            torch.from_numpy(x),
            size=size,
            scale_factor=factors,
            mode=name,
            align_corners=None if mode.startswith("nearest") else align,
            **kept,
        ).numpy()
        sizes = [1, 1] * (3 - rank) + [n for pair in zip(shape[2:], want.shape[2:], strict=True) for n in pair]
        scale = np.array([0.0] * (3 - rank) + list(factors or (0.0,) * rank))
        args = (ptr(np.array(sizes, np.int64)), ptr(scale))
        run = load("pool_driver", isa).resize_f32
        y = np.empty(want.shape, np.float32)
        run(RESIZE.index(mode), int(align), 2, ptr(x), ptr(y), *i64(shape[0] * shape[1], 1), *args)
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5, err_msg=str((shape, size, factors)))
        last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        y = np.empty_like(np.ascontiguousarray(np.moveaxis(want, 1, -1)))
        run(RESIZE.index(mode), int(align), 2, ptr(last), ptr(y), *i64(shape[0], shape[1]), *args)
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), want, rtol=1e-4, atol=1e-5)


@each_isa
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("align", [False, True])
def test_resize_with_antialias(isa: str, mode: str, align: bool) -> None:
    name = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    for size, out in [((32, 40), (7, 13)), ((5, 6), (11, 4)), ((9, 9), (9, 9)), ((8, 1), (1, 3))]:
        x = random(2, 3, *size)
        want = F.interpolate(torch.from_numpy(x), size=out, mode=name, align_corners=align, antialias=True).numpy()
        sizes = np.array([size[0], out[0], size[1], out[1]], np.int64)
        run, y = load("pool_driver", isa).antialias_f32, np.empty(want.shape, np.float32)
        run(RESIZE.index(mode), int(align), 2, ptr(x), ptr(y), *i64(6, 1), ptr(sizes))
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
        last, y = np.ascontiguousarray(np.moveaxis(x, 1, -1)), np.empty((2, *out, 3), np.float32)
        run(RESIZE.index(mode), int(align), 2, ptr(last), ptr(y), *i64(2, 3), ptr(sizes))
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), want, rtol=1e-4, atol=1e-5)


@each_isa
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(isa: str, mode: str, padding: str, align: bool) -> None:
    x, grid = random(2, 3, 7, 9), random(2, 5, 6, 2, seed=1) * 1.2
    grid[0, 0, 0] = [1e30, -1e30] if padding != "reflection" else [4.3, -7.9]
    grid[0, 0, 1, 0] = np.inf if padding != "reflection" else 55.5
    want = F.grid_sample(torch.from_numpy(x), torch.from_numpy(grid), mode, padding, align).numpy()
    y = np.empty_like(want)
    modes, paddings = ["bilinear", "nearest", "bicubic"], ["zeros", "border", "reflection"]
    args = np.array([2, 3, 7, 9, 5, 6], np.int64)
    run = load("pool_driver", isa).grid_f32
    run(modes.index(mode), paddings.index(padding), int(align), 2, ptr(x), ptr(grid), ptr(y), ptr(args))
    usual = np.isfinite(want) & np.isfinite(y)
    usual[0, :, 0, :2] &= mode != "bicubic"
    np.testing.assert_allclose(y[usual], want[usual], rtol=1e-4, atol=2e-5)
    assert usual[:, :, 1:].all()


@each_isa
def test_random_numbers(isa: str) -> None:
    lib = load("pool_driver", isa)
    n = 200_000

    def draw(kind: int, seed: int, stream: int, threads: int, p: np.ndarray | None = None) -> np.ndarray:
        y = np.empty(n, np.float32)
        lib.random_f32(kind, threads, ptr(y), *i64(n), ctypes.c_uint64(seed), ctypes.c_uint64(stream), ptr(p))
        return y

    u = draw(0, 1, 2, 1)
    assert u.min() >= -1
    assert u.max() < 3
    np.testing.assert_allclose([u.mean(), u.var()], [1, 16 / 12], rtol=0.01)
    np.testing.assert_array_equal(u, draw(0, 1, 2, 2))
    for other in (draw(0, 2, 2, 1), draw(0, 1, 3, 1)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.01
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.01
    z = (draw(1, 7, 0, 2) - 2) / 0.5
    np.testing.assert_allclose([z.mean(), z.var(), (z**4).mean()], [0, 1, 3], atol=0.05)
    p = np.linspace(0, 1, n, dtype=np.float32)
    b = draw(2, 5, 0, 2, p)
    assert set(np.unique(b)) == {0.0, 1.0}
    np.testing.assert_allclose(b.reshape(10, -1).mean(1), p.reshape(10, -1).mean(1), atol=0.02)
    k = np.empty(n, np.int64)
    lib.random_i64(ptr(k), *i64(n), ctypes.c_uint64(3), *i64(-2, 5))
    np.testing.assert_allclose(np.bincount(k + 2) / n, np.full(7, 1 / 7), atol=0.005)

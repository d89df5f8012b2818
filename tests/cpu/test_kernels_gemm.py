"""gemm_f32.hpp, gemm_i8.hpp, matmul.hpp and quantize_rows.hpp against numpy, on every instruction set."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import each_byte_isa, each_isa, from_bf16, i64, load, ptr, to_bf16

SHAPES = [
    (1, 1, 1), (1, 32, 64), (1, 100, 37), (2, 33, 5), (3, 64, 0), (5, 17, 129), (6, 16, 8), (13, 31, 40), (14, 32, 64),
    (15, 96, 100), (29, 70, 31), (64, 48, 512), (130, 65, 1024), (0, 8, 8), (4, 0, 8),
]  # fmt: skip
THREADS = (1, 2, 3)


def matrices(m: int, n: int, k: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m * 10007 + n * 101 + k)
    return (
        rng.standard_normal((m, k)).astype(dtype),
        rng.standard_normal((n, k)).astype(dtype),
        rng.standard_normal(n).astype(dtype),
    )


def close(got: np.ndarray, want: np.ndarray, k: int, eps: float = 1.2e-7) -> None:
    """Error at most that of a sum of k products of unit normals, with room for its tail."""
    np.testing.assert_allclose(got, want, rtol=4 * eps, atol=eps * (8 + 4 * k))


@each_isa
def test_float_gemm_over_ragged_shapes(isa: str) -> None:
    lib = load("gemm_driver", isa)
    for index, (m, n, k) in enumerate(SHAPES):
        a, weight, bias = matrices(m, n, k)
        want = a.astype(np.float64) @ weight.T.astype(np.float64) + bias
        got = np.full((m, n), np.nan, dtype=np.float32)
        lib.gemm_float(THREADS[index % 3], ptr(a), *i64(k), ptr(weight), *i64(k, 1, m, n, k), ptr(bias), ptr(got))
        close(got, want, k)
        transposed = np.ascontiguousarray(weight.T)
        wide = np.full((m, k + 3), 7.0, dtype=np.float32)
        wide[:, :k] = a
        got[:] = np.nan
        lib.gemm_float(THREADS[index % 3], ptr(wide), *i64(k + 3), ptr(transposed), *i64(1, n, m, n, k), None, ptr(got))
        close(got, want - bias, k)


@each_isa
def test_every_tile_height(isa: str) -> None:
    lib = load("gemm_driver", isa)
    lib.tile_rows.restype = lib.tile_columns.restype = ctypes.c_int64
    n, k = lib.tile_columns() + 1, 19
    for m in range(1, lib.tile_rows() + 3):
        a, weight, bias = matrices(m, n, k)
        got = np.full((m, n), np.nan, dtype=np.float32)
        lib.gemm_float(1, ptr(a), *i64(k), ptr(weight), *i64(k, 1, m, n, k), ptr(bias), ptr(got))
        close(got, a.astype(np.float64) @ weight.T.astype(np.float64) + bias, k)


@each_isa
def test_small_float_storage(isa: str) -> None:
    lib = load("gemm_driver", isa)
    for m, n, k in [(1, 40, 33), (20, 50, 70), (3, 16, 16)]:
        a, weight, bias = matrices(m, n, k)
        narrow_weight, narrow_rows, half_rows = to_bf16(weight), to_bf16(a), a.astype(np.float16)
        got = np.empty((m, n), dtype=np.float32)
        tail = (*i64(k, 1, m, n, k), ptr(bias), ptr(got))
        lib.gemm_bf16_weight(2, ptr(a), *i64(k), ptr(narrow_weight), *tail)
        close(got, a.astype(np.float64) @ from_bf16(narrow_weight).T.astype(np.float64) + bias, k)
        lib.gemm_bf16_rows(2, ptr(narrow_rows), *i64(k), ptr(weight), *tail)
        close(got, from_bf16(narrow_rows).astype(np.float64) @ weight.T.astype(np.float64) + bias, k)
        lib.gemm_f16_rows(2, ptr(half_rows), *i64(k), ptr(weight), *tail)
        close(got, half_rows.astype(np.float64) @ weight.T.astype(np.float64) + bias, k)


@each_isa
def test_double_gemm(isa: str) -> None:
    lib = load("gemm_driver", isa)
    for m, n, k in [(1, 9, 30), (17, 40, 65), (2, 16, 0)]:
        a, weight, bias = matrices(m, n, k, np.float64)
        got = np.full((m, n), np.nan)
        lib.gemm_double(2, ptr(a), *i64(k), ptr(weight), *i64(k, 1, m, n, k), ptr(bias), ptr(got))
        close(got, a @ weight.T + bias, k, eps=2.3e-16)


@each_isa
def test_nan_and_infinity_propagate(isa: str) -> None:
    lib = load("gemm_driver", isa)
    a, weight, _ = matrices(9, 40, 20)
    a[2, 3], a[5, 7], weight[11, 0] = np.nan, np.inf, -np.inf
    got = np.empty((9, 40), dtype=np.float32)
    lib.gemm_float(1, ptr(a), *i64(20), ptr(weight), *i64(20, 1, 9, 40, 20), None, ptr(got))
    with np.errstate(invalid="ignore"):
        want = a @ weight.T
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


@each_byte_isa
@pytest.mark.parametrize("signed", [False, True])
def test_int8_sums_are_exact(isa: str, signed: bool) -> None:
    """With scales of one and sums below 2**24 the float results are the integer results, exactly."""
    lib = load("gemm_driver", isa)
    run = lib.gemm_s8 if signed else lib.gemm_u8
    rng = np.random.default_rng(1)
    for index, (m, n, k) in enumerate(SHAPES):
        low = -128 if signed else 0
        a = rng.integers(low, low + 256, (m, k)).astype(np.int8 if signed else np.uint8)
        weight = rng.integers(-128, 128, (n, k)).astype(np.int8)
        if index % 2:  # extremes: where 16-bit saturation would show
            a[:] = np.where(rng.random((m, k)) < 0.5, low, low + 255)
            weight[:] = np.where(rng.random((n, k)) < 0.5, -128, 127)
        zero = rng.integers(low, low + 256, max(m, 1)).astype(np.int32)
        ones = np.ones(max(m, n, 1), dtype=np.float32)
        exact = a.astype(np.int64) @ weight.T.astype(np.int64)
        column_sums = weight.sum(axis=1, dtype=np.int64)
        for step, source in ((1, weight), (0, np.ascontiguousarray(weight.T))):
            strides = (k, 1) if source is weight else (1, n)
            got = np.full((m, n), np.nan, dtype=np.float32)
            sizes = i64(*strides, m, n, k)
            quantizers = (ptr(ones), ptr(zero), *i64(step), ptr(ones))
            run(THREADS[index % 3], ptr(a), *i64(k), ptr(source), *sizes, *quantizers, ptr(got))
            zeros = zero[:m, None] if step else zero[0]
            want = exact - zeros * column_sums[None, :]
            assert np.abs(want).max(initial=0) < 2**25
            np.testing.assert_array_equal(got, want.astype(np.float32))


@each_byte_isa
def test_int8_tile_heights_and_scales(isa: str) -> None:
    lib = load("gemm_driver", isa)
    lib.tile_rows_i8.restype = ctypes.c_int64
    rng = np.random.default_rng(2)
    n, k = 37, 22
    for m in range(1, lib.tile_rows_i8() + 3):
        a = rng.integers(0, 256, (m, k)).astype(np.uint8)
        weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
        zero = rng.integers(0, 256, m).astype(np.int32)
        row_scale, column_scale = rng.random(m).astype(np.float32), rng.random(n).astype(np.float32)
        got = np.full((m, n), np.nan, dtype=np.float32)
        lib.gemm_u8(1, ptr(a), *i64(k), ptr(weight), *i64(k, 1, m, n, k), ptr(row_scale), ptr(zero), *i64(1),
                    ptr(column_scale), ptr(got))  # fmt: skip
        exact = (a.astype(np.int64) - zero[:, None]) @ weight.T.astype(np.int64)
        np.testing.assert_allclose(got, exact * (row_scale[:, None].astype(np.float64) * column_scale), rtol=4e-7)


class MatmulShape(ctypes.Structure):
    """mcomp::MatmulShape."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("m", "n", "k", "a_row", "a_col", "b_row", "b_col")),
        ("rank", ctypes.c_int),
        *((name, ctypes.c_int64 * 6) for name in ("batch", "a_batch", "b_batch")),
    ]


def matmul_shape(a: np.ndarray, b: np.ndarray) -> MatmulShape:
    """Describes numpy's a @ b with the arrays' own strides and broadcasting."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    size = a.itemsize
    shape = MatmulShape(
        a.shape[-2], b.shape[-1], a.shape[-1], a.strides[-2] // size, a.strides[-1] // size,
        b.strides[-2] // b.itemsize, b.strides[-1] // b.itemsize, len(batch),
    )  # fmt: skip
    a_wide = np.broadcast_to(a, (*batch, *a.shape[-2:]))
    b_wide = np.broadcast_to(b, (*batch, *b.shape[-2:]))
    for i, extent in enumerate(batch):
        shape.batch[i], shape.a_batch[i] = extent, a_wide.strides[i] // size
        shape.b_batch[i] = b_wide.strides[i] // b.itemsize
    return shape


def operands() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    return [
        (normal(5, 7), normal(7, 9)),
        (normal(1, 64), normal(64, 200)),
        (normal(2, 70), normal(130, 70).T),
        (normal(3, 1, 33), normal(3, 45, 33).swapaxes(1, 2)),
        (normal(2, 12, 20, 16), normal(2, 12, 33, 16).swapaxes(2, 3)),
        (normal(2, 20, 12, 16).swapaxes(1, 2), normal(2, 33, 12, 16).transpose(0, 2, 3, 1)),
        (normal(2, 1, 31, 8), normal(5, 8, 40)),
        (normal(4, 40, 30).swapaxes(1, 2), normal(40, 35)),
        (normal(100, 600), normal(600, 70)),
        (normal(1000, 3), normal(3, 2)),
        (normal(6, 8)[::-1, ::2], normal(4, 11)[:, ::-1]),
        (normal(3, 0), normal(0, 4)),
        (normal(0, 3), normal(3, 4)),
        (normal(2, 3, 4), normal(2, 4, 0)),
        (normal(0, 3, 4), normal(0, 4, 5)),
    ]


def like(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values in an array whose strides, in elements, are those of x."""
    base = np.zeros(4 * max(1, x.size) + 64, dtype=values.dtype)
    step = [s // x.itemsize for s in x.strides]
    start = sum(-s * (n - 1) for s, n in zip(step, x.shape) if s < 0 and n > 0)
    view = np.lib.stride_tricks.as_strided(base[start:], x.shape, [s * values.itemsize for s in step])
    view[...] = values
    return view


@each_isa
def test_matmul_with_strides_and_broadcasting(isa: str) -> None:
    lib = load("gemm_driver", isa)
    for index, (x, y) in enumerate(operands()):
        k = x.shape[-1]
        for run, kind, eps in ((lib.matmul_float, np.float32, 1.2e-7), (lib.matmul_double, np.float64, 2.3e-16)):
            a, b = like(x, x.astype(kind)), like(y, y.astype(kind))
            want = a.astype(np.float64) @ b.astype(np.float64)
            got = np.full(want.shape, np.nan, dtype=kind)
            run(THREADS[index % 3], ptr(a), ptr(b), ctypes.byref(matmul_shape(a, b)), ptr(got))
            close(got, want, k, eps)
        half, narrow = like(x, to_bf16(x)), like(y, y.astype(np.float16))
        got = np.full(want.shape, np.nan, dtype=np.float32)
        lib.matmul_mixed(THREADS[index % 3], ptr(half), ptr(narrow), ctypes.byref(matmul_shape(half, narrow)), ptr(got))
        close(got, from_bf16(half).astype(np.float64) @ narrow.astype(np.float64), k)


@each_isa
def test_integer_matmul_wraps(isa: str) -> None:
    lib = load("gemm_driver", isa)
    rng = np.random.default_rng(4)
    for x, y in operands():
        for run, kind in ((lib.matmul_long, np.int64), (lib.matmul_int32, np.int32)):
            limit = np.iinfo(kind).max
            a = like(x, rng.integers(-limit, limit, x.shape).astype(kind))
            b = like(y, rng.integers(-limit, limit, y.shape).astype(kind))
            with np.errstate(over="ignore"):
                want = a @ b
            got = np.full(want.shape, 77, dtype=kind)
            run(2, ptr(a), ptr(b), ctypes.byref(matmul_shape(a, b)), ptr(got))
            np.testing.assert_array_equal(got, want)


@each_isa
def test_dynamic_quantization(isa: str) -> None:
    lib = load("gemm_driver", isa)
    rng = np.random.default_rng(5)
    for m, k in [(1, 1), (5, 16), (7, 37), (3, 0), (4, 200)]:
        x = (
            rng.standard_normal((m, k)) * np.exp(rng.standard_normal((m, 1)) * 3) + rng.standard_normal((m, 1))
        ).astype(np.float32)
        if k > 0:
            x[0] = 0
        for kind, low in ((np.uint8, 0), (np.int8, -128)):
            for symmetric in (0, 1):
                q = np.zeros((m, k), dtype=kind)
                scale, zero = np.zeros(m, dtype=np.float32), np.zeros(m, dtype=np.int32)
                run = lib.quantize_u8_dynamic if kind is np.uint8 else lib.quantize_s8_dynamic
                run(2, ptr(x), *i64(m, k), ptr(q), ptr(scale), ptr(zero), symmetric)
                assert (zero >= low).all() and (zero <= low + 255).all()
                if symmetric:
                    assert (zero == low + 128).all()
                back = scale[:, None] * (q.astype(np.float32) - zero[:, None])
                assert (np.abs(back - x) <= scale[:, None] * 1.002).all()
                span = (
                    np.abs(x).max(1, initial=0) / 127
                    if symmetric
                    else (x.max(1, initial=0) - x.min(1, initial=0)) / 255
                )
                np.testing.assert_allclose(scale, np.where(span > 0, span, 1), rtol=1e-6)


@each_isa
def test_rounding_of_symmetric_quantization(isa: str) -> None:
    """A row whose largest magnitude is 127 has scale one: bytes are the values rounded to nearest even."""
    lib = load("gemm_driver", isa)
    x = np.array([[127, -127, 0.5, 1.5, -0.5, -2.5, 3.49, 126.5, -0.0, 100.51] * 4], dtype=np.float32)
    q, scale, zero = np.zeros(x.shape, dtype=np.int8), np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.int32)
    lib.quantize_s8_dynamic(1, ptr(x), *i64(1, x.size), ptr(q), ptr(scale), ptr(zero), 1)
    assert scale[0] == 1
    np.testing.assert_array_equal(q, np.rint(x))


@each_isa
def test_values_that_are_not_finite_poison_the_row(isa: str) -> None:
    lib = load("gemm_driver", isa)
    for bad in (np.nan, np.inf, -np.inf):
        x = np.ones((3, 37), dtype=np.float32)
        x[1, 5] = bad
        q, scale, zero = np.zeros(x.shape, dtype=np.uint8), np.zeros(3, dtype=np.float32), np.zeros(3, dtype=np.int32)
        lib.quantize_u8_dynamic(1, ptr(x), *i64(3, 37), ptr(q), ptr(scale), ptr(zero), 0)
        assert np.isfinite(scale).tolist() == [True, False, True]
        assert 0 <= zero[1] <= 255


@each_isa
def test_static_quantization(isa: str) -> None:
    lib = load("gemm_driver", isa)
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((6, 205)) * 40).astype(np.float32)
    x[0, :3] = [1e30, -1e30, 0.0]
    scale = 0.25
    for kind, run, zero in ((np.uint8, lib.quantize_u8_static, 100), (np.int8, lib.quantize_s8_static, -7)):
        q = np.zeros(x.shape, dtype=kind)
        run(2, ptr(x), *i64(6, 205), ptr(q), ctypes.c_float(scale), zero)
        limits = np.iinfo(kind)
        np.testing.assert_array_equal(q, np.clip(np.rint(x / np.float32(scale)) + zero, limits.min, limits.max))
    narrow = to_bf16(x)
    q = np.zeros(x.shape, dtype=np.uint8)
    lib.quantize_bf16_u8_static(1, ptr(narrow), *i64(6, 205), ptr(q), ctypes.c_float(scale), 100)
    np.testing.assert_array_equal(q, np.clip(np.rint(from_bf16(narrow) / np.float32(scale)) + 100, 0, 255))


@each_isa
@pytest.mark.parametrize("bits", [8, 4])
def test_weight_only_gemm(isa: str, bits: int) -> None:
    lib = load("weight_only_driver", isa)
    run = lib.weight_only_8 if bits == 8 else lib.weight_only_4
    rng = np.random.default_rng(7)
    for m, n, k, group in [
        (1, 40, 64, 32),
        (3, 33, 70, 32),
        (17, 65, 45, 15),
        (5, 16, 20, 64),
        (2, 8, 0, 16),
        (30, 64, 128, 128),
        (12, 40, 1100, 100),
        (20, 33, 700, 15),
        (9, 32, 1030, 1030),
    ]:
        a = rng.standard_normal((m, k)).astype(np.float32)
        q = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k)).astype(np.int8)
        groups = -(-k // group)
        scale = rng.random((groups, n)).astype(np.float32)
        offset = rng.standard_normal((groups, n)).astype(np.float32)
        of_k = np.arange(k) // group
        for shift in (None, offset):
            weight = scale[of_k].T.astype(np.float64) * q + (0 if shift is None else shift[of_k].T)
            got = np.full((m, n), np.nan, dtype=np.float32)
            run(2, ptr(a), ptr(q), *i64(m, n, k), ptr(scale), ptr(shift), *i64(group), ptr(got))
            magnitude = np.abs(a).astype(np.float64) @ np.abs(weight).T
            assert (np.abs(got - a.astype(np.float64) @ weight.T) <= 2e-6 * magnitude + 1e-6).all()

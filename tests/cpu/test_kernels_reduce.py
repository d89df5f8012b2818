"""reduce.hpp, scan.hpp and sort.hpp against torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
import torch
from kernel_harness import each_isa, i64, load, ptr

SHAPES = [(1, 1, 1), (3, 7, 1), (2, 300, 1), (1, 20000, 1), (2, 9, 3), (3, 700, 70), (0, 4, 1), (2, 3, 0)]
Reference = Callable[[torch.Tensor], torch.Tensor]
FLOAT: dict[str, tuple[int, float, Reference]] = {
    "sum": (0, 0, lambda t: t.sum(1)),
    "prod": (1, 0, lambda t: t.prod(1)),
    "amax": (2, 0, lambda t: t.amax(1)),
    "amin": (3, 0, lambda t: t.amin(1)),
    "mean": (4, 0, lambda t: t.mean(1)),
    "norm1": (5, 1, lambda t: torch.linalg.vector_norm(t, 1, 1)),
    "norm2": (5, 2, lambda t: torch.linalg.vector_norm(t, 2, 1)),
    "norm0": (5, 0, lambda t: torch.linalg.vector_norm(t, 0, 1)),
    "norm3": (5, 3, lambda t: torch.linalg.vector_norm(t, 3, 1)),
    "norm_max": (6, 0, lambda t: torch.linalg.vector_norm(t, torch.inf, 1)),
    "norm_min": (7, 0, lambda t: torch.linalg.vector_norm(t, -torch.inf, 1)),
    "var": (8, 1, lambda t: t.var(1)),
    "std": (9, 0, lambda t: t.std(1, correction=0)),
}
INTEGER: dict[str, Reference] = {
    "sum": lambda t: t.sum(1),
    "prod": lambda t: t.prod(1),
    "amax": lambda t: t.amax(1),
    "amin": lambda t: t.amin(1),
}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_specials(*shape: int) -> np.ndarray:
    """Few distinct values, so that there are ties, with NaN and infinities."""
    rng = np.random.default_rng(1)
    values = np.array([0, -0.0, 1, 2, -1, 3, 5, -7, np.inf, -np.inf, np.nan], np.float32)
    return values[rng.integers(0, len(values), shape)]


def reduce_f32(isa: str, kind: str, x: np.ndarray) -> np.ndarray:
    number, order, _ = FLOAT[kind]
    y = np.empty((x.shape[0], x.shape[2]), np.float32)
    load("reduce_driver", isa).reduce_f32(number, 2, ptr(x), ptr(y), *i64(*x.shape), ctypes.c_double(order))
    return y


@each_isa
@pytest.mark.parametrize("kind", FLOAT)
def test_float_reductions(isa: str, kind: str) -> None:
    for shape in SHAPES:
        if kind in ("var", "std") and (shape[1] < 2 or 0 in shape):
            continue
        x = random(*shape)
        if kind == "prod":
            x = np.exp(x * 0.01).astype(np.float32)
        want = FLOAT[kind][2](torch.from_numpy(x).double()).numpy()
        np.testing.assert_allclose(reduce_f32(isa, kind, x), want, rtol=3e-5, atol=1e-5, err_msg=str(shape))


@each_isa
@pytest.mark.parametrize("kind", [k for k in FLOAT if k != "norm3"])
@pytest.mark.filterwarnings("ignore")
def test_float_reductions_with_nan_and_infinity(isa: str, kind: str) -> None:
    for shape in [(50, 3, 1), (4, 2, 90), (3, 200, 1)]:
        x = with_specials(*shape)
        want = FLOAT[kind][2](torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(reduce_f32(isa, kind, x), want, rtol=1e-6)


@each_isa
def test_long_sums_keep_their_accuracy(isa: str) -> None:
    x = (np.random.default_rng(0).random((1, 1 << 20, 1)) + 1).astype(np.float32)
    np.testing.assert_allclose(reduce_f32(isa, "sum", x).item(), x.astype(np.float64).sum(), rtol=3e-7)
    column = np.ascontiguousarray(np.broadcast_to(x[:, : 1 << 18], (1, 1 << 18, 2)))
    np.testing.assert_allclose(reduce_f32(isa, "sum", column)[0], column.astype(np.float64).sum(1)[0], rtol=3e-7)


@each_isa
@pytest.mark.parametrize("kind", INTEGER)
def test_integer_reductions_wrap(isa: str, kind: str) -> None:
    for shape in SHAPES:
        x = np.random.default_rng(0).integers(-(2**62), 2**62, shape)
        y = np.empty((shape[0], shape[2]), np.int64)
        run = load("reduce_driver", isa).reduce_i64
        run(FLOAT[kind][0], 2, ptr(x), ptr(y), *i64(*shape), ctypes.c_double(0))
        np.testing.assert_array_equal(y, INTEGER[kind](torch.from_numpy(x)).numpy())


@each_isa
def test_logic_and_bool_sum(isa: str) -> None:
    lib = load("reduce_driver", isa)
    for shape in SHAPES:
        x = (with_specials(*shape) > 0) * np.float32(1) + np.where(np.isnan(with_specials(*shape)), np.nan, 0).astype(
            np.float32
        )
        x = np.ascontiguousarray(x, np.float32)
        for every in (0, 1):
            y = np.empty((shape[0], shape[2]), np.bool_)
            lib.reduce_logic(every, 2, ptr(x), ptr(y), *i64(*shape))
            np.testing.assert_array_equal(y, (x != 0).all(1) if every else (x != 0).any(1))
        flags, total = x > 0, np.empty((shape[0], shape[2]), np.int64)
        lib.sum_bool(2, ptr(flags), ptr(total), *i64(*shape))
        np.testing.assert_array_equal(total, flags.sum(1))


@each_isa
@pytest.mark.parametrize("dims", [(0, 2), (1, 3), (0,), (3,), (0, 1, 2, 3), ()])
def test_any_dimensions(isa: str, dims: tuple[int, ...]) -> None:
    x = random(3, 4, 5, 66)
    kept = [d for d in range(4) if d not in dims]
    steps = [s // 4 for s in x.strides]
    a = np.array([x.shape[d] for d in kept] + [steps[d] for d in kept], np.int64)
    b = np.array([x.shape[d] for d in dims] + [steps[d] for d in dims], np.int64)
    for maximum in (0, 1):
        y = np.empty([x.shape[d] for d in kept], np.float32)
        load("reduce_driver", isa).reduce_dims(maximum, 2, ptr(x), ptr(y), len(kept), ptr(a), len(dims), ptr(b))
        want = x.max(dims) if maximum and dims else x.astype(np.float64).mean(dims) if dims else x
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


@each_isa
@pytest.mark.parametrize("largest", [0, 1])
def test_arg_reduce(isa: str, largest: int) -> None:
    for x in (with_specials(40, 6, 1), with_specials(3, 50, 7), random(4, 33, 2), random(1, 1, 1)):
        shape = (x.shape[0], x.shape[2])
        values, indices = np.empty(shape, np.float32), np.empty(shape, np.int64)
        load("reduce_driver", isa).arg_f32(largest, 2, ptr(x), ptr(values), ptr(indices), *i64(*x.shape))
        t = torch.from_numpy(x)
        np.testing.assert_array_equal(indices, (t.argmax(1) if largest else t.argmin(1)).numpy())
        np.testing.assert_array_equal(values, (t.amax(1) if largest else t.amin(1)).numpy())


SCANS: dict[str, tuple[int, Callable[[torch.Tensor], object]]] = {
    "cumsum": (0, lambda t: t.cumsum(1)),
    "cumprod": (1, lambda t: t.cumprod(1)),
    "logcumsumexp": (2, lambda t: t.logcumsumexp(1)),
    "cummax": (3, lambda t: t.cummax(1)),
    "cummin": (4, lambda t: t.cummin(1)),
}


@each_isa
@pytest.mark.parametrize("kind", SCANS)
def test_scans(isa: str, kind: str) -> None:
    for x in (
        random(3, 50, 1),
        random(2, 9, 5),
        random(0, 3, 1),
        random(2, 0, 3),
        with_specials(30, 6, 1),
        with_specials(2, 20, 6),
    ):
        y, indices = np.empty_like(x), np.empty(x.shape, np.int64)
        load("reduce_driver", isa).scan_f32(SCANS[kind][0], 2, ptr(x), ptr(y), ptr(indices), *i64(*x.shape))
        want = SCANS[kind][1](torch.from_numpy(x))
        if isinstance(want, torch.Tensor):
            np.testing.assert_allclose(y, want.numpy(), rtol=2e-5, atol=2e-6)
            continue
        np.testing.assert_array_equal(y, want.values.numpy())
        np.testing.assert_array_equal(indices, want.indices.numpy())
    flags = random(3, 50, 2) > 0
    total = np.empty(flags.shape, np.int64)
    load("reduce_driver", isa).cumsum_bool(2, ptr(flags), ptr(total), *i64(*flags.shape))
    np.testing.assert_array_equal(total, flags.cumsum(1))


@each_isa
@pytest.mark.parametrize("descending", [0, 1])
def test_sort_is_stable_with_nan_largest(isa: str, descending: int) -> None:
    lib = load("reduce_driver", isa)
    for x in (with_specials(20, 40, 1), with_specials(2, 30, 5), random(2, 700, 1), random(2, 0, 1)):
        values, indices = np.empty_like(x), np.empty(x.shape, np.int64)
        lib.sort_f32(descending, 2, ptr(x), ptr(values), ptr(indices), *i64(*x.shape))
        want = torch.from_numpy(x).sort(dim=1, descending=bool(descending), stable=True)
        np.testing.assert_array_equal(indices, want.indices.numpy())
        np.testing.assert_array_equal(values, want.values.numpy())
    k = np.random.default_rng(0).integers(-5, 5, (3, 60, 2))
    values, indices = np.empty_like(k), np.empty_like(k)
    lib.sort_i64(descending, 2, ptr(k), ptr(values), ptr(indices), *i64(*k.shape))
    np.testing.assert_array_equal(
        indices, torch.from_numpy(k).sort(dim=1, descending=bool(descending), stable=True).indices.numpy()
    )


@each_isa
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [0, 1, 5, 40])
def test_topk(isa: str, largest: int, k: int) -> None:
    for x in (random(6, 40, 1), random(2, 40, 3), with_specials(5, 40, 1)):
        values = np.empty((x.shape[0], k, x.shape[2]), np.float32)
        indices = np.empty(values.shape, np.int64)
        load("reduce_driver", isa).topk_f32(largest, 2, ptr(x), ptr(values), ptr(indices), *i64(*x.shape, k))
        want = torch.from_numpy(x).topk(k, 1, bool(largest)).values.numpy()
        np.testing.assert_array_equal(values, want)
        np.testing.assert_array_equal(np.take_along_axis(x, indices, 1), values)


@each_isa
@pytest.mark.parametrize("right", [0, 1])
def test_searchsorted(isa: str, right: int) -> None:
    edges = np.sort(np.round(random(3, 50), 1), axis=1)
    queries = np.round(random(3, 20, seed=1), 1)
    queries[0, :3] = [np.nan, np.inf, -np.inf]
    y = np.empty(queries.shape, np.int64)
    lib = load("reduce_driver", isa)
    lib.searchsorted_f32(right, 0, ptr(edges), ptr(queries), ptr(y), *i64(3, 50, 20))
    want = torch.searchsorted(torch.from_numpy(edges), torch.from_numpy(queries), right=bool(right))
    np.testing.assert_array_equal(y, want.numpy())
    lib.searchsorted_f32(right, 1, ptr(edges), ptr(queries), ptr(y), *i64(3, 50, 20))
    want = torch.bucketize(torch.from_numpy(queries), torch.from_numpy(edges[0]), right=bool(right))
    np.testing.assert_array_equal(y, want.numpy())


@each_isa
def test_nonzero(isa: str) -> None:
    x = with_specials(3, 4, 5)
    want = torch.from_numpy(x).nonzero().numpy()
    y = np.empty(want.shape, np.int64)
    run = load("reduce_driver", isa).nonzero_f32
    run.restype = ctypes.c_int64
    count = run(ptr(x), 3, ptr(np.array(x.shape, np.int64)), ctypes.c_int64(x.size), ptr(y), ctypes.c_int64(len(want)))
    assert count == len(want)
    np.testing.assert_array_equal(y, want)

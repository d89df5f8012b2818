"""index.hpp, shape.hpp and copy.hpp against numpy and torch, with indices out of range."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_harness import each_isa, i64, load, ptr

SITE = 7


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def steps(array: np.ndarray) -> list[int]:
    return [step // array.itemsize for step in array.strides]


def slot() -> np.ndarray:
    return np.zeros(1, np.int32)


@each_isa
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_embedding(isa: str, dtype: Any) -> None:
    table, ids, fault = random(50, 33), integers(0, 50, (20,)).astype(dtype), slot()
    out = np.empty((20, 33), np.float32)
    run = load("index_driver", isa)["embedding_i64" if dtype == np.int64 else "embedding_i32"]
    run(2, ptr(table), *i64(50, 33), ptr(ids), *i64(20), ptr(out), ptr(fault))
    np.testing.assert_array_equal(out, table[ids])
    assert fault[0] == 0
    ids[3], ids[4] = 50, -1
    run(2, ptr(table), *i64(50, 33), ptr(ids), *i64(20), ptr(out), ptr(fault))
    assert fault[0] == SITE
    np.testing.assert_array_equal(out[3:5], 0)


@each_isa
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag(isa: str, mode: str) -> None:
    table, ids, offsets = random(50, 12), integers(0, 50, (20,)), numbers(0, 4, 4, 15)
    ids[5] = 3
    weights = random(20, seed=1) if mode == "sum" else None
    out, fault = np.empty((4, 12), np.float32), slot()
    run = load("index_driver", isa).bag_i64
    number = ["sum", "mean", "max"].index(mode)
    run(
        number,
        ptr(table),
        *i64(50, 12),
        ptr(ids),
        *i64(20),
        ptr(offsets),
        *i64(4),
        ptr(weights),
        *i64(3),
        ptr(out),
        ptr(fault),
    )
    tensors = [torch.from_numpy(v) for v in (ids, table, offsets)]
    per_sample = None if weights is None else torch.from_numpy(weights)
    want = F.embedding_bag(*tensors, mode=mode, per_sample_weights=per_sample, padding_idx=3)
    np.testing.assert_allclose(out, want.numpy(), rtol=1e-5, atol=1e-6)
    assert fault[0] == 0


@each_isa
def test_index_select(isa: str) -> None:
    run = load("index_driver", isa).select_i64
    for outer, n, inner, m in [(3, 7, 5, 4), (1, 4, 1, 9), (2, 5, 100, 0), (0, 3, 2, 2)]:
        x, index, fault = random(outer, n, inner), integers(0, n, (m,)), slot()
        y = np.empty((outer, m, inner), np.float32)
        run(2, ptr(x), ptr(index), ptr(y), *i64(outer, n, inner, m), ptr(fault))
        np.testing.assert_array_equal(y, x[:, index])
        assert fault[0] == 0
    for bad in (-1, 7, 2**62):
        fault = slot()
        run(1, ptr(random(1, 7, 1)), ptr(numbers(bad)), ptr(np.empty(1, np.float32)), *i64(1, 7, 1, 1), ptr(fault))
        assert fault[0] == SITE
    fault = slot()
    run(1, None, ptr(numbers(0)), ptr(np.empty(1, np.float32)), *i64(1, 0, 1, 1), ptr(fault))
    assert fault[0] == SITE


@each_isa
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_gather(isa: str, dim: int) -> None:
    x = random(5, 9, 6).transpose(0, 2, 1)
    shape = [4, 5, 8]
    shape[dim] = 11
    index, fault = integers(0, x.shape[dim], tuple(shape)), slot()
    out = np.empty(shape, np.float32)
    args = (ptr(numbers(*steps(x))), *i64(x.shape[dim]), ptr(index), ptr(out), 3, ptr(numbers(*shape)), dim, ptr(fault))
    load("index_driver", isa).gather_f32(2, ptr(x), *args)
    np.testing.assert_array_equal(out, torch.from_numpy(x).gather(dim, torch.from_numpy(index)).numpy())
    assert fault[0] == 0
    index[0, 0, 0] = -1
    load("index_driver", isa).gather_f32(2, ptr(x), *args)
    assert fault[0] == SITE


@each_isa
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("op", ["replace", "sum", "prod", "amax", "amin"])
def test_scatter(isa: str, dim: int, op: str) -> None:
    out, src = random(5, 6, 9), random(4, 6, 8, seed=1)
    if op != "replace":
        src[0, 0, 0] = np.nan
    index, fault = integers(0, out.shape[dim], src.shape), slot()
    t = torch.from_numpy(out.copy())
    if op == "replace":
        want = t.scatter(dim, torch.from_numpy(index), torch.from_numpy(src))
    else:
        want = t.scatter_reduce(dim, torch.from_numpy(index), torch.from_numpy(src), op, include_self=True)
    run, number = load("index_driver", isa).scatter_f32, ["replace", "sum", "prod", "amax", "amin"].index(op)
    tail = (3, ptr(numbers(*src.shape)), dim, ptr(fault))
    got = out.copy()
    head = (number, 2, ptr(got), ptr(numbers(*steps(got))), *i64(out.shape[dim]), ptr(index))
    run(*head, ptr(src), ptr(numbers(*steps(src))), *tail)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)
    assert fault[0] == 0
    index[0, 0, 0] = out.shape[dim]
    run(*head, ptr(src), ptr(numbers(0, 0, 0)), *tail)
    assert fault[0] == SITE


def advanced(
    isa: str, put: int, x: np.ndarray, key: dict[int, np.ndarray], values: np.ndarray, index_first: int
) -> int:
    """index_get (put 0) into `values`, or index_put (1), accumulating (2), of `values`.

    `key` maps indexed dimensions of x to tensors; the broadcast index dimensions start at axis `index_first` of values.
    """
    shape = np.broadcast_shapes(*(v.shape for v in key.values()))
    rank = len(shape)
    places = steps(values)
    index_out = places[index_first : index_first + rank]
    slice_out = places[:index_first] + places[index_first + rank :]
    args = [len(key), rank, x.ndim - len(key)]
    for dim, tensor in key.items():
        args += [x.shape[dim], steps(x)[dim], *steps(np.broadcast_to(tensor, shape))]
    for size, step in zip(shape, index_out, strict=True):
        args += [size, step]
    rest = [d for d in range(x.ndim) if d not in key]
    for d, step in zip(rest, slice_out, strict=True):
        args += [x.shape[d], steps(x)[d], step]
    pointers = (ctypes.c_void_p * len(key))(*(v.ctypes.data for v in key.values()))
    fault = slot()
    load("index_driver", isa).advanced_f32(put, 2, ptr(numbers(*args)), pointers, ptr(x), ptr(values), ptr(fault))
    return int(fault[0])


@each_isa
def test_advanced_indexing(isa: str) -> None:
    x = random(5, 6, 7, 4)
    a, b = integers(-6, 6, (3, 1)), integers(-7, 7, (2,), seed=1)
    got = np.empty((5, 3, 2, 4), np.float32)
    assert advanced(isa, 0, x, {1: a, 2: b}, got, 1) == 0
    np.testing.assert_array_equal(got, x[:, a, b])
    c = integers(-5, 5, (2,), seed=2)
    got = np.empty((3, 2, 6, 4), np.float32)
    assert advanced(isa, 0, x, {0: c, 2: np.minimum(a, 4) + np.zeros((3, 2), np.int64)}, got, 0) == 0
    np.testing.assert_array_equal(got, x[c, :, np.minimum(a, 4)])
    every = [integers(-n, n, (9,), seed=n) for n in x.shape]
    got = np.empty(9, np.float32)
    assert advanced(isa, 0, x, dict(enumerate(every)), got, 0) == 0
    np.testing.assert_array_equal(got, x[tuple(every)])
    for bad in (6, -7):
        assert advanced(isa, 0, x, {1: numbers(0, bad)}, np.empty((5, 2, 7, 4), np.float32), 1) == SITE


@each_isa
@pytest.mark.parametrize("accumulate", [False, True])
def test_advanced_assignment(isa: str, accumulate: bool) -> None:
    for shape, dims in [((5, 6, 7), (1,)), ((5, 6, 40), (0, 1)), ((30,), (0,)), ((5, 6), (0, 1))]:
        x = random(*shape)
        key = {d: integers(-shape[d], shape[d], (8,), seed=d) for d in dims}
        first = min(dims)
        values = random(*shape[:first], 8, *shape[first + len(dims) :], seed=3)
        picks = tuple(torch.from_numpy(key[d]) if d in key else slice(None) for d in range(len(shape)))
        want = torch.from_numpy(x.copy())
        if accumulate and first == 0:
            want.index_put_(
                tuple(p for p in picks if isinstance(p, torch.Tensor)), torch.from_numpy(values), accumulate=True
            )
        elif accumulate:
            np.add.at(want.numpy(), tuple(p.numpy() if isinstance(p, torch.Tensor) else p for p in picks), values)
        else:
            for i in range(8):
                at = tuple(int(p[i]) if isinstance(p, torch.Tensor) else p for p in picks)
                want[at] = torch.from_numpy(values).select(first, i)
        assert advanced(isa, 2 if accumulate else 1, x, key, values, first) == 0
        np.testing.assert_allclose(x, want.numpy(), rtol=1e-5, atol=1e-6)
    before = x.copy()
    assert advanced(isa, 1, x, {0: numbers(99), 1: numbers(0)}, random(1), 0) == SITE
    np.testing.assert_array_equal(x, before)


@each_isa
def test_masked_scatter(isa: str) -> None:
    x, source = random(6, 7), random(42, seed=1)
    mask = random(6, 7, seed=2) > 0
    y, fault = np.empty_like(x), slot()
    run = load("index_driver", isa).masked_scatter_f32
    run(ptr(x), ptr(mask), ptr(source), *i64(42), ptr(y), *i64(42), ptr(fault))
    want = torch.from_numpy(x).masked_scatter(torch.from_numpy(mask), torch.from_numpy(source))
    np.testing.assert_array_equal(y, want.numpy())
    assert fault[0] == 0
    run(ptr(x), ptr(mask), ptr(source), *i64(int(mask.sum()) - 1), ptr(y), *i64(42), ptr(fault))
    assert fault[0] == SITE


@each_isa
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad(isa: str, mode: str) -> None:
    cases = [
        ((2, 3, 5, 6), (2, 3, 1, 4)),
        ((2, 1, 4), (3, 3)),
        ((1, 2, 3, 4, 5), (1, 2, 2, 1, 1, 1)),
        ((2, 3, 5, 6), (-1, -2, 0, -3)),
    ]
    for shape, amounts in cases:
        if mode != "constant" and min(amounts) < 0:
            continue
        x = random(*shape)
        want = F.pad(torch.from_numpy(x), amounts, mode, 1.5 if mode == "constant" else None).numpy()
        before, after = [0] * len(shape), [0] * len(shape)
        for i in range(len(amounts) // 2):
            before[-1 - i], after[-1 - i] = amounts[2 * i], amounts[2 * i + 1]
        y = np.empty(want.shape, np.float32)
        number = ["constant", "reflect", "replicate", "circular"].index(mode)
        padding = (ptr(numbers(*before)), ptr(numbers(*after)), ctypes.c_float(1.5))
        sparse = np.full((*(2 * n for n in shape[:-1]), 3 * shape[-1]), np.nan, np.float32)
        view = sparse[(*((slice(None, None, 2),) * (len(shape) - 1)), slice(None, None, 3))]
        view[...] = x
        for source in (x, view, np.asfortranarray(x)):
            y.fill(np.nan)
            places = (ptr(numbers(*shape)), ptr(numbers(*steps(source))))
            load("index_driver", isa).pad_f32(number, 2, ptr(source), ptr(y), len(shape), *places, *padding)
            np.testing.assert_array_equal(y, want)


@each_isa
def test_roll_triangle_one_hot_repeat(isa: str) -> None:
    lib, x = load("index_driver", isa), random(3, 5, 7)
    y = np.empty_like(x)
    for shift in (0, 2, -3, 12, -17):
        lib.roll_f32(2, ptr(x), ptr(y), *i64(3, 5, 7, shift))
        np.testing.assert_array_equal(y, np.roll(x, shift, 1))
    for diagonal in (-9, -2, 0, 1, 9):
        for upper in (0, 1):
            lib.triangle_f32(upper, 2, ptr(x), ptr(y), *i64(3, 5, 7, diagonal))
            np.testing.assert_array_equal(y, np.triu(x, diagonal) if upper else np.tril(x, diagonal))
    k, fault = integers(0, 6, (9,)), slot()
    hot = np.empty((9, 6), np.int64)
    lib.one_hot_i64(ptr(k), ptr(hot), *i64(9, 6), ptr(fault))
    np.testing.assert_array_equal(hot, np.eye(6, dtype=np.int64)[k])
    assert fault[0] == 0
    k[2] = 6
    lib.one_hot_i64(ptr(k), ptr(hot), *i64(9, 6), ptr(fault))
    assert fault[0] == SITE
    y = np.empty((3, 10, 7), np.float32)
    lib.repeat_f32(ptr(x), ptr(y), *i64(3, 5, 7, 2), None, *i64(0), None)
    np.testing.assert_array_equal(y, x.repeat(2, 1))
    counts, fault = numbers(0, 3, 1, 0, 2), slot()
    y = np.empty((3, 6, 7), np.float32)
    lib.repeat_f32(ptr(x), ptr(y), *i64(3, 5, 7, 0), ptr(counts), *i64(6), ptr(fault))
    np.testing.assert_array_equal(y, x.repeat(counts, 1))
    assert fault[0] == 0
    for bad in (numbers(0, 3, 1, 0, 3), numbers(0, 3, 1, 0, 1), numbers(0, -1, 1, 4, 2), numbers(2**62, 0, 0, 0, 0)):
        fault = slot()
        lib.repeat_f32(ptr(x), ptr(y), *i64(3, 5, 7, 0), ptr(bad), *i64(6), ptr(fault))
        assert fault[0] == SITE


@each_isa
def test_unfold_and_fold(isa: str) -> None:
    for kernel, dilation, padding, stride in [((3, 2), (1, 2), (1, 0), (2, 1)), ((2, 2), (1, 1), (0, 0), (2, 2))]:
        x = random(2, 3, 8, 9)
        options = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride}
        want = F.unfold(torch.from_numpy(x), **options)
        out = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip((8, 9), padding, dilation, kernel, stride, strict=True)
        ]
        sizes = numbers(8, 9, *out, *kernel, *stride, *padding, *dilation)
        y, back = np.empty(want.shape, np.float32), np.empty_like(x)
        load("index_driver", isa).fold_f32(0, ptr(x), ptr(y), *i64(2, 3), ptr(sizes))
        np.testing.assert_array_equal(y, want.numpy())
        load("index_driver", isa).fold_f32(1, ptr(y), ptr(back), *i64(2, 3), ptr(sizes))
        np.testing.assert_allclose(back, F.fold(want, (8, 9), **options).numpy(), rtol=1e-5, atol=1e-6)


COPIES = {
    "f32": (np.float32, np.float32),
    "u8": (np.uint8, np.uint8),
    "i64": (np.int64, np.int64),
    "f32_i64": (np.float32, np.int64),
    "bool_f32": (np.bool_, np.float32),
}


@each_isa
@pytest.mark.parametrize("kind", COPIES)
def test_strided_copies(isa: str, kind: str) -> None:
    to, source = COPIES[kind]
    base = (random(4, 33, 70) * 3).astype(source)
    views = [
        base,
        base.transpose(2, 1, 0),
        base.transpose(0, 2, 1),
        base.transpose(1, 0, 2),
        base[:, ::-1],
        base[::-1, :, ::-2],
        base[:, 3:5],
        base[..., 1],
        np.broadcast_to(base[:, :1], (4, 5, 70)),
        np.broadcast_to(base[..., :1], (4, 33, 6)),
        base[0, 0, 0, ...],
        base[:0],
        base.reshape(2, 2, 3, 11, 7, 10).transpose(0, 4, 2, 1, 5, 3),
        base[1:2, 2:3].transpose(2, 0, 1),
        *(np.ascontiguousarray(base.reshape(4, 33, 7, 10)[:, :few]).transpose(0, 2, 3, 1) for few in (2, 3, 4)),
    ]
    for view in views:
        for fortran in (False, True):
            dst = np.zeros(view.shape, to, order="F" if fortran else "C")
            args = (view.ndim, ptr(numbers(*view.shape)), ptr(numbers(*steps(dst))), ptr(numbers(*steps(view))))
            load("index_driver", isa)[f"copy_{kind}"](2, ptr(dst), ptr(view), *args)
            np.testing.assert_array_equal(dst, view.astype(to))

"""gemm_sparse.hpp against numpy, on every instruction set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from kernel_harness import each_byte_isa, each_isa, from_bf16, i64, load, ptr, to_bf16

# rows, columns, inputs, block rows, block columns, share of the blocks that is stored
SHAPES = [
    (1, 32, 16, 32, 4, 0.5), (3, 64, 64, 32, 16, 0.25), (15, 96, 48, 32, 8, 0.3), (29, 48, 40, 16, 4, 0.25),
    (7, 48, 36, 16, 2, 0.2), (5, 40, 33, 8, 3, 0.3), (20, 24, 30, 3, 1, 0.2), (9, 66, 18, 1, 1, 0.1),
    (33, 35, 21, 5, 7, 0.4), (14, 64, 6, 64, 6, 0.5), (2, 128, 10, 128, 5, 0.5), (4, 33, 2, 1, 2, 0.6),
    (6, 32, 64, 16, 8, 0.0), (6, 32, 64, 16, 8, 1.0), (0, 32, 8, 32, 8, 0.5), (3, 16, 3, 16, 1, 0.7),
    (130, 64, 512, 32, 16, 0.25),
]  # fmt: skip
STEPS = [(1, 32, 64, 32, 64, 1.0), (17, 96, 256, 32, 64, 0.4), (50, 64, 384, 16, 128, 0.5), (70, 128, 192, 32, 64, 0.25)]
THREADS = (1, 2, 3)


@dataclass
class Sparse:
    """A random matrix of which some blocks are stored; `dense` is what it means."""

    values: np.ndarray
    at: np.ndarray
    starts: np.ndarray
    dense: np.ndarray


def sparse(n: int, k: int, rows: int, columns: int, share: float, dtype: type) -> Sparse:
    rng = np.random.default_rng(n * 1009 + k * 31 + rows)
    there = rng.random((n // rows, k // columns)) < share
    owner, at = np.nonzero(there)
    if dtype is np.int8:
        values = rng.integers(-128, 128, (len(at), rows, columns)).astype(np.int8)
    else:
        values = rng.standard_normal((len(at), rows, columns)).astype(dtype)
    dense = np.zeros((n // rows, k // columns, rows, columns), dtype)
    dense[owner, at] = values
    starts = np.searchsorted(owner, np.arange(n // rows + 1)).astype(np.int32)
    return Sparse(values, at.astype(np.int32), starts, dense.transpose(0, 2, 1, 3).reshape(n, k))


@each_isa
def test_float_products_with_blocks_of_any_shape(isa: str) -> None:
    lib = load("sparse_driver", isa)
    for index, (m, n, k, rows, columns, share) in enumerate(SHAPES):
        w = sparse(n, k, rows, columns, share, np.float32)
        a = np.random.default_rng(index).standard_normal((m, k)).astype(np.float32)
        want = a.astype(np.float64) @ w.dense.T.astype(np.float64)
        for run in (lib.sparse_wide, lib.sparse_narrow):
            got = np.full((m, n), np.nan, np.float32)
            run(THREADS[index % 3], ptr(a), ptr(w.values), ptr(w.at), ptr(w.starts), None, *i64(0),
                *i64(len(w.at), rows, columns, m, n, k), ptr(got))
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1.2e-7 * (8 + 4 * k))


@each_isa
def test_bytes_are_scaled_when_they_are_packed(isa: str) -> None:
    lib = load("sparse_driver", isa)
    m, n, k, rows, columns = 5, 48, 24, 16, 4
    w = sparse(n, k, rows, columns, 0.4, np.int8)
    a = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
    scales = np.random.default_rng(2).random(n).astype(np.float32)
    for step in (0, 1):
        got = np.full((m, n), np.nan, np.float32)
        lib.sparse_of_bytes(2, ptr(a), ptr(w.values), ptr(w.at), ptr(w.starts), ptr(scales), *i64(step),
                            *i64(len(w.at), rows, columns, m, n, k), ptr(got))
        want = a.astype(np.float64) @ (w.dense * scales[:, None] ** step * scales[0] ** (1 - step)).T.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@each_isa
def test_bf16_rows_and_blocks(isa: str) -> None:
    lib = load("sparse_driver", isa)
    m, n, k, rows, columns = 17, 64, 40, 32, 5
    w = sparse(n, k, rows, columns, 0.4, np.float32)
    values = to_bf16(w.values)
    dense = from_bf16(to_bf16(w.dense)).astype(np.float64)
    a = to_bf16(np.random.default_rng(1).standard_normal((m, k)))
    got = np.full((m, n), np.nan, np.float32)
    lib.sparse_bf16(2, ptr(a), ptr(values), ptr(w.at), ptr(w.starts), None, *i64(0),
                    *i64(len(w.at), rows, columns, m, n, k), ptr(got))
    np.testing.assert_allclose(got, from_bf16(a).astype(np.float64) @ dense.T, rtol=1e-5, atol=1e-5)


@each_isa
def test_int8_sums_are_exact_with_zero_points(isa: str) -> None:
    """With scales of one and sums below 2**24 the float results are the integer results, exactly."""
    lib = load("sparse_driver", isa)
    for index, (m, n, k, rows, columns, share) in enumerate(SHAPES):
        rng = np.random.default_rng(index)
        w = sparse(n, k, rows, columns, share, np.int8)
        ones = np.ones(max(m, n), np.float32)
        for run, dtype, low in ((lib.sparse_u8_wide, np.uint8, 0), (lib.sparse_u8_narrow, np.uint8, 0),
                                (lib.sparse_s8_wide, np.int8, -128)):
            a = rng.integers(low, low + 256, (m, k)).astype(dtype)
            zero = rng.integers(low, low + 256, max(m, 1)).astype(np.int32)
            zeros = zero[:m, None] if run is lib.sparse_u8_wide else zero[0]
            got = np.full((m, n), np.nan, np.float32)
            run(THREADS[index % 3], ptr(a), ptr(w.values), ptr(w.at), ptr(w.starts),
                *i64(len(w.at), rows, columns, m, n, k), ptr(ones), ptr(zero), ptr(ones), ptr(got))
            want = (a.astype(np.int64) - zeros) @ w.dense.T.astype(np.int64)
            assert np.abs(want).max(initial=0) < 2**24
            np.testing.assert_array_equal(got, want.astype(np.float32))


@each_byte_isa
def test_blocks_of_whole_steps(isa: str) -> None:
    lib = load("sparse_driver", isa)
    for index, (m, n, k, rows, columns, share) in enumerate(STEPS):
        rng = np.random.default_rng(index)
        w = sparse(n, k, rows, columns, share, np.int8)
        ones = np.ones(max(m, n), np.float32)
        for run, dtype, low in ((lib.sparse_u8_steps, np.uint8, 0), (lib.sparse_s8_steps, np.int8, -128)):
            a = rng.integers(low, low + 256, (m, k)).astype(dtype)
            zero = rng.integers(low, low + 256, m).astype(np.int32)
            zeros = zero[:, None] if dtype is np.uint8 else zero[0]
            got = np.full((m, n), np.nan, np.float32)
            run(THREADS[index % 3], ptr(a), ptr(w.values), ptr(w.at), ptr(w.starts),
                *i64(len(w.at), rows, columns, m, n, k), ptr(ones), ptr(zero), ptr(ones), ptr(got))
            want = (a.astype(np.int64) - zeros) @ w.dense.T.astype(np.int64)
            assert np.abs(want).max() < 2**24
            np.testing.assert_array_equal(got, want.astype(np.float32))


@each_isa
def test_panels_are_divided_by_what_they_store(isa: str) -> None:
    """Every row and panel has one worker, and no worker has much more than its share of the pieces."""
    lib = load("sparse_driver", isa)
    pieces = np.array([1000] + [10] * 99)
    first = np.concatenate([[0], np.cumsum(pieces)]).astype(np.int64)
    for m, workers in ((1, 2), (4, 2), (4, 3), (1000, 4), (128, 1), (0, 2)):
        out = np.zeros((workers, 4), np.int64)
        lib.sparse_split(*i64(workers, m, len(pieces)), ptr(first), ptr(out))
        done = np.zeros((m, len(pieces)), int)
        loads = []
        for r0, r1, p0, p1 in out:
            done[r0:r1, p0:p1] += 1
            loads.append((r1 - r0) * (first[p1] - first[p0] + 4 * (p1 - p0)))
        assert (done == 1).all()
        total = m * (first[-1] + 4 * len(pieces))
        assert max(loads) <= max(total / workers * 1.1 + 1100, m * 1004)


@each_isa
def test_infinities_meet_only_what_is_stored(isa: str) -> None:
    lib = load("sparse_driver", isa)
    w = sparse(64, 32, 32, 4, 0.5, np.float32)
    a = np.zeros((2, 32), np.float32)
    a[0, 5] = np.inf
    got = np.full((2, 64), np.nan, np.float32)
    lib.sparse_wide(1, ptr(a), ptr(w.values), ptr(w.at), ptr(w.starts), None, *i64(0),
                    *i64(len(w.at), 32, 4, 2, 64, 32), ptr(got))
    stored = w.dense[:, 5] != 0
    assert np.isinf(got[0, stored]).all() and (got[0, ~stored] == 0).all() and (got[1] == 0).all()

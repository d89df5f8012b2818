"""gemm_bf16.hpp and conv_bf16.hpp against numpy and torch, on every instruction set."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from kernel_harness import each_byte_isa, each_isa, from_bf16, i64, load, ptr, to_bf16
from test_kernels_conv import CASES

SHAPES = [
    (1, 1, 1), (1, 32, 64), (1, 100, 37), (2, 33, 5), (3, 64, 0), (5, 17, 129), (13, 31, 40), (14, 32, 64),
    (15, 96, 101), (29, 70, 31), (64, 48, 512), (130, 65, 1024), (0, 8, 8), (4, 0, 8),
]  # fmt: skip


@each_byte_isa
def test_products_of_pairs_over_ragged_shapes(isa: str) -> None:
    lib = load("bf16_driver", isa)
    rng = np.random.default_rng(1)
    for index, (m, n, k) in enumerate(SHAPES):
        a, weight = to_bf16(rng.standard_normal((m, k))), to_bf16(rng.standard_normal((n, k)))
        bias = rng.standard_normal(n).astype(np.float32)
        want = from_bf16(a).astype(np.float64) @ from_bf16(weight).T.astype(np.float64) + bias
        wide = np.full((m, k + 3), 0x7FC0, np.uint16)
        wide[:, :k] = a
        transposed = np.ascontiguousarray(weight.T)
        for run in (lib.gemm_pairs, lib.gemm_pairs_narrow):
            for rows, step, source, strides in ((a, k, weight, (k, 1)), (wide, k + 3, transposed, (1, n))):
                got = np.full((m, n), np.nan, np.float32)
                run(1 + index % 3, ptr(rows), *i64(step), ptr(source), *i64(*strides, m, n, k), ptr(bias), ptr(got))
                np.testing.assert_allclose(got, want, rtol=1e-6, atol=1.2e-7 * (8 + 4 * k))


@each_byte_isa
def test_nan_and_infinity_propagate(isa: str) -> None:
    lib = load("bf16_driver", isa)
    rng = np.random.default_rng(2)
    a, weight = rng.standard_normal((9, 21)), rng.standard_normal((40, 21))
    a[2, 3], a[5, 20], weight[11, 0] = np.nan, np.inf, -np.inf
    got = np.empty((9, 40), np.float32)
    lib.gemm_pairs(1, ptr(to_bf16(a)), *i64(21), ptr(to_bf16(weight)), *i64(21, 1, 9, 40, 21), None, ptr(got))
    with np.errstate(invalid="ignore"):
        want = from_bf16(to_bf16(a)) @ from_bf16(to_bf16(weight)).T
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))


@each_isa
def test_convolutions_of_pairs(isa: str) -> None:
    lib = load("bf16_driver", isa)
    torch.manual_seed(1)
    for case in CASES:
        x = torch.randn(case.batch, case.channels, *case.size).bfloat16().double()
        weight = torch.randn(case.weight_shape(False)).bfloat16().double()
        bias = torch.randn(case.outputs)
        want = case.reference(x, weight, bias.double(), False)
        shape = case.shape(tuple(want.shape[2:]))
        last = to_bf16(x.movedim(1, -1).contiguous().numpy())
        got = np.full((*want.movedim(1, -1).shape,), np.nan, np.float32)
        lib.conv_pairs(case.threads, ptr(last), ptr(to_bf16(weight.numpy())), ctypes.byref(shape), ptr(bias.numpy()),
                       ptr(got))
        np.testing.assert_allclose(got, want.movedim(1, -1).numpy(), rtol=1e-6, atol=1.2e-7 * (8 + 4 * case.reduction))

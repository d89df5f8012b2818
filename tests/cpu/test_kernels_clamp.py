"""requantize.hpp and clamp.hpp: what becomes of a product's sums, in registers or through memory, against torch."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from kernel_harness import each_isa, load, ptr
from test_kernels_conv import CASES, SQUARE_FLOAT, Case, channels_last, inputs


class Ending(ctypes.Structure):
    """Ending of clamp_driver.cpp."""

    _fields_ = [
        ("bias", ctypes.c_void_p), ("added", ctypes.c_void_p), ("low", ctypes.c_float), ("high", ctypes.c_float),
        ("inverse", ctypes.c_float), ("zero", ctypes.c_int32), ("floats", ctypes.c_void_p), ("bytes", ctypes.c_void_p),
    ]


POINTWISE = [
    Case(1, 16, 96, (9, 14), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case(2, 24, 24, (5, 7), (1, 1), (1, 1), (0, 0), (1, 1), threads=2),
    Case(1, 33, 45, (3, 5), (1, 1), (1, 1), (0, 0), (1, 1)),
    Case(1, 7, 16, (4, 4), (1, 1), (1, 1), (0, 0), (1, 1), threads=2),
]
SIGNED = {0: (False, False), 1: (True, True), 2: (False, False)}
"""Whether activations and results are signed, by the driver's kind."""


def sums(case: Case, signed: bool) -> tuple[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Activations (channels last), weights, zero point, column scales, the exact results times 0.5, and the output's
    spatial sizes: all results are multiples of 2^-9 with few bits, so that floats are exact."""
    rng = np.random.default_rng(case.reduction * 7 + case.outputs)
    low = -128 if signed else 0
    x = rng.integers(low, low + 256, (case.batch, case.channels, *case.size)).astype(np.int8 if signed else np.uint8)
    weight = rng.integers(-128, 128, case.weight_shape(False)).astype(np.int8)
    zero = int(rng.integers(low, low + 256))
    column_scale = (2.0 ** rng.integers(-8, -5, case.outputs)).astype(np.float32)
    centred = torch.from_numpy(x.astype(np.float64) - zero)
    exact = case.reference(centred, torch.from_numpy(weight.astype(np.float64)), None, False)
    source = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    return source, weight, zero, column_scale, channels_last(exact) * column_scale * 0.5, tuple(exact.shape[2:])


def steps(values: np.ndarray, inverse: float, zero: int, signed: bool) -> np.ndarray:
    low = -128 if signed else 0
    return np.clip(np.rint(values * inverse) + zero, low, low + 255).astype(np.int8 if signed else np.uint8)


@each_isa
@pytest.mark.parametrize("kind", list(SIGNED))
def test_sums_of_bytes_are_finished(isa: str, kind: int) -> None:
    lib = load("clamp_driver", isa)
    given, result = SIGNED[kind]
    for number, case in enumerate([*POINTWISE, *CASES]):
        x, weight, zero, column_scale, exact, out = sums(case, given)
        rng = np.random.default_rng(number)
        bias = rng.integers(-99, 99, case.outputs).astype(np.float32)
        added = rng.integers(-40, 40, exact.shape).astype(np.float32) if kind >= 2 and number % 2 else None
        low, high, inverse, z = (-30.0, 52.5, 0.5, 11) if number % 3 else (0.0, np.inf, 0.125, -3 if result else 7)
        if kind <= 1:  # within the range of bytes
            range_low = -128 if result else 0
            low, high = max(low, (range_low - z) / inverse), min(high, (range_low + 255 - z) / inverse)
        want = np.clip(exact + bias + (0 if added is None else added), low, high)
        floats = np.full(want.shape, np.nan, dtype=np.float32)
        found = np.zeros(want.shape, dtype=np.int8 if result else np.uint8)
        ending = Ending(bias.ctypes.data, None if added is None else added.ctypes.data, low, high, inverse, z,
                        floats.ctypes.data, found.ctypes.data)
        lib.clamp_i8(kind, number % 2, case.threads, ptr(x), ptr(weight), ctypes.byref(case.shape(out)),
                     ctypes.c_float(0.5), zero, ptr(column_scale), ctypes.byref(ending))
        if kind <= 1:
            np.testing.assert_array_equal(found, steps(want, inverse, z, result), err_msg=f"{case} {number}")
        else:
            np.testing.assert_array_equal(floats, want.astype(np.float32), err_msg=f"{case} {number}")


@each_isa
def test_huge_steps_are_clamped(isa: str) -> None:
    """Results far beyond 32-bit integers end at the bounds."""
    lib = load("clamp_driver", isa)
    case, inverse = POINTWISE[0], 1e9
    x, weight, zero, column_scale, exact, out = sums(case, False)
    bias = np.zeros(case.outputs, dtype=np.float32)
    found = np.zeros(exact.shape, dtype=np.uint8)
    ending = Ending(bias.ctypes.data, None, 0.0, 255 / inverse, inverse, 0, None, found.ctypes.data)
    lib.clamp_i8(0, 1, 1, ptr(x), ptr(weight), ctypes.byref(case.shape(out)), ctypes.c_float(0.5), zero,
                 ptr(column_scale), ctypes.byref(ending))
    np.testing.assert_array_equal(found, np.where(exact > 0, 255, 0).astype(np.uint8))


@each_isa
def test_sums_of_floats_are_finished(isa: str) -> None:
    lib = load("clamp_driver", isa)
    for number, case in enumerate([*POINTWISE, *CASES, *SQUARE_FLOAT]):
        x, weight, bias = inputs(case)
        want = channels_last(case.reference(x.double(), weight.double(), bias.double(), False))
        added = np.random.default_rng(number).standard_normal(want.shape).astype(np.float32) if number % 2 else None
        low, high = (-0.5, 6.0) if number % 3 else (-np.inf, np.inf)
        want = np.clip(want + (0 if added is None else added), low, high)
        got = np.full(want.shape, np.nan, dtype=np.float32)
        ending = Ending(bias.numpy().ctypes.data, None if added is None else added.ctypes.data, low, high, 1.0, 0,
                        got.ctypes.data, None)
        source, shape = channels_last(x), case.shape(want.shape[1:-1])
        if case in SQUARE_FLOAT:
            lib.clamp_square(case.threads, ptr(source), ptr(weight.numpy()), ctypes.byref(shape), ctypes.byref(ending))
        else:
            lib.clamp_f32(case.threads, ptr(source), ptr(weight.numpy()), ctypes.byref(shape), ctypes.byref(ending))
        np.testing.assert_allclose(got, want, rtol=5e-7, atol=1.2e-7 * (8 + 4 * case.reduction), err_msg=str(case))


@each_isa
def test_nan_passes_a_clamp(isa: str) -> None:
    lib = load("clamp_driver", isa)
    for case in (POINTWISE[0], POINTWISE[1], SQUARE_FLOAT[0]):
        x, weight, bias = inputs(case)
        x[0, 1, 2, 3] = np.nan
        want = channels_last(case.reference(x, weight, bias, False)).clip(0.0, 6.0)
        got = np.zeros(want.shape, dtype=np.float32)
        ending = Ending(bias.numpy().ctypes.data, None, 0.0, 6.0, 1.0, 0, got.ctypes.data, None)
        source, shape = channels_last(x), case.shape(want.shape[1:-1])
        if case in SQUARE_FLOAT:
            lib.clamp_square(1, ptr(source), ptr(weight.numpy()), ctypes.byref(shape), ctypes.byref(ending))
        else:
            lib.clamp_f32(1, ptr(source), ptr(weight.numpy()), ctypes.byref(shape), ctypes.byref(ending))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))

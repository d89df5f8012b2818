"""conv.hpp, conv_i8.hpp and depthwise.hpp against torch, on every instruction set."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_harness import each_byte_isa, each_isa, load, ptr, to_bf16


class ConvShape(ctypes.Structure):
    """mcomp::ConvShape."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "in_channels", "out_channels", "groups")),
        *((name, ctypes.c_int64 * 3) for name in ("in_", "out", "kernel", "stride", "pad", "dilation")),
    ]


def three(values: tuple[int, ...], fill: int) -> tuple[int, ...]:
    return (fill,) * (3 - len(values)) + values


@dataclass(frozen=True)
class Case:
    """A convolution; spatial tuples have one to three entries. `extra` is output padding of a transposed one."""

    batch: int
    channels: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    extra: tuple[int, ...] = ()
    threads: int = 1

    def shape(self, out: tuple[int, ...]) -> ConvShape:
        rows = (self.size, out, self.kernel, self.stride, self.pad, self.dilation)
        fills = (1, 1, 1, 1, 0, 1)
        arrays = [(ctypes.c_int64 * 3)(*three(tuple(row), fill)) for row, fill in zip(rows, fills, strict=True)]
        return ConvShape(self.batch, self.channels, self.outputs, self.groups, *arrays)

    def reference(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, transposed: bool
    ) -> torch.Tensor:
        rank = len(self.size)
        if transposed:
            run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
            extra = self.extra or (0,) * rank
            return run(x, weight, bias, self.stride, self.pad, extra, self.groups, self.dilation)
        return (F.conv1d, F.conv2d, F.conv3d)[rank - 1](
            x, weight, bias, self.stride, self.pad, self.dilation, self.groups
        )

    def weight_shape(self, transposed: bool) -> tuple[int, ...]:
        if transposed:
            return (self.channels, self.outputs // self.groups, *self.kernel)
        return (self.outputs, self.channels // self.groups, *self.kernel)

    @property
    def reduction(self) -> int:
        return self.channels // self.groups * int(np.prod(self.kernel))


CASES = [
    Case(1, 3, 16, (11, 13), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case(2, 3, 20, (23, 30), (7, 7), (2, 2), (3, 3), (1, 1), threads=2),
    Case(1, 16, 33, (9, 9), (3, 3), (1, 1), (0, 0), (1, 1)),
    Case(2, 17, 40, (10, 7), (1, 1), (1, 1), (0, 0), (1, 1), threads=2),
    Case(1, 8, 12, (10, 7), (1, 1), (2, 2), (0, 0), (1, 1)),
    Case(2, 6, 8, (10, 9), (1, 1), (1, 1), (2, 1), (1, 1)),
    Case(1, 10, 24, (12, 15), (3, 3), (1, 1), (2, 2), (2, 2), threads=3),
    Case(1, 5, 7, (14, 16), (3, 2), (3, 2), (2, 1), (1, 3)),
    Case(2, 12, 18, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1), groups=3, threads=2),
    Case(1, 8, 64, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), groups=2),
    Case(2, 4, 9, (50,), (5,), (1,), (2,), (1,), threads=2),
    Case(1, 7, 40, (31,), (3,), (2,), (0,), (2,)),
    Case(1, 4, 6, (5, 6, 7), (3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2), threads=2),
    Case(2, 3, 5, (4, 5, 6), (2, 2, 2), (2, 1, 2), (0, 0, 0), (1, 1, 1)),
    Case(1, 3, 32, (32, 32), (8, 8), (8, 8), (0, 0), (1, 1), threads=2),
    Case(1, 4, 8, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case(1, 4, 8, (2, 40), (3, 5), (1, 1), (3, 4), (1, 1)),
    Case(0, 4, 8, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    Case(1, 64, 32, (40, 40), (3, 3), (1, 1), (1, 1), (1, 1), threads=2),
    Case(1, 64, 40, (57, 61), (3, 3), (1, 1), (1, 1), (1, 1), threads=3),
    Case(2, 32, 34, (12, 20), (3, 3), (1, 1), (2, 2), (2, 2), threads=2),
    Case(2, 32, 530, (5, 4), (3, 3), (1, 1), (1, 1), (1, 1), threads=2),
    Case(1, 96, 512, (4, 4), (3, 3), (1, 1), (2, 2), (2, 2), threads=3),
    Case(2, 16, 18, (4, 6, 9), (2, 3, 3), (1, 1, 1), (1, 1, 0), (1, 1, 1), threads=2),
    Case(2, 48, 17, (90,), (9,), (1,), (4,), (1,), threads=2),
    Case(2, 17, 24, (7, 5), (3, 3), (1, 1), (2, 1), (1, 1), threads=2),
    Case(1, 47, 9, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), threads=2),
    Case(2, 20, 16, (3, 4, 6), (1, 3, 3), (1, 1, 1), (0, 1, 0), (1, 1, 1)),
]  # fmt: skip

TRANSPOSED = [
    Case(1, 6, 10, (7, 8), (2, 2), (2, 2), (0, 0), (1, 1)),
    Case(2, 5, 33, (6, 7), (4, 4), (2, 2), (1, 1), (1, 1), threads=2),
    Case(1, 8, 6, (5, 6), (3, 3), (2, 2), (1, 1), (1, 1), extra=(1, 1)),
    Case(1, 8, 12, (5, 6), (3, 3), (1, 1), (1, 1), (1, 1), groups=2),
    Case(1, 4, 6, (5, 6), (3, 2), (3, 4), (0, 1), (2, 3), threads=3),
    Case(1, 4, 6, (6, 5), (1, 1), (2, 2), (0, 0), (1, 1), extra=(1, 0)),
    Case(2, 4, 6, (9,), (5,), (3,), (2,), (1,), extra=(2,)),
    Case(1, 3, 5, (3, 4, 5), (2, 3, 3), (2, 1, 2), (0, 1, 1), (1, 1, 1), extra=(0, 0, 1), threads=2),
    Case(1, 3, 5, (4, 4), (3, 3), (2, 2), (1, 1), (2, 2)),
    Case(1, 3, 5, (3, 3), (7, 7), (2, 2), (5, 5), (1, 1)),
]

DEPTHWISE = [
    Case(1, 16, 16, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), groups=16),
    Case(2, 37, 37, (10, 12), (3, 3), (2, 2), (1, 1), (1, 1), groups=37, threads=2),
    Case(1, 72, 72, (8, 21), (5, 5), (1, 1), (2, 2), (1, 1), groups=72),
    Case(1, 5, 5, (11, 9), (3, 5), (1, 2), (2, 4), (2, 2), groups=5, threads=3),
    Case(1, 64, 64, (7, 7), (7, 7), (1, 1), (3, 3), (1, 1), groups=64),
    Case(1, 70, 70, (2, 2), (5, 5), (1, 1), (2, 2), (1, 1), groups=70),
    Case(1, 33, 33, (20,), (4,), (1,), (3,), (1,), groups=33, threads=2),
    Case(1, 6, 6, (4, 5, 6), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), groups=6),
    Case(1, 130, 130, (9, 30), (3, 3), (1, 1), (0, 0), (1, 1), groups=130),
]


SQUARE = [
    Case(1, 100, 100, (9, 13), (3, 3), (1, 1), (1, 1), (1, 1), groups=100),
    Case(2, 64, 64, (10, 12), (3, 3), (2, 2), (0, 1), (1, 1), groups=64, threads=2),
    Case(1, 37, 37, (3, 5), (3, 3), (1, 1), (2, 2), (1, 1), groups=37, threads=3),
    Case(1, 130, 130, (8, 21), (5, 5), (1, 1), (2, 2), (1, 1), groups=130, threads=2),
    Case(1, 48, 48, (11, 30), (5, 5), (3, 2), (2, 1), (1, 1), groups=48),
    Case(1, 3, 3, (2, 1), (5, 5), (1, 1), (2, 2), (1, 1), groups=3),
    Case(2, 65, 65, (7, 7), (7, 7), (1, 1), (3, 3), (1, 1), groups=65),
    Case(0, 16, 16, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), groups=16),
]
SQUARE_FLOAT = [c for c in SQUARE if c.kernel[0] < 7]
SQUARE_S8 = [c for c in SQUARE if (c.kernel[1], c.stride[1]) in ((3, 1), (5, 2))]
SQUARE_U8 = [c for c in SQUARE if (c.kernel[1], c.stride[1]) in ((3, 2), (5, 1), (7, 1))]


def channels_last(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(torch.movedim(x, 1, -1).numpy())


def inputs(case: Case, transposed: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(case.reduction * 31 + case.outputs)
    x = rng.standard_normal((case.batch, case.channels, *case.size)).astype(np.float32)
    weight = rng.standard_normal(case.weight_shape(transposed)).astype(np.float32)
    return (
        torch.from_numpy(x),
        torch.from_numpy(weight),
        torch.from_numpy(rng.standard_normal(case.outputs).astype(np.float32)),
    )


def check_float(lib_function: ctypes._CFuncPtr, case: Case, transposed: bool, rounded: bool = False) -> None:
    x, weight, bias = inputs(case, transposed)
    if rounded:
        x = x.bfloat16().float()
    want = case.reference(x.double(), weight.double(), bias.double(), transposed)
    source, flat = channels_last(x), weight.numpy()
    if rounded:
        source = to_bf16(source)
    expected = channels_last(want)
    got = np.full(expected.shape, np.nan, dtype=np.float32)
    shape = case.shape(tuple(want.shape[2:]))
    lib_function(case.threads, ptr(source), ptr(flat), ctypes.byref(shape), ptr(bias.numpy()), ptr(got))
    np.testing.assert_allclose(got, expected, rtol=5e-7, atol=1.2e-7 * (8 + 4 * case.reduction), err_msg=str(case))


@each_isa
def test_convolutions(isa: str) -> None:
    lib = load("conv_driver", isa)
    for case in CASES:
        check_float(lib.conv_float, case, transposed=False)
    for case in CASES[:6]:
        check_float(lib.conv_bf16, case, transposed=False, rounded=True)


@each_isa
def test_transposed_convolutions(isa: str) -> None:
    lib = load("conv_driver", isa)
    for case in TRANSPOSED:
        check_float(lib.conv_transposed_float, case, transposed=True)


@each_isa
def test_depthwise_convolutions(isa: str) -> None:
    lib = load("conv_driver", isa)
    for case in DEPTHWISE:
        check_float(lib.depthwise_float, case, transposed=False)
        check_float(lib.conv_float, case, transposed=False)
    square = load("depthwise_driver", isa)
    for case in SQUARE_FLOAT:
        check_float(square.square_float, case, transposed=False)


def check_bytes(run: ctypes._CFuncPtr, case: Case, signed: bool, transposed: bool | None) -> None:
    """Scales of powers of two and sums below 2**24: the float results are exact."""
    rng = np.random.default_rng(case.reduction * 17 + case.outputs + signed)
    low = -128 if signed else 0
    x = rng.integers(low, low + 256, (case.batch, case.channels, *case.size)).astype(np.int8 if signed else np.uint8)
    weight = rng.integers(-128, 128, case.weight_shape(bool(transposed))).astype(np.int8)
    zero = int(rng.integers(low, low + 256))
    column_scale = (2.0 ** rng.integers(-3, 3, case.outputs)).astype(np.float32)
    centred = torch.from_numpy(x.astype(np.float64) - zero)
    exact = case.reference(centred, torch.from_numpy(weight.astype(np.float64)), None, bool(transposed))
    expected = channels_last(exact) * column_scale * 0.5
    assert np.abs(expected).max(initial=0) < 2**24
    got = np.full(expected.shape, np.nan, dtype=np.float32)
    shape, source = case.shape(tuple(exact.shape[2:])), np.ascontiguousarray(np.moveaxis(x, 1, -1))
    tail = () if transposed is None else (int(transposed),)
    scale = ctypes.c_float(0.5)
    run(case.threads, ptr(source), ptr(weight), ctypes.byref(shape), scale, zero, ptr(column_scale), ptr(got), *tail)
    np.testing.assert_array_equal(got, expected.astype(np.float32), err_msg=str(case))


@each_byte_isa
@pytest.mark.parametrize("signed", [False, True])
def test_int8_convolutions_are_exact(isa: str, signed: bool) -> None:
    lib = load("conv_driver", isa)
    run = lib.conv_s8 if signed else lib.conv_u8
    for case in CASES:
        check_bytes(run, case, signed, transposed=False)
    for case in TRANSPOSED:
        check_bytes(run, case, signed, transposed=True)
    for case in DEPTHWISE:
        check_bytes(lib.depthwise_s8 if signed else lib.depthwise_u8, case, signed, transposed=None)
    for case in SQUARE_S8 if signed else []:
        check_bytes(load("depthwise_driver", isa).square_s8, case, signed, transposed=None)


@each_isa
def test_planes_behind_the_last_are_padding(isa: str) -> None:
    """Depth is padded behind only: there are more planes of outputs than of inputs."""
    rng = np.random.default_rng(5)
    case = Case(2, 16, 16, (2, 5, 6), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), threads=2)
    x = rng.integers(0, 256, (2, 16, 2, 5, 6)).astype(np.uint8)
    weight = rng.integers(-128, 128, case.weight_shape(False)).astype(np.int8)
    padded = F.pad(torch.from_numpy(x.astype(np.float64)) - 7, (0, 0, 0, 0, 0, 2))
    expected = channels_last(case.reference(padded, torch.from_numpy(weight.astype(np.float64)), None, False))
    got = np.full(expected.shape, np.nan, dtype=np.float32)
    shape, source, ones = case.shape((4, 5, 6)), np.ascontiguousarray(np.moveaxis(x, 1, -1)), np.ones(16, np.float32)
    load("conv_driver", isa).conv_u8(
        case.threads, ptr(source), ptr(weight), ctypes.byref(shape), ctypes.c_float(1.0), 7, ptr(ones), ptr(got), 0
    )
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@each_byte_isa
@pytest.mark.parametrize("weight", [-128, 127])
def test_the_largest_sums_are_exact(isa: str, weight: int) -> None:
    """Every product has the largest magnitude and the same sign."""
    run = load("conv_driver", isa).conv_u8
    case = Case(1, 48, 16, (6, 9), (3, 3), (1, 1), (1, 1), (1, 1))
    x, weights = np.full((1, 6, 9, 48), 255, np.uint8), np.full(case.weight_shape(False), weight, np.int8)
    expected = channels_last(case.reference(
        torch.full((1, 48, 6, 9), 255.0, dtype=torch.float64), torch.from_numpy(weights.astype(np.float64)), None, False
    ))
    assert np.abs(expected).max() < 2**24
    got = np.full(expected.shape, np.nan, dtype=np.float32)
    shape, ones = case.shape((6, 9)), np.ones(16, np.float32)
    run(1, ptr(x), ptr(weights), ctypes.byref(shape), ctypes.c_float(1.0), 0, ptr(ones), ptr(got), 0)
    np.testing.assert_array_equal(got, expected.astype(np.float32))


@each_isa
def test_depthwise_sums_become_bytes(isa: str) -> None:
    """Scales are powers of two, biases multiples of a step: nothing is rounded but the result."""
    lib = load("depthwise_driver", isa)
    for case in SQUARE_U8:
        rng = np.random.default_rng(case.reduction * 13 + case.outputs)
        x = rng.integers(0, 256, (case.batch, case.channels, *case.size)).astype(np.uint8)
        weight = rng.integers(-128, 128, case.weight_shape(False)).astype(np.int8)
        zero = int(rng.integers(0, 256))
        column_scale = (2.0 ** rng.integers(-9, -6, case.outputs)).astype(np.float32)
        bias = rng.integers(-200, 800, case.outputs).astype(np.float32)
        centred = torch.from_numpy(x.astype(np.float64) - zero)
        exact = case.reference(centred, torch.from_numpy(weight.astype(np.float64)), None, False)
        steps = (channels_last(exact) * column_scale * 0.5 + bias) * 0.125
        expected = (np.rint(np.clip(steps, -4.5, 240.0)) + 9).astype(np.uint8)
        got = np.zeros(expected.shape, dtype=np.uint8)
        shape, source = case.shape(tuple(exact.shape[2:])), np.ascontiguousarray(np.moveaxis(x, 1, -1))
        lib.square_to_bytes(case.threads, ptr(source), ptr(weight), ctypes.byref(shape), ctypes.c_float(0.5), zero,
                            ptr(column_scale), ptr(bias), ptr(got))
        np.testing.assert_array_equal(got, expected, err_msg=str(case))


@each_isa
def test_nan_reaches_only_its_neighbours(isa: str) -> None:
    lib = load("conv_driver", isa)
    case = CASES[0]
    x, weight, bias = inputs(case)
    x[0, 1, 4, 5] = np.nan
    want = channels_last(case.reference(x, weight, bias, False))
    got = np.zeros(want.shape, dtype=np.float32)
    source = channels_last(x)
    shape = case.shape(want.shape[1:-1])
    lib.conv_float(1, ptr(source), ptr(weight.numpy()), ctypes.byref(shape), ptr(bias.numpy()), ptr(got))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))

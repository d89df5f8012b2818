"""winograd.hpp against torch and the direct convolution, on every instruction set."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_harness import each_isa, load, ptr
from test_kernels_conv import ConvShape

UNIT = 2.0**-24
"""Half the distance of two neighbouring floats at 1."""


@dataclass(frozen=True)
class Case:
    """A 3x3 convolution: batch, channels in and out, image, padding before and after (height, width)."""

    batch: int
    channels: int
    outputs: int
    size: tuple[int, int]
    pad: tuple[int, int] = (1, 1)
    threads: int = 1
    narrow: bool = False

    @property
    def out(self) -> tuple[int, int]:
        return (self.size[0] + 2 * self.pad[0] - 2, self.size[1] + 2 * self.pad[1] - 2)

    @property
    def shape(self) -> ConvShape:
        rows = ((1, *self.size), (1, *self.out), (1, 3, 3), (1, 1, 1), (0, *self.pad), (1, 1, 1))
        return ConvShape(self.batch, self.channels, self.outputs, 1, *((ctypes.c_int64 * 3)(*row) for row in rows))

    def data(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image [N, H, W, C], weights [O, C, 3, 3], bias."""
        rng = np.random.default_rng([seed, self.channels, self.outputs, *self.size])
        x = rng.standard_normal((self.batch, *self.size, self.channels), dtype=np.float32)
        weight = rng.standard_normal((self.outputs, self.channels, 3, 3), dtype=np.float32)
        return x, weight, rng.standard_normal(self.outputs, dtype=np.float32)

    def exact(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        """The convolution in double, [N, OH, OW, O]."""
        image = torch.from_numpy(x).double().permute(0, 3, 1, 2)
        added = None if bias is None else torch.from_numpy(bias).double()
        return F.conv2d(image, torch.from_numpy(weight).double(), added, padding=self.pad).permute(0, 2, 3, 1).numpy()

    def empty(self) -> np.ndarray:
        return np.full((self.batch, *self.out, self.outputs), -7.0, dtype=np.float32)

    def run(
        self, lib: ctypes.CDLL, side: int, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
    ) -> np.ndarray:
        out = self.empty()
        shape = self.shape
        lib.winograd(
            side, int(self.narrow), self.threads, ptr(x), ptr(weight), ctypes.byref(shape), ptr(bias), ptr(out)
        )
        return out

    def direct(self, lib: ctypes.CDLL, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        out = self.empty()
        shape = self.shape
        lib.direct(self.threads, ptr(x), ptr(weight), ctypes.byref(shape), ptr(bias), ptr(out))
        return out


CASES = [
    Case(1, 16, 16, (8, 8), narrow=True),
    Case(2, 16, 32, (9, 7), threads=2),
    Case(1, 17, 40, (10, 11)),
    Case(3, 33, 16, (5, 6), threads=3),
    Case(1, 40, 33, (13, 4), pad=(0, 0), narrow=True),
    Case(1, 20, 20, (6, 7), pad=(2, 2)),
    Case(1, 32, 48, (7, 12), pad=(0, 2), threads=2),
    Case(1, 3, 5, (12, 9)),
    Case(1, 16, 16, (3, 3), pad=(0, 0)),
    Case(2, 16, 16, (1, 1)),
    Case(0, 16, 16, (8, 8)),
    Case(1, 24, 24, (40, 44), threads=2),
    Case(1, 128, 160, (14, 14), threads=2),
    Case(1, 128, 160, (28, 28), threads=3),
    Case(5, 144, 16, (9, 10), threads=4),
    Case(1, 200, 70, (20, 23), threads=6),
    Case(1, 400, 96, (24, 24), threads=2),
]  # fmt: skip


@each_isa
@pytest.mark.parametrize("side", [2, 4])
def test_results_are_those_of_the_convolution(isa: str, side: int) -> None:
    lib = load("winograd_driver", isa)
    for case in CASES:
        x, weight, bias = case.data()
        want = case.exact(x, weight, bias)
        got = case.run(lib, side, x, weight, bias)
        assert got.shape == want.shape
        tolerance = (1.2e-6 if side == 2 else 2.5e-6) * max(1.0, np.linalg.norm(want))
        assert np.linalg.norm(got - want) <= tolerance, case
    case = CASES[1]
    x, weight, _ = case.data()
    np.testing.assert_allclose(case.run(lib, side, x, weight, None), case.exact(x, weight, None), rtol=0, atol=1e-4)


def bound(case: Case, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What winograd.hpp says that tests hold results to, per output channel, with the largest |x| of the whole image."""
    return 0.25 * (case.channels + 16) * UNIT * np.abs(x).max() * np.abs(weight).sum((1, 2, 3))


@each_isa
@pytest.mark.parametrize("side", [2, 4])
def test_errors_stay_within_the_stated_bounds(isa: str, side: int) -> None:
    lib = load("winograd_driver", isa)
    for case in (Case(1, 16, 16, (12, 12)), Case(1, 64, 32, (12, 12)), Case(1, 256, 16, (8, 8))):
        rng = np.random.default_rng(case.channels)
        x, weight, _ = case.data()
        checkered = np.sign(weight) * np.where(np.indices((3, 3)).sum(0) % 2, -1, 1).astype(np.float32)
        alternating = np.broadcast_to(
            np.where(np.indices(case.size).sum(0) % 2, -1.0, 1.0)[None, :, :, None], x.shape
        ).astype(np.float32)
        for image, kernel in (
            (x, weight),
            (np.maximum(x, 0) + 3, np.abs(weight)),
            (alternating + rng.standard_normal(x.shape, dtype=np.float32) / 8, checkered),
            (x * np.float32(1e-20), weight * np.float32(1e15)),
        ):
            image, kernel = np.ascontiguousarray(image), np.ascontiguousarray(kernel)
            error = np.abs(case.run(lib, side, image, kernel, None) - case.exact(image, kernel, None)).max((0, 1, 2))
            assert (error <= bound(case, image, kernel)).all(), case


@each_isa
@pytest.mark.parametrize("side", [2, 4])
def test_random_data_errs_little_more_than_in_the_direct_convolution(isa: str, side: int) -> None:
    lib = load("winograd_driver", isa)
    for case in (Case(1, 16, 16, (16, 16)), Case(1, 64, 64, (12, 12)), Case(1, 256, 64, (12, 12))):
        x, weight, _ = case.data()
        x = np.maximum(x, 0)
        want = case.exact(x, weight, None)
        error, direct = (
            np.linalg.norm(got - want)
            for got in (case.run(lib, side, x, weight, None), case.direct(lib, x, weight, None))
        )
        assert error <= (1.5 if side == 2 else 4.0) * direct, case


@each_isa
@pytest.mark.parametrize("side", [2, 4])
def test_nan_and_infinity_stand_where_the_direct_convolution_has_them(isa: str, side: int) -> None:
    lib = load("winograd_driver", isa)
    for case in (Case(2, 17, 40, (11, 10), threads=2), Case(1, 32, 16, (9, 9), pad=(0, 2), narrow=True)):
        for special in (np.nan, np.inf, -np.inf):
            for position in ((0, 0, 0, 0), (0, 4, 5, 3), (0, 3, 8, 16), (0, 8, 8, 1), (0, 5, 2, 2)):
                x, weight, bias = case.data()
                x[position] = special
                check_places(lib, case, side, x, weight, bias)
        x, weight, bias = case.data()
        x[0, 2, 2, 0], x[0, 3, 3, 1] = np.inf, -np.inf
        weight[3, 0, 1, 1] = 0.0
        check_places(lib, case, side, x, weight, bias)


def check_places(
    lib: ctypes.CDLL, case: Case, side: int, x: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> None:
    with np.errstate(invalid="ignore"):
        want, got = case.direct(lib, x, weight, bias), case.run(lib, side, x, weight, bias)
    assert not np.isfinite(want).all()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])
    np.testing.assert_allclose(got[np.isfinite(want)], want[np.isfinite(want)], rtol=0, atol=2e-3)


@each_isa
@pytest.mark.parametrize("side", [2, 4])
def test_infinite_weights_and_overflow_are_the_direct_convolution_s(isa: str, side: int) -> None:
    lib = load("winograd_driver", isa)
    case = Case(1, 16, 40, (9, 9))
    for tap in np.ndindex(3, 3):
        x, weight, bias = case.data()
        weight[(5, 2, *tap)] = np.inf
        weight[(36, 3, *tap)] = np.nan
        check_places(lib, case, side, x, weight, bias)
    x, weight, bias = case.data()
    x[0, 4, 4] = 3.3e38
    weight[...] = 0
    weight[:, :, 1, 1] = 0.25 / 16
    weight[1] *= 8
    want, got = case.direct(lib, x, weight, bias), case.run(lib, side, x, weight, bias)
    assert np.isfinite(want[..., 0]).all() and np.isinf(want[0, 4, 4, 1])
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    np.testing.assert_allclose(got[0, 4, 4, 0], want[0, 4, 4, 0], rtol=1e-5)


@each_isa
def test_small_integers_are_exact_with_tiles_of_two(isa: str) -> None:
    lib = load("winograd_driver", isa)
    case = Case(1, 32, 32, (10, 9))
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, (1, *case.size, 32)).astype(np.float32)
    weight = rng.integers(-8, 9, (32, 32, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(case.run(lib, 2, x, weight, None), case.exact(x, weight, None))

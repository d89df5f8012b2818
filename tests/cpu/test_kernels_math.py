"""math.hpp and arithmetic.hpp: error bounds over all floats, limits, integer arithmetic as torch has it."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_harness import DRIVERS, each_isa, i64, load, ptr, vectorized

Function = Callable[[torch.Tensor], torch.Tensor]
# The exact function in float64 and the largest error in units in the last place that math.hpp states.
BOUNDS: dict[str, tuple[Function, float]] = {
    "exp": (torch.exp, 2),
    "exp2": (torch.exp2, 2),
    "expm1": (torch.expm1, 2),
    "log": (torch.log, 2),
    "log2": (torch.log2, 2),
    "log10": (torch.log10, 2),
    "log1p": (torch.log1p, 2),
    "sin": (torch.sin, 2),
    "cos": (torch.cos, 2),
    "tan": (torch.tan, 4),
    "tanh": (torch.tanh, 6),
    "erf": (torch.erf, 6),
}
ACTIVATIONS: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "log_sigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "mish": F.mish,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "gelu_erf": F.gelu,
    "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "relu": F.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "sign": torch.sign,
    "rsqrt": torch.rsqrt,
    "atan": torch.atan,
    "asinh": torch.asinh,
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "floor_div": torch.floor_divide,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "xlogy": torch.xlogy,
    "logaddexp": torch.logaddexp,
}
INTEGER: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "floor_div": torch.floor_divide,
    "remainder": torch.remainder,
    "trunc_div": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "fmod": torch.fmod,
    "maximum": torch.maximum,
    "shift_left": torch.bitwise_left_shift,
    "shift_right": torch.bitwise_right_shift,
    "pow": torch.pow,
}
SPECIAL = np.array(
    [
        0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1,
        -1,
        2,
        -2,
        0.5,
        -0.5,
        3,
        -3,
        1e-45,
        -1e-45,
        1e-38,
        3e38,
        -3e38,
        88.72283,
        88.72284,
        -103.9,
        -104.1,
        -87.33,
        9.02,
        3.95,
        16777215,
        16777216,
        16777217,
        1e22,
    ],
    np.float32,
)


def floats() -> np.ndarray:
    """Random bit patterns over the whole range, dense samples where functions bend, values near 1, special ones."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 300_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near_one = (1 + rng.standard_normal(50_000) * 1e-2).astype(np.float32)
    return np.concatenate(
        [
            bits,
            np.linspace(-20, 20, 100_001, dtype=np.float32),
            np.linspace(-110, 100, 50_001, dtype=np.float32),
            near_one,
            SPECIAL,
        ]
    )


def call(isa: str, name: str, *arrays: np.ndarray) -> np.ndarray:
    y = np.empty_like(arrays[0])
    load("math_driver", isa)[name](*(ptr(a) for a in arrays), ptr(y), *i64(y.size))
    return y


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the exact value; infinite where only one is NaN or infinite."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.abs(np.spacing(np.where(np.isfinite(rounded), rounded, np.float32(1)))).astype(np.float64)
        error = np.abs(got.astype(np.float64) - exact) / unit
        agree = (np.isnan(got) & np.isnan(exact)) | (got == rounded)
        return np.where(agree, 0, np.where(np.isfinite(error), error, np.inf))


@each_isa
@pytest.mark.parametrize("name", BOUNDS)
def test_error_bounds(isa: str, name: str) -> None:
    function, bound = BOUNDS[name]
    x = floats()
    error = ulps(call(isa, f"{name}_f32", x), function(torch.from_numpy(x).double()).numpy())
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is off by {error[worst]} ulp"


@each_isa
def test_signs_of_zero_and_saturation(isa: str) -> None:
    zeros = np.array([0.0, -0.0], np.float32)
    for name in ("sin", "tan", "tanh", "erf", "expm1", "log1p"):
        np.testing.assert_array_equal(np.signbit(call(isa, f"{name}_f32", zeros)), [False, True], err_msg=name)
    ends = np.array([-50, -9.1, 9.1, 50], np.float32)
    for name in ("tanh", "erf"):
        np.testing.assert_array_equal(call(isa, f"{name}_f32", ends), np.sign(ends), err_msg=name)
    low = np.linspace(-87.3, 0, 10_001, dtype=np.float32)
    assert ulps(call(isa, "exp_nonpositive_f32", low), np.exp(low.astype(np.float64))).max() <= 2
    far = np.array([-87.4, -1e30, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(call(isa, "exp_nonpositive_f32", far), [0, 0, 0, np.nan])


@each_isa
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(isa: str, name: str) -> None:
    x = floats()
    x = x[~(np.abs(x) > 1e36) | np.isinf(x)]
    got, exact = call(isa, f"{name}_f32", x), ACTIVATIONS[name](torch.from_numpy(x).double()).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    finite = np.isfinite(x) & np.isfinite(exact) & np.isfinite(got)
    error = np.abs(got[finite] - exact[finite]) / np.maximum(np.maximum(1, np.abs(x)), np.abs(exact))[finite]
    assert error.max() < 1e-6
    np.testing.assert_array_equal(got[~finite], exact[~finite].astype(np.float32))


@each_isa
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_coarse_gelu(isa: str, approximate: str) -> None:
    """Within kCoarse everywhere; NaN stays NaN."""
    x = floats()
    x = x[np.isfinite(x)]
    got = call(isa, f"gelu_{'erf' if approximate == 'none' else 'tanh'}_coarse_f32", x)
    exact = F.gelu(torch.from_numpy(x).double(), approximate=approximate).numpy()
    error = np.abs(got - exact) / np.maximum(1, np.abs(x) / 256)
    assert error.max() < 1.6e-4
    nan = np.array([np.nan, -np.nan], np.float32)
    assert np.isnan(call(isa, f"gelu_{'erf' if approximate == 'none' else 'tanh'}_coarse_f32", nan)).all()


@each_isa
def test_pow(isa: str) -> None:
    rng = np.random.default_rng(1)
    a, b = (v.ravel().copy() for v in np.meshgrid(SPECIAL, SPECIAL))
    wide = np.abs(floats())
    near = (1 + rng.standard_normal(50_000) * 1e-2).astype(np.float32)
    cases = [
        (a, b),
        (wide, (rng.standard_normal(wide.size) * 8).astype(np.float32)),
        (near, (rng.standard_normal(near.size) * 3000).astype(np.float32)),
        (-near, np.round(rng.standard_normal(near.size) * 9).astype(np.float32)),
    ]
    for x, y in cases:
        with np.errstate(all="ignore"):
            exact = np.power(x.astype(np.float64), y.astype(np.float64))
        error = ulps(call(isa, "pow_f32", x, y), exact)
        worst = int(error.argmax())
        assert error[worst] <= 1, f"pow({x[worst]!r}, {y[worst]!r}) is off by {error[worst]} ulp"


@each_isa
@pytest.mark.parametrize("name", BINARY)
def test_float_arithmetic(isa: str, name: str) -> None:
    rng = np.random.default_rng(2)
    normal = SPECIAL[(np.abs(SPECIAL) >= 1e-38) | (SPECIAL == 0) | np.isnan(SPECIAL)]
    a, b = (v.ravel() for v in np.meshgrid(normal, normal))
    a = np.concatenate([a, (rng.standard_normal(5000) * 10).astype(np.float32)])
    b = np.concatenate([b, (rng.standard_normal(5000) * 3).astype(np.float32)])
    if name in (
        "fmod",
        "remainder",
    ):  # torch's vectorized path gives NaN where a / b overflows, its scalar path does not
        with np.errstate(all="ignore"):
            usual = np.isfinite(a / b) | ~np.isfinite(a) | (b == 0)
        a, b = a[usual].copy(), b[usual].copy()
    want = BINARY[name](torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(call(isa, f"{name}_f32", a, b), want, rtol=1e-6, atol=1e-7)


@each_isa
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint8])
@pytest.mark.parametrize("name", INTEGER)
def test_integer_arithmetic(isa: str, name: str, dtype: type) -> None:
    rng, info = np.random.default_rng(3), np.iinfo(dtype)
    a = rng.integers(info.min, info.max, 4000, dtype=dtype, endpoint=True)
    b = rng.integers(info.min, info.max, 4000, dtype=dtype, endpoint=True)
    b[:2000] = rng.integers(max(info.min, -9), 9, 2000)
    a[:1000] = rng.integers(max(info.min, -90), 90, 1000)
    divides = name in ("floor_div", "trunc_div", "remainder", "fmod")
    usable = np.ones(a.size, np.bool_)
    if divides:
        usable = (b != 0) & ((a != info.min) | (info.min == 0))
    if name == "pow":
        usable = np.abs(b.astype(np.float64)) < 9
        if info.min == 0:
            usable &= b < 9
    a, b = a[usable].copy(), b[usable].copy()
    suffix = {np.int64: "i64", np.int32: "i32", np.int8: "i8", np.uint8: "u8"}[dtype]
    want = INTEGER[name](torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(call(isa, f"{name}_{suffix}", a, b), want)
    if divides:
        edge = np.array([info.min, 5, info.min], dtype), np.array([info.max if info.min == 0 else -1, 0, 0], dtype)
        assert call(isa, f"{name}_{suffix}", *edge)[1:].tolist() == [0, 0]


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_loops_vectorize(isa: str) -> None:
    """The compiler reports every elementary function and activation of the driver as vectorized, library calls apart."""
    source = DRIVERS / "math_driver.cpp"
    reported = {line for name, line in vectorized("math_driver", isa) if name == source.name}
    lines = source.read_text().splitlines()
    scalar = {"atan", "asinh"}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"UNARY\((\w+)\)", line)
        if match and match[1] not in scalar:
            assert number in reported, f"{match[1]} is not vectorized on {isa}"
    assert lines.index("BINARY(pow, float, f32)") + 1 in reported

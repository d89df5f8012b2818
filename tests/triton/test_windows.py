"""Convolutions and pools: random geometry, groups, element types and bytes."""

from __future__ import annotations

import numpy as np
import pytest

from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, check, kinds, made, needs_triton

pytestmark = needs_triton
I8 = Affine(dtypes.i8, axis=(0,))


@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.f16, dtypes.bf16], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_random_convolutions(seed: int, dtype: DType) -> None:
    rng = np.random.default_rng(seed)
    spatial = int(rng.integers(1, 4))
    groups = (1, 2, 4, 6)[seed]
    into, out = (groups, groups) if seed == 3 else (groups * int(rng.integers(1, 6)), groups * int(rng.integers(1, 6)))
    size = tuple(int(s) for s in rng.integers(5, 9, spatial))
    kernel = tuple(int(s) for s in rng.integers(1, 4, spatial))
    attrs = {
        "stride": tuple(int(s) for s in rng.integers(1, 3, spatial)),
        "dilation": tuple(int(s) for s in rng.integers(1, 3, spatial)),
        "padding": tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (spatial, 2))), "groups": groups,
    }

    def make(m: Made) -> list[Value]:
        y = m.op("conv", m.input((B, into, *size), dtype), m.const((out, into // groups, *kernel), dtype, scale=0.3),
                 m.const((out,), dtype), **attrs)
        return [m.op("relu", y)]

    found = kinds(check(made(make, seed), {"B": 2}), B=2)
    assert found == ["depthwise" if seed == 3 else "conv"]


@pytest.mark.parametrize("groups", [1, 3])
def test_transposed(groups: int) -> None:
    def make(m: Made) -> list[Value]:
        w = m.const((6, 12 // groups, 3, 2), scale=0.3)
        y = m.op("conv_transpose", m.input((B, 6, 5, 4)), w, m.const((12,)), stride=(2, 1), padding=(1, 0),
                 output_padding=(1, 0), dilation=(1, 2), groups=groups)
        return [y]

    assert kinds(check(made(make)), B=3) == ["conv_transpose"]


def test_bytes_with_padding() -> None:
    """Outside of the image stands the zero point, not zero; grouped, strided and depthwise."""
    def make(m: Made) -> list[Value]:
        x = m.op("quantize", m.input((B, 8, 9, 10)), dtype=dtypes.u8, scale=0.03, zero=120)
        geometry = {"stride": (2, 1), "padding": ((1, 1), (0, 2)), "dilation": (1, 1)}
        y = m.op("conv", x, m.const((16, 8, 3, 3), encoding=I8), m.const((16,)), groups=1, **geometry)
        z = m.op("conv", x, m.const((8, 4, 3, 3), encoding=I8), groups=2, **geometry)
        d = m.op("conv", x, m.const((8, 1, 3, 3), encoding=I8), groups=8, **geometry)
        signed = m.op("quantize", m.input((B, 8, 9, 10)), axis=())
        s = m.op("conv", signed, m.const((8, 8, 3, 3), encoding=I8), groups=1, **geometry)
        return [m.op("relu", y), z, d, s]

    found = kinds(check(made(make), {"B": 2}, tolerance=5e-3), B=2)
    assert found.count("conv_i8") == 3 and found.count("depthwise_i8") == 1
    assert not any(k.startswith("torch") for k in found if k != "torch:quantize")


def test_channels_stay_last_between_convolutions() -> None:
    """What a convolution gives is read where it lies: no copies between layers, one at most at the end."""
    def make(m: Made) -> list[Value]:
        one = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
        x = m.op("relu", m.op("conv", m.input((B, 3, 8, 8)), m.const((8, 3, 3, 3)), **one))
        y = m.op("relu", m.op("conv", x, m.const((8, 8, 3, 3), scale=0.2), **one))
        pooled = m.op("max_pool", m.op("add", x, y), kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1))
        return [m.op("mean", pooled, axes=(2, 3))]

    found = kinds(check(made(make), {"B": 2}), B=2)
    assert "copy" not in found and not any(k.startswith("torch") for k in found)

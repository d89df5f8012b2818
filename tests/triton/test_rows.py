"""Norms, softmax, reductions and reads at indices: whole rows, rows in pieces, what surrounds them in the same kernel."""

from __future__ import annotations

import pytest
import torch

from mcomp.errors import CallError
from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, check, compiled, kinds, made, needs_triton

pytestmark = needs_triton


@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.f16, dtypes.bf16], ids=str)
@pytest.mark.parametrize("width", [1, 33, 9000])
def test_norms_with_a_residual(width: int, dtype: DType) -> None:
    """The sum before the norm is a result too; rows of more than 8192 elements are read in pieces."""
    def make(m: Made) -> list[Value]:
        total = m.op("add", m.input((B, width), dtype), m.input((B, width), dtype))
        y = m.op("layer_norm", total, m.const((width,), dtype), m.const((width,), dtype), axes_count=1, eps=1e-5)
        z = m.op("rms_norm", m.op("mul", total, total), m.const((width,), dtype), axes_count=1, eps=1e-6, offset=1.0)
        s = m.op("softmax", m.input((B, width), dtype), axis=1)
        return [total, m.op("gelu", y), z, s, m.op("log_softmax", m.input((width, B), dtype), axis=0)]

    check(made(make, width), {"B": 5})


@pytest.mark.parametrize("size", [2, 70])
def test_group_norm(size: int) -> None:
    def make(m: Made) -> list[Value]:
        y = m.op("group_norm", m.input((B, 12, size, size)), m.const((12,)), m.const((12,)), groups=3, eps=1e-5)
        return [m.op("silu", y)]

    found = kinds(check(made(make), {"B": 2}), B=2)
    assert found == ["group_norm" if size == 2 else "group_norm_pieces"]


def test_a_norm_that_quantizes_for_the_next_product() -> None:
    def make(m: Made) -> list[Value]:
        y = m.op("layer_norm", m.input((B, 7, 48)), m.const((48,)), m.const((48,)), axes_count=1, eps=1e-5)
        return [m.op("linear", m.op("quantize", y), m.const((16, 48), encoding=Affine(dtypes.i8, axis=(0,))))]

    executable = check(made(make), {"B": 4}, tolerance=5e-3)
    assert kinds(executable, B=4) == ["layer_norm", "linear_i8"]


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "var", "logsumexp", "norm"])
def test_reductions_of_chains(name: str) -> None:
    def make(m: Made) -> list[Value]:
        x = m.op("mul", m.op("tanh", m.input((B, 5, 300))), m.input((B, 1, 300)))
        return [m.op(name, x, axes=(0, 2), keepdim=True)]

    assert kinds(check(made(make), {"B": 4}, tolerance=2e-5), B=4) == ["reduce"]


def test_an_index_out_of_range_is_an_error() -> None:
    """It is reported, nothing outside of the table is read, and the next call is fine."""
    def make(m: Made) -> list[Value]:
        return [m.op("embedding", m.const((10, 4)), m.input((B,), dtypes.i64))]

    executable = compiled(made(make))
    for bad in (10, -1, 2**40):
        with pytest.raises(CallError, match="out of range"):
            executable.run([torch.tensor([1, bad, 3])], {"B": 3})
        assert executable.run([torch.tensor([1, 2, 3])], {"B": 3})[0].isfinite().all()

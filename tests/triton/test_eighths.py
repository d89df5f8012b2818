"""Floats of 8 bits made where their elements are computed: behind products, element-wise nodes and norms."""

from __future__ import annotations

import pytest

from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import Scaled
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, check, kinds, made, needs_triton

pytestmark = needs_triton
STATIC: dict[str, object] = {"dtype": dtypes.f8e4m3, "scale": 0.02}
ROWS: dict[str, object] = {"dtype": dtypes.f8e4m3}
LIMIT = 2e-2
"""Relative error where a result just between two floats of 8 bits may become either."""


def _weight(m: Made, n: int, k: int, dtype: DType) -> Value:
    return m.const((n, k), dtype, Scaled(axis=(0,)), scale=0.2)


@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.bf16], ids=str)
def test_a_known_scale_ends_a_product(dtype: DType) -> None:
    """The middle of two layers never exists in more than 8 bits."""
    def make(m: Made) -> list[Value]:
        x = m.op("quantize", m.input((B, 3, 48), dtype), **STATIC)
        h = m.op("gelu", m.op("linear", x, _weight(m, 33, 48, dtype), m.const((33,), dtype)))
        return [m.op("linear", m.op("quantize", h, **STATIC), _weight(m, 20, 33, dtype))]

    executable = check(made(make), tolerance=LIMIT)
    assert kinds(executable, B=3) == ["quantize", "linear_f8", "linear_f8"]


def test_a_known_scale_ends_a_run_of_element_wise_nodes() -> None:
    """Others may read the value itself; numbers beyond the largest are limited."""
    def make(m: Made) -> list[Value]:
        y = m.op("mul", m.op("exp", m.input((B, 48))), m.input((B, 48)))
        return [m.op("decode", m.op("quantize", y, **{**STATIC, "scale": 1e-3})), y]

    assert kinds(check(made(make), tolerance=LIMIT), B=3) == ["pointwise", "pointwise"]


@pytest.mark.parametrize("how", [STATIC, ROWS], ids=["static", "rows"])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "softmax"])
def test_norms_give_floats_of_8_bits(norm: str, how: dict[str, object]) -> None:
    """With what is added before and computed behind."""
    def make(m: Made) -> list[Value]:
        attrs: dict[str, object] = {"axis": 1} if norm == "softmax" else {"axes_count": 1, "eps": 1e-5}
        y = m.op(norm, m.op("add", m.input((B, 48)), m.input((B, 48))), **attrs)
        q = m.op("quantize", m.op("relu", y), **how)
        return [m.op("linear", q, _weight(m, 33, 48, dtypes.f32)), y]

    assert kinds(check(made(make), tolerance=LIMIT), B=3) == [norm, "linear_f8"]


def test_a_long_row_with_a_known_scale_goes_in_pieces() -> None:
    def make(m: Made) -> list[Value]:
        y = m.op("softmax", m.input((B, 9000)), axis=1)
        return [m.op("decode", m.op("quantize", y, **{**STATIC, "scale": 1e-5}))]

    assert kinds(check(made(make), tolerance=LIMIT), B=3) == ["softmax_pieces", "pointwise"]


def test_rows_of_zeros_and_of_what_is_no_number() -> None:
    """As the operator says: a scale of 1, and NaN for all of the row."""
    import torch

    from mcomp.ops.evaluate import run_graph
    from tests.triton.harness import close, compiled

    graph = made(lambda m: [m.op("decode", m.op("quantize", m.op("rms_norm", m.input((B, 16)), axes_count=1, eps=1e-5),
                                                **ROWS))])
    x = torch.randn(3, 16)
    x[0], x[1, 3] = 0.0, float("nan")
    close(compiled(graph).run([x], {"B": 3})[0], run_graph(graph, [x])[0], LIMIT)

"""Flash attention: masks, rows with nothing kept, causal, grouped queries, lengths that change from call to call."""

from __future__ import annotations

import math

import pytest
import torch

from mcomp.backends.triton.lower import tiles
from mcomp.ir import dtypes
from mcomp.ir.dims import Bounds, sym
from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Graph, Value
from tests.triton.harness import B, Made, check, close, compiled, inputs_of, kinds, needs_triton

pytestmark = needs_triton
S, T = sym("S"), sym("T")


def _graph(make: object) -> Graph:
    m = Made()
    m.graph.symbols |= {"S": Bounds(1), "T": Bounds(1)}
    m.graph.set_outputs(list(make(m)))  # type: ignore[operator]
    return m.graph


@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.f16, dtypes.bf16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_change(causal: bool, dtype: DType) -> None:
    def make(m: Made) -> list[Value]:
        q, k, v = m.input((B, 4, S, 24), dtype), m.input((B, 2, T, 24), dtype), m.input((B, 2, T, 16), dtype)
        return [m.op("attention", q, k, v, causal=causal, grouped=True)]

    for s, t in ((1, 1), (5, 33), (70, 3)):
        executable = check(_graph(make), {"B": 2, "S": s, "T": t}, seed=s)
        assert kinds(executable, B=2, S=s, T=t) == ["attention"]


@pytest.mark.parametrize("shape", [(B, 1, 1, T), (B, 3, S, T), (S, T)], ids=str)
@pytest.mark.parametrize("truths", [True, False])
def test_masks(truths: bool, shape: tuple[object, ...]) -> None:
    def make(m: Made) -> list[Value]:
        q, k, v = m.input((B, 3, S, 8)), m.input((B, 3, T, 8)), m.input((B, 3, T, 8))
        mask = m.input(shape, dtypes.bool_ if truths else dtypes.f32)  # type: ignore[arg-type]
        return [m.op("attention", q, k, v, mask, causal=len(shape) == 2)]

    check(_graph(make), {"B": 2, "S": 17, "T": 19})


@pytest.mark.parametrize("kind", [dtypes.bool_, dtypes.f32], ids=str)
def test_rows_with_nothing_kept_are_zero(kind: DType) -> None:
    def make(m: Made) -> list[Value]:
        q, k, v = m.input((B, 2, S, 8)), m.input((B, 2, T, 8)), m.input((B, 2, T, 8))
        return [m.op("attention", q, k, v, m.input((S, T), kind))]

    graph = _graph(make)
    sizes = {"B": 1, "S": 6, "T": 40}
    inputs = inputs_of(graph, sizes)
    inputs[3][2] = False if kind is dtypes.bool_ else -math.inf
    from mcomp.ops.evaluate import run_graph

    (found,) = compiled(graph).run(inputs, sizes)
    assert torch.count_nonzero(found[:, :, 2]) == 0
    close(found, run_graph(graph, inputs, sizes)[0])


def test_rows_of_the_lowest_number_are_no_rows_with_nothing_kept() -> None:
    """As masks of transformers have it for sentences that are padding throughout: the mean of all values."""
    def make(m: Made) -> list[Value]:
        q, k, v = m.input((B, 2, S, 8)), m.input((B, 2, T, 8)), m.input((B, 2, T, 8))
        return [m.op("attention", q, k, v, m.input((S, T)))]

    graph = _graph(make)
    sizes = {"B": 1, "S": 6, "T": 40}
    inputs = inputs_of(graph, sizes)
    inputs[3][2] = torch.finfo(torch.float32).min
    inputs[3][4, 10:] = torch.finfo(torch.float32).min
    from mcomp.ops.evaluate import run_graph

    (found,) = compiled(graph).run(inputs, sizes)
    torch.testing.assert_close(found[:, :, 2], inputs[2].mean(2), rtol=1e-5, atol=1e-6)
    close(found, run_graph(graph, inputs, sizes)[0])


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_more_heads_than_an_axis_of_the_grid_holds(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "MOST_PROGRAMS", 4)

    def make(m: Made) -> list[Value]:
        q, k, v = m.input((B, 2, S, 8)), m.input((B, 2, T, 8)), m.input((B, 2, T, 8))
        return [m.op("attention", q, k, v), m.op("matmul", q, m.op("permute", k, order=(0, 1, 3, 2)))]

    check(_graph(make), {"B": batch, "S": 5, "T": 9})


def test_heads_in_any_layout() -> None:
    """Heads cut out of one projection are read in place, and what comes out needs no copy to be joined."""
    def make(m: Made) -> list[Value]:
        x = m.input((B, S, 3, 2, 8))
        q, k, v = (m.op("permute", m.op("select", x, axis=2, index=i), order=(0, 2, 1, 3)) for i in range(3))
        y = m.op("permute", m.op("attention", q, k, v), order=(0, 2, 1, 3))
        return [m.op("linear", m.op("reshape", y, shape=(B, S, 16)), m.const((16, 16)))]

    executable = check(_graph(make), {"B": 2, "S": 9, "T": 1})
    assert kinds(executable, B=2, S=9, T=1) == ["attention", "linear"]

"""Rows of a linear layer that are computed where they are multiplied: what is fused, the kernels, and which is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.builder import FUSION
from mcomp.backends.triton.device import Interpreter
from mcomp.backends.triton.executor import TritonExecutable
from mcomp.backends.triton.program import Chip, Choice
from mcomp.ir import Graph, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Affine, BlockSparse, Encoding, Scaled
from mcomp.ir.graph import Value
from mcomp.ops.evaluate import run_graph
from tests.triton.harness import B, Made, close, inputs_of, kinds, made, needs_triton

pytestmark = needs_triton

FLOATS = (dtypes.f32, dtypes.f16, dtypes.bf16)
TILE, VECTOR = "tile, rows computed", "vector, rows computed"
Make = Callable[[Made], list[Value]]


def gated(dtype: DType, n: int, k: int, encoding: Encoding = DENSE, *, tail: bool = True) -> Make:
    """silu(x) * y, of which y is the same for all rows but those of its own axis, times a weight, with a tail."""
    def make(m: Made) -> list[Value]:
        x, y = m.input((B, 3, k), dtype), m.input((B, 1, k), dtype)
        rows = m.op("mul", m.op("silu", x), y)
        found = m.op("linear", rows, m.const((n, k), dtype, encoding), m.const((n,), dtype))
        return [m.op("add", m.op("gelu", found), m.input((B, 3, n), dtype))] if tail else [found]

    return make


def run(graph: Graph, sizes: Mapping[str, int], way: str | None = None) -> TritonExecutable:
    """Run with a way chosen by hand (None: by itself), and compare with the reference."""
    program = lower_graph(graph, None)
    for step in program.steps:
        if way is not None and isinstance(step, Choice):
            place = [name for name, _ in step.ways].index(way)
            step.default = lambda sizes, chip, place=place: place  # type: ignore[misc]
    executable = TritonExecutable(program, Interpreter())
    given = inputs_of(graph, sizes)
    for found, expected in zip(executable.run(given, dict(sizes)), run_graph(graph, given), strict=True):
        close(found, expected)
    return executable


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("way", "kind"), [(TILE, "linear_computed"), (VECTOR, "vector_computed"), ("tile", "linear")])
def test_rows_are_computed_on_the_way(dtype: DType, way: str, kind: str) -> None:
    for count, n, k in ((1, 5, 7), (9, 33, 130), (4, 70, 64)):
        graph = made(gated(dtype, n, k, tail=count != 9), n, fusion=FUSION)
        (fused,) = (node for node in graph.nodes if node.bodies)
        assert fused.attrs["kind"] == "inputs"
        executable = run(graph, {"B": count}, way)
        assert kinds(executable, B=count) == ([kind] if "computed" in way else ["pointwise", kind])


@pytest.mark.parametrize("way", [TILE, VECTOR])
@pytest.mark.parametrize("encoding", [Affine(dtypes.i8, axis=(0,)), Affine(dtypes.i8), Scaled(axis=(0,))], ids=str)
def test_weights_of_8_bits(encoding: Encoding, way: str) -> None:
    run(made(gated(dtypes.f16, 19, 40, encoding), 1, fusion=FUSION), {"B": 5}, way)


@pytest.mark.parametrize("way", [TILE, VECTOR])
def test_what_lies_behind_the_inner_axis_counts_as_nothing(way: str) -> None:
    """1 / x of what is not there would be infinite; rows that are the same in all columns are as wide as the others."""
    def make(m: Made) -> list[Value]:
        x = m.op("add", m.op("square", m.input((B, 1))), m.const((1, 21)))
        rows = m.op("reciprocal", m.op("add", m.op("square", x), m.input((B, 1))))
        return [m.op("linear", m.op("expand", rows, shape=(B, 21)) if rows.tensor.shape != (B, 21) else rows,
                     m.const((6, 21)))]

    run(made(make, fusion=FUSION), {"B": 3}, way)


def test_weights_in_groups_and_blocks_get_rows_from_a_kernel_of_their_own() -> None:
    groups = run(made(gated(dtypes.f32, 16, 32, Affine(dtypes.i4, axis=(0,), group=8)), fusion=FUSION), {"B": 9})
    assert kinds(groups, B=9) == ["pointwise", "linear_i4"]
    blocks = run(made(gated(dtypes.f32, 16, 32, BlockSparse((4, 4), 1)), fusion=FUSION), {"B": 9})
    assert kinds(blocks, B=9) == ["pointwise", "blocksparse"]


def test_what_others_read_and_what_a_norm_gives_is_no_input() -> None:
    def shared(m: Made) -> list[Value]:
        rows = m.op("silu", m.input((B, 8)))
        return [m.op("linear", rows, m.const((4, 8))), rows]

    def normal(m: Made) -> list[Value]:
        x = m.op("rms_norm", m.input((B, 8)), None, axes_count=1, eps=1e-5)
        return [m.op("linear", m.op("silu", x), m.const((4, 8)))]

    for make in (shared, normal):
        graph = made(make, fusion=FUSION)
        assert all(n.attrs["kind"] != "inputs" for n in graph.nodes if n.bodies)
        run(graph, {"B": 5})


def test_which_way_is_taken() -> None:
    """A few rows, or a few tiles along the columns, are computed on the way; all ways are there to be measured."""
    deep = made(gated(dtypes.f16, 64, 4096), fusion=FUSION)
    step = next(s for s in lower_graph(deep, None).steps if isinstance(s, Choice))
    wide = next(s for s in lower_graph(made(gated(dtypes.f16, 512, 64), fusion=FUSION), None).steps if isinstance(s, Choice))

    def default(step: Choice, rows: int, cols: int) -> str:
        return step.ways[step.default({"rows": rows, "cols": cols}, Chip(90, 227 << 10, 132))][0]

    assert {name for name, _ in step.ways} == {
        "tile", "vector", "library", "split tile", "split vector", TILE, VECTOR,
    }
    assert default(step, 3, 64) == VECTOR and default(step, 300, 64) == TILE
    assert default(wide, 3, 512) == VECTOR and default(wide, 30000, 512) == "tile"

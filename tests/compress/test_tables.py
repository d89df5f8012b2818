"""Embedding tables: integers, narrower tables, and how they run."""

import pytest
import torch

from mcomp.errors import CallError, McompError
from mcomp.ir import Affine, Graph, dtypes, parse_graph
from mcomp.manager import Context
from mcomp.passes.compress.tables import TableDecomposer, row_usage, table_error, table_nodes
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, layers, random
from tests.cpu.backend_harness import check, needs_compiler

TEXT = """
graph @g[B in 1..](%i: i64[B, 5]) -> (f32[B, 5, 64]) {
  %t = const @words.weight#seed=1 : f32[50, 64]  loc(words)
  %y = embedding %t, %i : f32[B, 5, 64]  loc(words)
  return %y
}"""
TIED = """
graph @g[B in 1..](%i: i64[B, 5]) -> (f32[B, 5, 50]) {
  %t = const @words.weight#seed=1 : f32[50, 64]  loc(words)
  %h = embedding %t, %i : f32[B, 5, 64]  loc(words)
  %g = relu %h : f32[B, 5, 64]
  %y = linear %g, %t : f32[B, 5, 50]  loc(head)
  return %y
}"""


def ids(rows: int = 8, high: int = 50) -> torch.Tensor:
    return torch.randint(0, high, (rows, 5), generator=torch.Generator().manual_seed(0))


def table(graph: Graph) -> object:
    return next(n for n in graph.nodes if n.op.name == "embedding").operand(0).tensor.encoding


@pytest.mark.parametrize(("bits", "limit", "share"), [(8, 0.01, 0.28), (4, 0.12, 0.16), (3, 0.22, 0.12), (2, 0.45, 0.09)])
def test_tables_become_integers(bits: int, limit: float, share: float) -> None:
    graph, _, error = compressed(parse_graph(TEXT, generate=True), f"quantize{{bits={bits},max_error=0.5}}", [[ids()]])
    encoding = table(graph)
    assert isinstance(encoding, Affine) and encoding.dtype.bits == bits and encoding.axis == (0,)
    (entry,) = graph.ledger
    assert 0 < error < limit
    assert entry.error == pytest.approx(error, rel=0.2) and entry.bytes_saved > (1 - share) * 50 * 64 * 4


def test_tables_can_stay_as_they_are() -> None:
    for pipeline in ("quantize{tables=false}", "quantize{max_error=0.0001}"):
        graph, _, error = compressed(parse_graph(TEXT, generate=True), pipeline, [[ids()]])
        assert error == 0 and not graph.ledger
    graph, _, _ = compressed(parse_graph(TEXT, generate=True), "quantize", [[ids()]], exclude=["words"])
    assert not graph.ledger


def test_a_table_that_is_also_a_weight_is_stored_once() -> None:
    graph, _, _ = compressed(parse_graph(TIED, generate=True), "quantize{smooth=0}", [[ids()]])
    digests = {n.attrs["digest"] for n in graph.nodes if n.op.name == "const" and len(n.type.shape) == 2}
    assert len(digests) == 1 and len(graph.ledger) == 2
    new_bias = 50 * 4  # takes up the mean error of the linear, which had none
    assert sum(e.bytes_saved for e in graph.ledger) == 50 * 64 * 4 - (50 * 64 + 50 * 4) - new_bias
    assert sum(n.result.weight.nbytes for n in graph.nodes if len(n.type.shape) == 1 and n.op.name == "const") == new_bias
    graph, context, _ = compressed(parse_graph(TIED, generate=True), "quantize", [[ids()]], exclude=["head"])
    assert not graph.ledger
    assert any("others read its table" in r.reason for r in context.remarks)


def test_narrower_tables() -> None:
    """Exact at full rank, the best on the rows that are read below it; only where size is wanted, or when asked for."""
    graph = parse_graph(TEXT, generate=True)
    narrow, _, error = compressed(graph, "lowrank{rank=64,tables=true,gain=10.0}", [[ids()]])
    assert error < 1e-6 and [n.op.name for n in narrow.nodes if n.op.name != "const"] == ["embedding", "linear"]
    small, context, error = compressed(graph, "lowrank{rank=16,max_error=1.0}", [[ids()]], objective="size")
    assert small.ledger[0].error == pytest.approx(error, rel=0.2), [str(r) for r in context.remarks]
    assert small.ledger[0].bytes_saved == 4 * (50 * 64 - 50 * 16 - 64 * 16 - 64)
    same, _, _ = compressed(graph, "lowrank{rank=16,max_error=1.0}", [[ids()]])
    assert not same.ledger
    both, _, _ = compressed(graph, "lowrank{rank=16,max_error=1.0,tables=true},quantize{bits=4}", [[ids()]])
    assert isinstance(table(both), Affine) and layers(both)[0].operand(1).tensor.encoding != dtypes.f32


def test_a_row_of_padding_is_no_infinite_error() -> None:
    """The mean of the other rows goes into the bias, and the narrower table gives the row of zeros a little of it."""
    graph = parse_graph(TEXT, generate=True)
    rows = graph.value("t").weight.decode() + 1.0
    rows[0] = 0.0
    with graph.edit("padding") as editor:
        editor.replace(graph.value("t"), editor.const(rows, name="words.weight", before=graph.value("y").producer))
    small, context, _ = compressed(graph, "lowrank{rank=48,tables=true,gain=2.0}", [[ids()]])
    assert [e.layer for e in small.ledger] == ["words"], [str(r) for r in context.remarks]
    assert 0 < small.ledger[0].error < 0.25


def test_rows_that_are_read_count_more() -> None:
    rows = random(50, 16).double()
    usage = torch.zeros(50).double()
    usage[:10] = 0.1
    focused, even = (TableDecomposer(rows, u).factors(6).error for u in (usage, torch.full_like(usage, 0.02)))
    flat = TableDecomposer(rows, torch.full_like(usage, 0.02)).factors(6)
    change = flat.table @ flat.weight.T + flat.bias - rows
    assert focused < table_error(change, rows, usage)
    assert even == pytest.approx(table_error(change, rows, torch.full_like(usage, 0.02)))


def test_a_table_with_several_readers() -> None:
    text = TEXT.replace("return %y", """%z = embedding %t, %j : f32[B, 5, 64]  loc(words)
  %s = add %y, %z : f32[B, 5, 64]
  return %s""").replace("(%i: i64[B, 5])", "(%i: i64[B, 5], %j: i64[B, 5])")
    graph, _, error = compressed(parse_graph(text, generate=True), "quantize,cse,dce", [[ids(), ids(high=9)]])
    assert len(graph.ledger) == 1 and 0 < error < 0.01
    assert sum(n.op.name == "const" for n in graph.nodes) == 1


@needs_compiler
@pytest.mark.parametrize("pipeline", ["quantize{bits=8}", "quantize{bits=3}", "lowrank{rank=16,max_error=1.0,tables=true}"])
def test_coded_tables_run_as_they_are_stored(pipeline: str) -> None:
    from mcomp.backend import CompileOptions
    from mcomp.backends.cpu import BACKEND
    from mcomp.backends.cpu.executor import CpuExecutable

    graph, _, _ = compressed(parse_graph(TEXT, generate=True), pipeline, [[ids()]])
    executable = BACKEND.compile(graph, CompileOptions(threads=2))
    assert isinstance(executable, CpuExecutable)
    check(executable, [ids(3)])
    names = [k.name for k in executable.kernels({"B": 3})]
    assert names == (["embedding_coded"] if "quantize" in pipeline else names)
    with pytest.raises((CallError, McompError)):
        executable.run([torch.full((2, 5), 50)], {"B": 2})


def test_rows_that_only_padding_reads_do_not_count() -> None:
    graph = parse_graph(TEXT, generate=True)
    calibration = Calibration([[torch.tensor([[1, 2, 2, 0, 0], [3, 0, 0, 0, 0]])]])
    tables = table_nodes("quantize", graph, Context())
    (every,) = row_usage(graph, calibration, tables, 10)
    calibration.relevant = {(0, 10): torch.tensor([1, 1, 1, 0, 0, 1, 0, 0, 0, 0]).bool()}
    (some,) = row_usage(graph, calibration, tables, 10)
    assert float(every[0]) > float(every[2]) > float(every[1]) and float(every[4]) == 0
    assert float(some[0]) == 0 and float(some[2]) == pytest.approx(2**0.5 * float(some[1]))
    assert float(some.sum()) == pytest.approx(1.0)

"""Dumps, numeric checks, reproducers, bisecting."""

import json
from pathlib import Path

import pytest
import torch

from mcomp.errors import PassError
from mcomp.ir import parse_graph
from mcomp.ir.graph import Graph
from mcomp.ir.store import WeightStore
from mcomp.manager import PassManager
from mcomp.manager.bisect import bisect
from mcomp.manager.instruments import Dump, NumericCheck, NumericError, Reproducer
from mcomp.manager.instruments.reproducer import read_weights
from mcomp.ops.evaluate import run_graph
from tests.manager.graphs import mlp, same


def test_dumps_are_numbered_and_parse(tmp_path: Path) -> None:
    graph = mlp()
    dump = Dump(tmp_path)
    PassManager("test-add-abs,test-add-abs", [dump]).run(graph)
    assert [p.name for p in dump.written] == ["000-start.mir", "001-after-test-add-abs.mir"]
    text = dump.written[1].read_text()
    assert text.startswith("// after pass 1: test-add-abs\n// #")
    assert str(parse_graph(text, graph.store)) == str(graph)


@pytest.mark.parametrize(("when", "count"), [("before", 3), ("after", 3), ("change", 2)])
def test_dumps_can_be_had_at_other_times(tmp_path: Path, when: str, count: int) -> None:
    dump = Dump(tmp_path, when)  # type: ignore[arg-type]
    PassManager("test-add-abs,test-add-abs", [dump]).run(mlp())
    assert len(dump.written) == count


def test_a_numeric_check_catches_a_pass_that_is_not_what_it_says() -> None:
    x = torch.randn(4, 8)
    check = NumericCheck([x])
    PassManager("test-add-abs", [check]).run(mlp())
    assert [d.identical for d in check.differences] == [True]
    with pytest.raises(NumericError, match="test-break, is exact, but changed the outputs"):
        PassManager("test-add-abs,test-break", [NumericCheck([x])]).run(mlp())


@pytest.mark.parametrize("dtype", ["f32", "bf16", "complex64"])
def test_a_numeric_check_sees_the_signs_of_zeros(dtype: str) -> None:
    lines = ["%y = relu %x : f32[4]", f"%z = cast %y {{dtype = !{dtype}}} : {dtype}[4]"]
    text = "\n  ".join([f"graph @g(%x: f32[4]) -> ({dtype}[4]) {{", *lines, "return %z\n}"])
    with pytest.raises(NumericError, match="test-negate, is exact, but changed bits of the outputs"):
        PassManager("test-negate", [NumericCheck([-torch.ones(4)])]).run(parse_graph(text))


def test_a_numeric_check_draws_the_same_random_numbers() -> None:
    graph = parse_graph("""
graph @g(%x: f32[4]) -> (f32[4]) {
  %r = rand {shape = [4], dtype = !f32} : f32[4]
  %y = relu %r : f32[4]
  return %y
}
""")
    check, state = NumericCheck([torch.ones(4)]), torch.get_rng_state()
    PassManager("test-add-abs", [check]).run(graph)
    assert [d.identical for d in check.differences] == [True]
    assert torch.equal(torch.get_rng_state(), state)


def test_bisect_names_the_pass_and_the_rewrite() -> None:
    x = torch.randn(4, 8)
    expected = run_graph(mlp(), [x])

    def check(graph: Graph) -> bool:
        return same(run_graph(graph, [x]), expected)

    culprit = bisect(mlp(), "test-add-abs,test-break{harmless=2},test-add-abs", check)
    assert culprit is not None
    assert (culprit.index, culprit.text, culprit.rewrite) == (2, "test-break", 3)
    assert culprit.record is not None and culprit.record.label == "test-break-2"
    assert "act" in str(culprit)


@pytest.mark.parametrize(("pipeline", "index", "text", "rewrite"), [
    ("test-lower,test-break,test-add-abs", 2, "test-break", 3),
    ("test-lower,test-lower,test-add-abs,test-break{harmless=0},test-add-abs", 4, "test-break{harmless=0}", 1),
    ("test-add-abs,test-break{harmless=1},test-lower{times=2}", 2, "test-break{harmless=1}", 2),
    ("test-add-abs,test-lower,test-lower-wrong,test-add-abs", 3, "test-lower-wrong", None),
])
def test_bisect_counts_passes_that_are_never_left_out(pipeline: str, index: int, text: str, rewrite: int | None) -> None:
    x = torch.randn(4, 8)
    expected = run_graph(mlp(), [x])
    culprit = bisect(mlp(), pipeline, lambda graph: same(run_graph(graph, [x]), expected))
    assert culprit is not None
    assert (culprit.index, culprit.text, culprit.rewrite) == (index, text, rewrite)
    if rewrite is not None:
        assert culprit.record is not None and culprit.record.label == f"test-break-{rewrite - 1}"


def test_bisect_finds_nothing_where_nothing_is_wrong() -> None:
    assert bisect(mlp(), "test-add-abs", lambda graph: True) is None


def test_bisect_refuses_a_check_that_fails_at_once() -> None:
    with pytest.raises(PassError, match="before any pass"):
        bisect(mlp(), "test-add-abs", lambda graph: False)


def test_a_crash_leaves_a_reproducer(tmp_path: Path) -> None:
    graph, folder = mlp(), tmp_path / "crash"
    reproducer = Reproducer(folder)
    with pytest.raises(RuntimeError):
        PassManager("test-add-abs,test-crash", [reproducer]).run(graph)
    assert reproducer.written
    assert (folder / "pipeline.txt").read_text().strip() == "test-crash"
    assert "on purpose" in (folder / "error.txt").read_text()
    assert json.loads((folder / "manifest.json").read_text())["index"] == 2
    store = WeightStore()
    read_weights(folder / "weights.safetensors", store)
    again = parse_graph((folder / "graph.mir").read_text(), store)
    assert str(again) == str(graph)
    with pytest.raises(RuntimeError):
        PassManager((folder / "pipeline.txt").read_text().strip()).run(again)


def test_a_reproducer_holds_the_weights_of_before_the_pass(tmp_path: Path) -> None:
    graph = mlp()
    before = str(graph)
    with pytest.raises(RuntimeError):
        PassManager("test-crash-later", [Reproducer(tmp_path)]).run(graph)
    assert str(graph) != before
    store = WeightStore()
    read_weights(tmp_path / "weights.safetensors", store)
    assert str(parse_graph((tmp_path / "graph.mir").read_text(), store)) == before
    assert set(json.loads((tmp_path / "manifest.json").read_text())["weights"]) == {w.digest for w in store}

"""Running pipelines: order, analyses, fixpoints, failures."""

import gc
import time
import weakref

import pytest

from mcomp.errors import PassError, VerifyError
from mcomp.ir import Graph, Node, verify
from mcomp.manager import Analysis, Context, Instrument, Pass, PassManager, PassResult, parse_pipeline
from mcomp.manager.instruments import Statistics, Timing, Verify
from mcomp.ops.evaluate import run_graph
from tests.manager.graphs import CountNodes, mlp, same


def test_an_analysis_is_computed_once_per_version() -> None:
    graph, context = mlp(), Context()
    analyses = context.analyses(graph)
    assert context.analyze(graph, CountNodes()) == context.analyze(graph, CountNodes()) == 5
    assert analyses.computed == 1
    PassManager("test-add-abs").run(graph, context)
    assert context.analyze(graph, CountNodes()) == 6
    assert analyses.computed == 2


def test_a_pass_may_preserve_an_analysis() -> None:
    graph, context = mlp(), Context()
    context.analyze(graph, CountNodes())
    PassManager("test-add-abs{keeps=true}").run(graph, context)
    assert context.analyze(graph, CountNodes()) == 5, "the pass said that the count is still valid"
    assert context.analyses(graph).computed == 1


def test_a_pass_preserves_only_what_was_valid_before_it() -> None:
    graph, context = mlp(), Context()
    assert context.analyze(graph, CountNodes()) == 5
    with graph.edit("grow") as e:
        e.add("exp", [graph.outputs[0]])
    PassManager("test-add-abs{keeps=true}").run(graph, context)
    assert context.analyze(graph, CountNodes()) == 7


def test_graphs_do_not_outlive_their_last_user_for_having_been_analysed() -> None:
    class Nodes(Analysis):
        name = "test-nodes"

        def run(self, graph: Graph, context: Context) -> list[Node]:
            return list(graph.nodes)

    context, other = Context(), Context()
    graph = mlp()
    for one in (context, other):
        assert len(one.analyze(graph, Nodes())) == 5
    del one, other
    gc.collect()
    assert list(graph.analyses) == [context]
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None


def test_a_fixpoint_stops_when_nothing_changes() -> None:
    graph, timing = mlp(), Timing()
    assert PassManager("fixpoint(test-add-abs)", [timing]).run(graph)
    assert len(timing.passes) == 2
    assert not PassManager("test-add-abs").run(graph)


def test_a_fixpoint_that_never_ends_leaves_a_warning() -> None:
    context = Context()
    PassManager("fixpoint(test-break)").run(mlp(), context)
    (remark,) = context.remarks
    assert (remark.kind, remark.rule) == ("warning", "fixpoint")
    assert "still changed the graph after 10 rounds" in remark.reason


def test_statistics_and_timing_see_every_pass() -> None:
    timing, statistics = Timing(), Statistics()
    PassManager("test-add-abs,test-add-abs", [timing, statistics]).run(mlp())
    assert [p.text for p in timing.passes] == ["test-add-abs", "test-add-abs"]
    assert [(p.nodes_before, p.nodes_after) for p in timing.passes] == [(5, 6), (6, 6)]
    assert statistics.counts["test-add-abs"]["added"] == 1
    assert "test-add-abs" in str(timing) and "added" in str(statistics)


@pytest.mark.parametrize("first", [True, False])
def test_timing_leaves_out_what_other_instruments_do(first: bool) -> None:
    class Slow(Instrument):
        def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
            time.sleep(0.3)

        def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
            time.sleep(0.3)

    timing = Timing()
    PassManager("test-add-abs", [timing, Slow()] if first else [Slow(), timing]).run(mlp())
    assert timing.passes[0].seconds < 0.2


def test_a_crash_undoes_the_edit_it_happened_in() -> None:
    graph = mlp()
    before = str(graph)
    with pytest.raises(RuntimeError, match="on purpose"):
        PassManager("test-crash").run(graph)
    assert str(graph) == before
    verify(graph)


def test_a_pass_that_denies_its_change_is_found_out() -> None:
    with pytest.raises(VerifyError, match="changed the graph, and says it did not"):
        PassManager("test-lie", [Verify()]).run(mlp())


def test_checks_run_before_any_pass() -> None:
    graph = mlp()
    before = str(graph)
    with pytest.raises(PassError, match="bits is 5"):
        PassManager([*parse_pipeline("test-add-abs"), *parse_pipeline("quantize{bits=5}")]).run(graph)
    assert str(graph) == before


def test_exact_passes_keep_the_numbers() -> None:
    import torch

    graph, x = mlp(), torch.randn(3, 8)
    expected = run_graph(graph, [x])
    PassManager("test-add-abs").run(graph)
    assert same(run_graph(graph, [x]), expected)

"""Pipelines that begin alike go on from where an earlier one left off, and come to the same."""

import gc
import weakref

import pytest

from mcomp.ir import Graph, parse_graph
from mcomp.ir.printer import graph_text
from mcomp.manager import Context, Instrument, Pass, PassResult, parse_pipeline
from mcomp.passes.compress.quantize import Quantize
from mcomp.plan.trail import Trail
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import mixed, mlp

CALIBRATION = Calibration([[mixed(200, 64)]])


class Seen(Instrument):
    """The names of passes that ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        self.names.append(item.name)


def run(trail: Trail, pipeline: str, graph: Graph) -> tuple[str, Context, list[str]]:
    context, seen = Context(calibration=CALIBRATION), Seen()
    found = trail.run(graph, parse_pipeline(pipeline), context, [seen])
    return graph_text(found, digests=32), context, seen.names


@pytest.mark.parametrize("second", [
    "prune{ratio=0.5},quantize{bits=8},dce", "prune{ratio=0.5},distill{steps=4,rate=0.01},quantize{bits=8}",
    "prune{ratio=0.25},quantize{bits=4}", "prune{ratio=0.5}",
])
def test_what_comes_out_is_what_a_fresh_run_gives(second: str) -> None:
    graph, trail = mlp(outputs=64), Trail()
    before = graph_text(graph, digests=32)
    run(trail, "prune{ratio=0.5},quantize{bits=4},dce", graph)
    text, context, names = run(trail, second, graph)
    fresh_text, fresh, fresh_names = run(Trail(), second, graph)
    assert text == fresh_text
    assert context.remarks == fresh.remarks
    assert fresh_names[-len(names) :] == names if names else second == "prune{ratio=0.5}"
    assert ("prune" in names) == (second == "prune{ratio=0.25},quantize{bits=4}")
    assert graph_text(graph, digests=32) == before


def test_weights_of_what_was_tried_go() -> None:
    graph, trail = mlp(outputs=64), Trail()
    before = len(graph.store)
    run(trail, "prune{ratio=0.5},quantize{bits=8}", graph)
    first = trail.run(graph, parse_pipeline("prune{ratio=0.5}"), Context(calibration=CALIBRATION))
    assert len(graph.store) == before < len(first.store)
    gone = weakref.ref(first.store)
    trail.forget()
    del first
    gc.collect()
    assert gone() is None


def test_a_student_learns_from_the_graph_before_the_pipeline() -> None:
    graph, trail = mlp(outputs=64), Trail()
    run(trail, "prune{ratio=0.5},dce", graph)
    _, context, _ = run(trail, "prune{ratio=0.5},distill{steps=4,rate=0.01}", graph)
    teacher = context.shared["distill.teacher"]
    assert graph_text(teacher, digests=32) == graph_text(graph, digests=32)


def test_passes_are_checked_once_on_the_graph_before_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, trail = mlp(outputs=64), Trail()
    run(trail, "prune{ratio=0.5},dce", graph)
    checked: list[Graph] = []
    monkeypatch.setattr(Quantize, "check", lambda self, given, context: checked.append(given))
    run(trail, "prune{ratio=0.5},quantize{bits=8}", graph)
    assert checked == [graph]


def test_only_the_last_places_are_kept() -> None:
    graph, trail = parse_graph("graph @g(%x: f32[4]) -> (f32[4]) {\n  return %x\n}"), Trail()
    for number in range(30):
        trail.keep(tuple(parse_pipeline(f"prune{{ratio=0.{number + 10}}}")), graph, Context())
    assert len(trail._places) == 12

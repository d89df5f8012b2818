"""What the clean-ups promise besides numbers: statistics, analyses, effect by option, branches, bodies of kernels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from mcomp.errors import IRError
from mcomp.ir import Graph, parse_graph, verify
from mcomp.manager import Analysis, Context, Instrument, Pass, PassEffect, PassManager, PassResult, parse_pipeline
from mcomp.ops.elementwise import ElementWise
from mcomp.ops.evaluate import run_graph
from mcomp.passes.cleanup.fold import Fold
from mcomp.passes.cleanup.regions import MATRIX_ANCHORS, NORM_ANCHORS, REDUCTIONS, ROW_ANCHORS, Planner
from mcomp.passes.cleanup.rules_view import VIEW_RULES
from mcomp.passes.cleanup.simplify import Simplify
from mcomp.rewrite import apply_rules
from tests.strategies import graphs

BRANCHES = """
graph @g[B in 1..](%p: bool[], %x: f32[B, 4]) -> (f32[B, 4]) {
  %y = cond %p, %x {then = graph @then[B in 1..](%a: f32[B, 4]) -> (f32[B, 4]) {
    %n = neg %a : f32[B, 4]
    %m = neg %n : f32[B, 4]
    %s = sigmoid %m : f32[B, 4]
    %t = mul %s, %m : f32[B, 4]
    %u = tanh %t : f32[B, 4]
    return %u
  }, else = graph @else[B in 1..](%a: f32[B, 4]) -> (f32[B, 4]) {
    return %a
  }} : f32[B, 4]
  return %y
}
"""


class Collect(Instrument):
    """Keeps every result."""

    def __init__(self) -> None:
        self.results: list[PassResult] = []

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        self.results.append(result)


@dataclass(frozen=True)
class CountNodes(Analysis):
    """The number of nodes."""

    name = "test-cleanup-count"
    runs: ClassVar[list[int]] = []

    def run(self, graph: Graph, context: Context) -> int:
        self.runs.append(1)
        return len(graph)


def chain() -> Graph:
    return parse_graph("""
graph @g(%x: f32[4]) -> (f32[4]) {
  %a = neg %x : f32[4]
  %b = neg %a : f32[4]
  %c = exp %b : f32[4]
  %d = tanh %c : f32[4]
  return %d
}
""")


def test_statistics_name_the_rules() -> None:
    collect = Collect()
    PassManager("simplify,fuse,dce", [collect]).run(chain())
    assert [r.statistics for r in collect.results] == [{"double_neg": 1}, {"elementwise": 1}, {}]
    assert [r.changed for r in collect.results] == [True, True, False]


@pytest.mark.parametrize("name", ["dce", "cse", "fold", "simplify", "fuse"])
def test_without_a_change_analyses_stay_valid(name: str) -> None:
    graph = parse_graph("graph @g(%x: f32[4]) -> (f32[4]) {\n  %a = neg %x : f32[4]\n  return %a\n}")
    context = Context()
    CountNodes.runs.clear()
    context.analyze(graph, CountNodes())
    version = graph.version
    PassManager(name).run(graph, context)
    assert graph.version == version
    context.analyze(graph, CountNodes())
    assert len(CountNodes.runs) == 1


def test_effect_depends_on_the_options() -> None:
    assert Simplify().effect is PassEffect.ROUNDING and Simplify(exact=True).effect is PassEffect.EXACT
    assert Fold().effect is PassEffect.ROUNDING
    assert Fold(affine=False, numbers=False).effect is PassEffect.EXACT
    (item,) = parse_pipeline("fold{affine=false,max_bytes=4096}")
    assert item == Fold(affine=False, max_bytes=4096) and str(item) == "fold{affine=false,max_bytes=4096}"


def test_branches_of_cond_are_cleaned_too() -> None:
    graph = parse_graph(BRANCHES)
    collect = Collect()
    PassManager("simplify,dce,fuse", [collect]).run(graph)
    verify(graph)
    (cond,) = graph.nodes
    (fused,) = cond.attrs["then"].nodes
    assert [n.op.name for n in fused.attrs["body"].nodes] == ["silu", "tanh"]
    assert collect.results[0].statistics == {"double_neg": 1, "silu": 1}


DRAWING = """
graph @g(%p: bool[], %x: f32[4]) -> (f32[4], f32[4]) {
  %y = cond %p, %x {then = graph @then(%a: f32[4]) -> (f32[4]) {
    %r = rand {shape = [4], dtype = !f32} : f32[4]
    return %r
  }, else = graph @else(%a: f32[4]) -> (f32[4]) {
    return %a
  }} : f32[4]
  %z = cond %p, %x {then = graph @then(%a: f32[4]) -> (f32[4]) {
    %r = rand {shape = [4], dtype = !f32} : f32[4]
    return %r
  }, else = graph @else(%a: f32[4]) -> (f32[4]) {
    return %a
  }} : f32[4]
  return %y, %z
}
"""


def test_branches_that_draw_random_numbers_are_not_merged() -> None:
    graph = parse_graph(DRAWING)
    PassManager("fixpoint(simplify,fold,cse,dce)").run(graph)
    assert [n.op.name for n in graph.nodes] == ["cond", "cond"]
    torch.manual_seed(0)
    wanted = [torch.rand(4), torch.rand(4)]
    torch.manual_seed(0)
    found = run_graph(graph, [torch.tensor(True), torch.zeros(4)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


ASSERTING = """
graph @g(%p: bool[], %x: f32[4]) -> (f32[4]) {
  %y = cond %p, %x {then = graph @then(%a: f32[4]) -> (f32[4]) {
    %n = isfinite %a : bool[4]
    assert_ %n {message = "finite"}
    %m = neg %a : f32[4]
    return %m
  }, else = graph @else(%a: f32[4]) -> (f32[4]) {
    return %a
  }} : f32[4]
  %z = reshape %y {shape = [4]} : f32[4]
  %s = slice %z {axis = 0, start = 0, stop = 0, step = 1} : f32[0]
  %w = cat %x, %s {axis = 0} : f32[4]
  return %w
}
"""


@pytest.mark.parametrize("pipeline", ["dce", "fold,dce", "cse,dce"])
def test_branches_with_assertions_stay(pipeline: str) -> None:
    text = ASSERTING.replace("return %w", "return %x")
    graph = parse_graph(text)
    PassManager(pipeline).run(graph)
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["cond"]


def test_rewrites_leave_branches_with_assertions() -> None:
    graph = parse_graph(ASSERTING)
    rules = [r for r in VIEW_RULES if r.name in ("same_view", "flatten_cat", "cat_one")]
    outcome = apply_rules(rules, graph, Context(), "test")
    verify(graph)
    assert outcome.changed
    assert [n.op.name for n in graph.nodes] == ["cond"]
    with pytest.raises(IRError, match="finite"):
        run_graph(graph, [torch.tensor(True), torch.full((4,), torch.nan)])


SIZED = """
graph @g[u0 in 0..](%p: bool[], %x: f32[4]) -> (f32[4]) {
  %n = nonzero %x {symbol = "u0"} : i64[u0, 1]
  %y = cond %p, %x {then = graph @then[u0 in 0..](%a: f32[4]) -> (f32[4]) {
    %c = full {value = u0, shape = [], dtype = !f32} : f32[]
    %s = mul %a, %c : f32[4]
    return %s
  }, else = graph @else(%a: f32[4]) -> (f32[4]) {
    return %a
  }} : f32[4]
  return %y
}
"""


def test_what_gives_a_size_to_a_branch_stays() -> None:
    graph = parse_graph(SIZED)
    PassManager("fixpoint(simplify,fold,cse,dce)").run(graph)
    verify(graph)
    x = torch.tensor([1.0, 0.0, 2.0, -3.0])
    torch.testing.assert_close(run_graph(graph, [torch.tensor(True), x]), [x * x.count_nonzero()], rtol=0, atol=0)


def test_a_layer_switched_off_is_left_alone() -> None:
    text = """
graph @g(%x: f32[4]) -> (f32[4], f32[4]) {
  %s = sigmoid %x : f32[4]  loc(a.act)
  %y = mul %s, %x : f32[4]  loc(a.act)
  %t = sigmoid %y : f32[4]  loc(b.act)
  %z = mul %t, %y : f32[4]  loc(b.act)
  return %y, %z
}
"""
    graph = parse_graph(text)
    PassManager("simplify").run(graph, Context(layers={"a.*": {"simplify": False}}))
    assert [n.op.name for n in graph.nodes] == ["sigmoid", "mul", "silu"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(max_steps=16))
def test_bodies_of_kernels_are_simple(graph: Graph) -> None:
    PassManager("fuse").run(graph)
    for node in graph.nodes:
        if node.op.name != "fused":
            continue
        body = node.attrs["body"]
        nodes = [n for n in body.nodes if n.op.name not in ("full", "const")]
        kind = node.attrs["kind"]
        anchors = [n for n in nodes if not isinstance(n.op, ElementWise) and n.op.name != "quantize"]
        assert len(nodes) >= 2
        if kind == "elementwise":
            assert not anchors and len({n.type.shape for n in nodes}) == 1
            continue
        if kind == "pair":
            assert len(anchors) == 2 and nodes[0] is anchors[0] and anchors[0].op is anchors[1].op
            assert len({n.type.shape for n in nodes[nodes.index(anchors[1]) :]}) == 1
            continue
        assert len(anchors) == 1
        if kind == "rows":
            assert anchors[0].op.name in ROW_ANCHORS and len({n.results[0].type.shape for n in nodes}) == 1
            continue
        coded = kind == "epilogue" and nodes[-1].op.name == "quantize"
        assert len(body.outputs) == 1 or (coded and len(body.outputs) == 2)
        if kind == "epilogue":
            assert nodes[0] is anchors[0] and anchors[0].op.name in MATRIX_ANCHORS | NORM_ANCHORS
            assert len({n.type.shape for n in nodes}) == 1
        else:
            assert nodes[-1] is anchors[0] and anchors[0].op.name in REDUCTIONS
            assert len({n.type.shape for n in nodes[:-1]}) == 1


def test_regions_do_not_depend_on_where_nodes_lie_in_memory() -> None:
    graph = parse_graph("""
graph @g(%p: f32[3, 4], %q: f32[3, 4]) -> (f32[3]) {
  %a = exp %p : f32[3, 4]
  %b = tanh %a : f32[3, 4]
  %c = exp %q : f32[3, 4]
  %d = tanh %c : f32[3, 4]
  %s = add %b, %d : f32[3, 4]
  %y = sum %s {axes = [1], keepdim = false} : f32[3]
  return %y
}
""")
    clones = [graph.clone() for _ in range(64)]
    found = set()
    for clone in clones:
        anchor = clone.outputs[0].producer
        assert anchor is not None
        found.add(tuple(n.name for n in Planner(clone, 4).prologue(anchor)))
    assert found == {("b", "d", "s", "y")}


def test_passes_import_and_run_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mcomp.ir import parse_graph\n"
        "from mcomp.manager import PassManager\n"
        "import mcomp.passes.cleanup\n"
        "g = parse_graph('graph @g(%x: f32[4]) -> (f32[4]) {\\n  %a = neg %x : f32[4]\\n  %b = neg %a : f32[4]\\n'\n"
        "                '  %c = exp %b : f32[4]\\n  %d = tanh %c : f32[4]\\n  return %d\\n}')\n"
        "PassManager([mcomp.passes.cleanup.simplify.Simplify(), mcomp.passes.cleanup.cse.Cse(),\n"
        "             mcomp.passes.cleanup.dce.Dce(), mcomp.passes.cleanup.fuse.Fuse()]).run(g)\n"
        "assert [n.op.name for n in g.nodes] == ['fused'], g\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

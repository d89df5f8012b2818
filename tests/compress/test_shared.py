"""Weights that several layers share stay one: they are cut once, and what would untie them is refused."""

from __future__ import annotations

import pytest
import torch

from mcomp.ir import Graph, parse_graph
from mcomp.manager import Context, PassManager
from mcomp.passes.analysis import CouplingAnalysis
from mcomp.passes.compress.candidates import layer_candidates
from mcomp.passes.compress.curves import prune_curves
from mcomp.passes.compress.offers import survey
from mcomp.plan.memory import Memory
from mcomp.plan.offers import Menu
from mcomp.plan.spread import Spread
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, layers, random

TWICE = """
graph @twice[B in 1..](%x: f32[B, 16], %z: f32[B, 16]) -> (f32[B, 8]) {
  %w = const @fc1.weight#seed=1 : f32[64, 16]  loc(fc1)
  %v = const @fc2.weight#seed=2 : f32[8, 64]  loc(fc2)
  %h = linear %x, %w : f32[B, 64]  loc(fc1)
  %r = relu %h : f32[B, 64]  loc(act)
  %a = linear %r, %v : f32[B, 8]  loc(fc2)
  %k = linear %z, %w : f32[B, 64]  loc(fc1)
  %s = relu %k : f32[B, 64]  loc(act)
  %b = linear %s, %v : f32[B, 8]  loc(fc2)
  %y = add %a, %b : f32[B, 8]
  return %y
}"""
TIED = """
graph @tied[B in 1..](%i: i64[B, 5]) -> (f32[B, 5, 50]) {
  %t = const @words.weight#seed=1 : f32[50, 32]  loc(words)
  %h = embedding %t, %i : f32[B, 5, 32]  loc(words)
  %w = const @fc1.weight#seed=2 : f32[64, 32]  loc(fc1)
  %k = linear %h, %w : f32[B, 5, 64]  loc(fc1)
  %r = relu %k : f32[B, 5, 64]  loc(act)
  %v = const @fc2.weight#seed=3 : f32[32, 64]  loc(fc2)
  %m = linear %r, %v : f32[B, 5, 32]  loc(fc2)
  %y = linear %m, %t : f32[B, 5, 50]  loc(head)
  return %y
}"""


def twice() -> tuple[Graph, list[torch.Tensor]]:
    return parse_graph(TWICE, generate=True), [random(200, 16), random(200, 16, seed=1)]


def size(graph: Graph) -> int:
    """Bytes of constants, equal ones once."""
    weights = (n.result.weight for n in graph.nodes if n.op.name == "const")
    return sum({w.digest: w.nbytes for w in weights if w is not None}.values())


def matrices(graph: Graph) -> list[str]:
    return [n.attrs["digest"] for n in graph.nodes if n.op.name == "const" and n.type.rank == 2]


def test_a_module_that_is_called_twice_is_cut_once() -> None:
    graph, inputs = twice()
    narrow, context, error = compressed(graph, "prune{ratio=0.5}", [inputs])
    assert [tuple(n.operand(1).tensor.shape) for n in layers(narrow)] == [(32, 16), (8, 32), (32, 16), (8, 32)]
    assert len(matrices(narrow)) == 2
    (entry,) = narrow.ledger
    assert entry.bytes_saved == size(graph) - size(narrow)
    assert 0.3 * error < entry.error < 3 * error
    told = {r.layer for r in context.remarks if "shared with other calls of it; refitting would untie it" in r.reason}
    assert told == {"fc1", "fc2"}


@pytest.mark.parametrize("pipeline", [
    "lowrank{rank=4,max_error=9.0}", "prune{what=blocks,block=[4,4]}", "prune{what=nm}", 'treat{choices=["h=channel 4"]}',
    'treat{choices=["a=blocks 4x4 without 0.5"]}',
])
def test_what_would_untie_them_is_refused(pipeline: str) -> None:
    graph, inputs = twice()
    same, context, error = compressed(graph, pipeline, [inputs])
    assert error == 0 and not same.ledger
    assert any("would untie it" in r.reason and r.remedy for r in context.remarks)


def test_nothing_that_would_untie_them_is_offered() -> None:
    graph, inputs = twice()
    found = layer_candidates(graph, Context(calibration=Calibration([inputs])))
    assert found and not [c for some in found.values() for c in some if c.treatment.scheme or c.treatment.block]


@pytest.mark.parametrize("pipeline", ["prune{ratio=0.5}", "lowrank{ratio=0.5,max_error=9.0}"])
def test_a_head_stays_tied_to_its_table(pipeline: str) -> None:
    graph = parse_graph(TIED, generate=True)
    ids = torch.randint(0, 50, (64, 5), generator=torch.Generator().manual_seed(0))
    found, context, _ = compressed(graph, pipeline, [[ids]])
    named = {n.loc.layer: n for n in found.nodes if n.op.name != "const"}
    table, head = named["words"], named["head"]
    assert found.ledger and table.operand(0) is head.operand(1)
    assert any(r.layer == "head" and "shared with words" in r.reason for r in context.remarks)


def test_bytes_of_shared_weights_count_once() -> None:
    graph, inputs = twice()
    for options in ("smooth=0.5", "rounding=nearest,smooth=0"):
        found, _, _ = compressed(graph, f"quantize{{{options}}}", [inputs])
        assert sum(e.bytes_saved for e in found.ledger) == size(graph) - size(found)


def test_dimensions_have_names_of_their_own() -> None:
    text = TIED.replace("@fc2.weight", "@fc.weight").replace("@fc1.weight", "@fc.weight")
    text = text.replace("linear %m, %t", "linear %n, %t")
    text = text.replace("  %y =", """  %u = const @fc.weight#seed=5 : f32[48, 32]  loc(fc3)
  %p = linear %m, %u : f32[B, 5, 48]  loc(fc3)
  %q = relu %p : f32[B, 5, 48]  loc(act)
  %o = const @fc.weight#seed=6 : f32[32, 48]  loc(fc4)
  %n = linear %q, %o : f32[B, 5, 32]  loc(fc4)
  %y =""")
    graph = parse_graph(text, generate=True)
    context = Context(calibration=Calibration([[torch.randint(0, 50, (64, 5))]]))
    names = [d.name for d in context.analyze(graph, CouplingAnalysis()).dimensions]
    assert len(set(names)) == len(names) > 2
    keys = {c.size: c.key for c in prune_curves(graph, context, what=("ffn",))}
    narrow, _, _ = compressed(graph, f'prune{{what=ffn,widths=["{keys[48]}=24"]}}', context.calibration.batches)
    assert narrow.value("p").tensor.shape[-1] == 24 and narrow.value("k").tensor.shape[-1] == 64


@pytest.mark.parametrize("text", [TWICE, TIED])
def test_the_planner_counts_a_shared_weight_once(text: str) -> None:
    """In every choice of integers or floats for single calls; what would make copies is no choice."""
    graph = parse_graph(text, generate=True)
    inputs = twice()[1] if text is TWICE else [torch.randint(0, 50, (40, 5), generator=torch.Generator().manual_seed(0))]
    context = Context(calibration=Calibration([inputs]))
    found = survey(graph, context, Menu(fast=False, small=True), Spread(), Memory())
    shared = {n.name for n in layers(graph) if n.operand(1).producer.result.uses[1:]}  # type: ignore[union-attr]
    offered = {g: {o.name for o in group.options} for g, group in enumerate(found.groups) if group.key in shared}
    assert offered and set().union(*offered.values()) == {"float", "int8 static"}
    untouched = (0,) * len(found.groups)
    for flips in range(2 ** len(offered)):
        levels = {g: 1 for i, g in enumerate(offered) if flips >> i & 1}
        choice = tuple(levels.get(g, level) for g, level in enumerate(untouched))
        copy = graph.clone()
        PassManager(found.pipeline(choice) or "fold").run(copy, Context(calibration=Calibration([inputs])))
        promised = sum(found.nbytes(part, choice) for part in range(len(found.touching)))
        kept = sum(found.nbytes(part, untouched) for part in range(len(found.touching)))
        real, whole = (sum(graph.store.get(d).nbytes for d in set(matrices(g))) for g in (copy, graph))
        assert real - whole == pytest.approx(promised - kept, rel=0.05), found.pipeline(choice)

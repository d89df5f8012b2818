"""Which positions count, and what happens where none does, or nothing tells."""

from __future__ import annotations

import pytest
import torch

from mcomp.ir import parse_graph
from mcomp.manager import Context, PassManager
from mcomp.passes.compress.gradients import Recording
from mcomp.passes.compress.lockstep import Lockstep
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import layers, mlp, random

MASKED = """
graph @masked[B in 1..](%x: f32[B, 16], %keep: f32[B, 1]) -> (f32[B, 8]) {
  %w = const @fc1.weight#seed=1 : f32[64, 16]  loc(fc1)
  %h = linear %x, %w : f32[B, 64]  loc(fc1)
  %r = relu %h : f32[B, 64]  loc(act)
  %v = const @fc2.weight#seed=3 : f32[8, 64]  loc(fc2)
  %g = linear %r, %v : f32[B, 8]  loc(fc2)
  %y = mul %g, %keep : f32[B, 8]
  return %y
}
"""


def test_a_batch_of_which_nothing_counts_is_taken_whole() -> None:
    graph = parse_graph(MASKED, generate=True)
    some = torch.zeros(32, 1)
    some[::2] = 1
    calibration = Calibration([[random(32, 16), some], [random(32, 16, seed=1), torch.zeros(32, 1)]])
    mark_relevant(graph, Context(calibration=calibration), 8)
    assert calibration.relevant is not None and set(calibration.relevant) == {(0, 32)}
    nothing = Calibration([[random(32, 16), torch.zeros(32, 1)]])
    PassManager("prune{ratio=0.5}").run(graph, Context(calibration=nothing))
    assert [e.rule for e in graph.ledger] == ["prune"]


def test_a_model_without_gradients_has_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Recording, generator: torch.Generator) -> None:
        raise RuntimeError("derivative for aten::frob is not implemented")

    monkeypatch.setattr(Recording, "gradients", fail)
    graph, context = mlp(), Context(calibration=Calibration([[random(40, 64)]]))
    PassManager("lowrank{rank=16,max_error=9.0}").run(graph, context)
    assert graph.ledger and context.calibration is not None and context.calibration.relevant == {}
    assert [r.rule for r in context.remarks if "aten::frob" in r.reason and r.remedy] == ["relevance"]


def test_a_layer_that_no_data_reached_is_not_fitted() -> None:
    dense, student = mlp(), mlp()
    calibration = Calibration([[random(40, 64)]])
    calibration.relevant = {(0, 40): torch.zeros(40, dtype=torch.bool)}
    context = Context(calibration=calibration)
    walk = Lockstep(dense, student, context, outputs=lambda node: None, limit=8, damping=None)
    before = layers(student)[0].operand(1).weight
    with student.edit("prune") as editor:
        assert walk.fit(layers(student)[0], editor) is None
    assert layers(student)[0].operand(1).weight is before
    assert [r.layer for r in context.remarks if "never reached it" in r.reason and r.remedy] == ["fc1"]

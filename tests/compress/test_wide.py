"""Layers whose second moments do not fit into memory are left alone by what needs them, with a remark."""

from __future__ import annotations

import pytest

from mcomp.ir import BlockSparse
from mcomp.passes.compress import moments, readers
from tests.compress.graphs import compressed, layers, mlp, random


@pytest.mark.parametrize(("pipeline", "kept"), [
    ("prune{what=blocks,block=[4,4]}", True), ("prune{what=nm}", True), ("lowrank{rank=8,max_error=9.0,refit=false}", True),
    ('treat{choices=["y=channel 8"]}', True), ("quantize{bits=4,max_error=1.0}", False),
])
def test_a_layer_with_too_many_inputs(pipeline: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MEMORY", 40_000)  # 64 inputs fit, 96 do not
    graph, context, _ = compressed(mlp(), pipeline, [[random(200, 64)]])
    assert [r.layer for r in context.remarks if "too many inputs" in r.reason and r.remedy] == ["fc2"]
    assert ("fc2" in [e.layer for e in graph.ledger]) is not kept


def test_moments_for_blocks_are_collected_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def collect(graph: object, calibration: object, nodes: list[object], *options: object) -> object:
        held.append(len(nodes))
        return real(graph, calibration, nodes, *options)  # type: ignore[arg-type]

    real = moments.collect_moments
    monkeypatch.setattr(moments, "collect_moments", collect)
    monkeypatch.setattr(moments.MomentSource.__init__, "__defaults__", (128, moments.ROWS, 40_000))
    graph, _, _ = compressed(mlp(), "prune{what=blocks,block=[4,4]}", [[random(200, 64)]])
    assert held == [1, 1]
    assert all(isinstance(n.operand(1).tensor.encoding, BlockSparse) for n in layers(graph))

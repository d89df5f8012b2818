"""The account of a compiled model, layer by layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mcomp.backend import KernelInfo
from mcomp.ir import Graph, parse_graph
from mcomp.plan import account
from mcomp.plan.account import GONE, Before, _add, _rows, weights_and_flops
from mcomp.report.report import Row

BEFORE = """graph @g(%x: f32[2, 4]) -> (f32[2, 4]) {
  %a = const @fc1.weight#seed=1 : f32[4, 4]
  %y = linear %x, %a : f32[2, 4]  loc(fc1)
  %b = const @fc2.weight#seed=2 : f32[4, 4]
  %z = linear %y, %b : f32[2, 4]  loc(fc2)
  %c = const @scale.weight#seed=3 : f32[4]
  %s = mul %z, %c : f32[2, 4]  loc(scale)
  return %s
}"""
AFTER = """graph @g(%x: f32[2, 4]) -> (f32[2, 4]) {
  %a = const @fc1.weight#seed=1 : f32[4, 4]
  %y = linear %x, %a : f32[2, 4]  loc(fc1)
  %b = const @fc2.weight#seed=2 : f32[4, 4]
  %z = linear %y, %b : f32[2, 4]  loc(fc2)
  return %z
}"""


def _compared(graph: Graph, path: str, times: dict[str, float] | None = None) -> Before:
    return Before(path, [], *weights_and_flops(graph, {}), times or {})


def test_a_layer_inside_of_another_s_kernel_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "kernel_predictor", lambda *a, **k: lambda kernel: 1.0)
    before, after = (parse_graph(text, generate=True) for text in (BEFORE, AFTER))
    kernel = KernelInfo("k", ("linear", "linear"), ("fc1", "fc2"), True, 128, 128, 64)
    for path, prefix in (("", ""), ("body", "body.")):
        chosen: Any = SimpleNamespace(graphs={path: after}, contexts={path: SimpleNamespace(remarks=[])})
        rows = _rows(_compared(before, path), after, [kernel], [1.0], {}, chosen, "cpu", 1)
        assert {r.layer: r.ops for r in rows} == {"fc1": "linear", "fc2": f"(in {prefix}fc1)", "scale": GONE}
        assert {r.layer: r.weight_bytes for r in rows} == {"fc1": 64, "fc2": 64, "scale": 0}


def test_totals_count_modules_without_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "kernel_predictor", lambda *a, **k: lambda kernel: 1.5)
    text = BEFORE.replace("  %c = const @scale.weight#seed=3 : f32[4]\n", "").replace("mul %z, %c", "tanh %z")
    before, after = parse_graph(text, generate=True), parse_graph(AFTER, generate=True)
    kernels = [KernelInfo("k", ("linear", "linear"), ("fc1", "fc2"), True, 128, 128, 64)]
    chosen: Any = SimpleNamespace(graphs={"": after}, contexts={"": SimpleNamespace(remarks=[])})
    compared = _compared(before, "", {"fc1": 4.0, "scale": 2.0})
    rows = _rows(compared, after, kernels, [3.0], {}, chosen, "cpu", 1)
    total = Row("total", "", "")
    _add(total, rows, compared, after, {})
    flops, flops_before = (sum(weights_and_flops(g, {})[1].values()) for g in (after, before))
    assert "scale" not in {r.layer for r in rows} and sum(r.flops_before for r in rows) < flops_before
    assert (total.flops_before, total.flops) == (flops_before, flops)
    assert (total.weight_bytes_before, total.weight_bytes) == (128, 128)
    assert (total.predicted_us, total.measured_us, total.measured_before_us) == (1.5, 3.0, 6.0)

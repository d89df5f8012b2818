"""The account of a compiled model, layer by layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mcomp.backend import KernelInfo
from mcomp.ir import parse_graph
from mcomp.plan import account
from mcomp.plan.account import GONE, _rows

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


def test_a_layer_inside_of_another_s_kernel_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "kernel_predictor", lambda *a, **k: lambda kernel: 1.0)
    before, after = (parse_graph(text, generate=True) for text in (BEFORE, AFTER))
    kernel = KernelInfo("k", ("linear", "linear"), ("fc1", "fc2"), True, 128, 128, 64)
    for path, prefix in (("", ""), ("body", "body.")):
        chosen: Any = SimpleNamespace(graphs={path: after}, contexts={path: SimpleNamespace(remarks=[])})
        rows = _rows(before, after, [kernel], [1.0], {}, {}, chosen, path, "cpu", 1)
        assert {r.layer: r.ops for r in rows} == {"fc1": "linear", "fc2": f"(in {prefix}fc1)", "scale": GONE}
        assert {r.layer: r.weight_bytes for r in rows} == {"fc1": 64, "fc2": 64, "scale": 0}

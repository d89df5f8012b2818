"""treat: what cannot be done to a layer leaves a remark, and nothing else stops."""

from __future__ import annotations

import pytest
import torch

from mcomp.errors import PassError
from mcomp.ir import Graph, parse_graph
from mcomp.manager import Context, parse_pipeline
from mcomp.passes.compress.fitting import fit_again
from mcomp.passes.compress.prune import Prune
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, conv, mlp, random

TABLE = """
graph @g[B in 1..](%i: i64[B, 5]) -> (f32[B, 5, 16]) {
  %t = const @words.weight#seed=1 : f32[40, 16]  loc(words)
  %y = embedding %t, %i : f32[B, 5, 16]  loc(words)
  return %y
}"""


def treated(graph: Graph, choice: str, x: torch.Tensor) -> tuple[Graph, Context]:
    found, context, _ = compressed(graph, f'treat{{choices=["{choice}"]}}', [[x]])
    return found, context


@pytest.mark.parametrize(("choice", "reason"), [
    ("h=spatial 16", "has no spatial factors"), ("h=tucker 8x8", "has no tucker factors"),
    ("h=channel 9999", "9999 is more than the full rank, 64"), ("r=channel 8", "no linear or conv"),
    ("r=int8 static", "is a relu"), ("h=table 8", "is a linear, which has no table"),
    ("r=blocks 4x4 without 0.5", "no linear"),
])
def test_what_a_linear_cannot_have(choice: str, reason: str) -> None:
    graph, context = treated(mlp(), choice, random(100, 64))
    assert not graph.ledger
    assert [r.kind for r in context.remarks if reason in r.reason and r.remedy] == ["missed"]


@pytest.mark.parametrize(("choice", "reason"), [
    ("y=spatial 99", "99 is more than the full rank, 36"), ("y=tucker 13x4", "13x4 is more than the full rank, 12x16"),
])
def test_what_a_convolution_cannot_have(choice: str, reason: str) -> None:
    graph, context = treated(conv(), choice, random(4, 12, 8, 8))
    assert not graph.ledger and any(reason in r.reason for r in context.remarks)


def test_a_table_is_not_made_wider() -> None:
    graph, context = treated(parse_graph(TABLE, generate=True), "y=table 17", torch.randint(0, 40, (8, 5)))
    assert not graph.ledger and any("16 wide, less than 17" in r.reason for r in context.remarks)


@pytest.mark.parametrize("text", ["blocks 4x4 without 1.5", "blocks 0x4 without 0.5"])
def test_shares_and_blocks_that_cannot_be(text: str) -> None:
    (given,) = parse_pipeline(f'treat{{choices=["h={text}"]}}')
    with pytest.raises(PassError, match="at most all of them"):
        given.treatments()  # type: ignore[union-attr]


def test_batch_norms_of_excluded_layers_keep_their_statistics() -> None:
    text = """
    graph @g[B in 1..](%x: f32[B, 3, 6, 6]) -> (f32[B, 8, 6, 6]) {
      %w = const @c.weight#seed=1 : f32[8, 3, 1, 1]  loc(c)
      %h = conv %x, %w {stride = [1, 1], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[B, 8, 6, 6]  loc(c)
      %m = const @n.mean#seed=2 : f32[8]  loc(n)
      %v = const @n.var#seed=3 : f32[8]  loc(n)
      %g = const @n.weight#seed=4 : f32[8]  loc(n)
      %b = const @n.bias#seed=5 : f32[8]  loc(n)
      %y = batch_norm %h, %m, %v, %g, %b {eps = 1e-05} : f32[B, 8, 6, 6]  loc(n)
      return %y
    }"""
    dense = parse_graph(text, generate=True)
    for exclude in ((), ("n",)):
        context = Context(calibration=Calibration([[random(8, 3, 6, 6)]]), exclude=exclude)
        student = dense.clone()
        with student.edit("halve") as editor:
            old = student.value("w")
            assert old.weight is not None
            editor.replace(old, editor.const(old.weight.decode() * 0.5, name="c.weight", before=old.users[0]))
        fit_again(student, dense, context, Prune(), {}, student.position(student.value("y").producer))
        kept = student.value("m").weight.digest == dense.value("m").weight.digest
        assert kept is bool(exclude)

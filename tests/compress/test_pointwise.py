"""Block-sparse pointwise convolutions: as the linear layer over their pixels, on the CPU, as candidates, in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.ir import Affine, BlockSparse, Graph, parse_graph, verify
from mcomp.manager import Context
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.candidates import Menu, layer_candidates
from mcomp.passes.compress.finetune import Options, finetune
from mcomp.passes.compress.training.trainer import Recipe
from mcomp.passes.compress.treatment import apply, piece
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, conv, layers, mixed, weight_of
from tests.cpu.backend_harness import check, kernel_names, needs_compiler

NONE = "[0, 0], [0, 0]"


def pointwise(inputs: int = 16, outputs: int = 32) -> Graph:
    return conv(inputs, outputs, kernel="1, 1", padding=NONE)


def pixels(channels: int = 16, count: int = 6) -> torch.Tensor:
    return mixed(count, 8, 8, channels).movedim(-1, 1).contiguous()


def linear() -> Graph:
    return parse_graph("""
    graph @rows[B in 1..](%x: f32[B, 16]) -> (f32[B, 32]) {
      %w = const @c.weight#seed=1 : f32[32, 16]  loc(c)
      %b = const @c.bias#seed=2 : f32[32]  loc(c)
      %y = linear %x, %w, %b : f32[B, 32]  loc(c)
      return %y
    }""", generate=True)


def test_its_blocks_are_those_of_the_linear_over_its_pixels() -> None:
    x, pipeline = pixels(), "prune{what=blocks,ratio=0.5,block=[8,4]}"
    found, context, error = compressed(pointwise(), pipeline, [[x]])
    rows, _, same = compressed(linear(), pipeline, [[x.movedim(1, -1).reshape(-1, 16)]])
    ours, theirs = layers(found)[0], layers(rows)[0]
    assert ours.operand(1).tensor.encoding == BlockSparse((8, 4), 8)
    np.testing.assert_allclose(weight_of(ours)[:, :, 0, 0], weight_of(theirs), rtol=1e-5, atol=1e-6)
    assert error == pytest.approx(same, rel=1e-4) and 0 < error < 0.5
    assert [r.kind for r in context.remarks] == ["applied"] and found.ledger[0].bytes_saved > 0
    assert float(np.mean(weight_of(ours) == 0)) == 0.5


@pytest.mark.parametrize(("graph", "reason"), [
    (conv(16, 32), "with a kernel of 3x3"),
    (conv(16, 32, kernel="1, 1", stride="2, 2", padding=NONE, out="4, 4"), "with a stride of 2x2"),
    (conv(16, 32, kernel="1, 1", padding=NONE, groups=2), "with 2 groups"),
    (conv(16, 32, kernel="1, 1", padding="[1, 1], [1, 1]", out="10, 10"), "with padding"),
])
def test_other_convolutions_are_refused(graph: Graph, reason: str) -> None:
    for pipeline in ("prune{what=blocks,block=[8,4]}", 'treat{choices=["y=blocks 8x4 without 0.5"]}'):
        found, context, error = compressed(graph, pipeline, [[pixels()]])
        assert error == 0 and not found.ledger
        assert [r.layer for r in context.remarks if r.kind == "missed" and reason in r.reason and r.remedy] == ["c"]
    menu = Menu(blocks=((8, 4),))
    given = layer_candidates(graph, Context(calibration=Calibration([[pixels()]])), menu=menu)["y"]
    assert given and not [c for c in given if c.treatment.block]


@needs_compiler
def test_its_kernel_skips_blocks() -> None:
    x = pixels(64)
    for pipeline, kernel, tolerance in (
        ("prune{what=blocks,ratio=0.5,block=[32,4]}", "linear_sparse", 1e-5),
        ("prune{what=blocks,ratio=0.5,block=[32,4]},quantize{max_error=1.0}", "linear_sparse_i8", 5e-3),
    ):
        found, _, _ = compressed(pointwise(64, 64), pipeline, [[x]])
        executable = BACKEND.compile(found, CompileOptions(threads=2), Context())
        assert kernel in kernel_names(executable, B=6)  # type: ignore[arg-type]
        check(executable, [x], tolerance=tolerance)  # type: ignore[arg-type]


def test_its_candidates_say_what_they_do() -> None:
    graph, x, menu = pointwise(), pixels(), Menu(blocks=((8, 4),))
    whole = layers(graph)[0].operand(1).weight
    assert whole is not None
    given = layer_candidates(graph, Context(calibration=Calibration([[x]])), menu=menu)["y"]
    some = [c for c in given if c.treatment.block]
    assert {c.treatment.gone for c in some} == {0.5, 0.75} and {c.treatment.bits for c in some} == {None, 8, 4}
    exact = run_graph(graph, [x])
    for candidate in some:
        copy = graph.clone()
        apply(copy, Context(calibration=Calibration([[x]])), {"y": candidate.treatment})
        verify(copy)
        (node,) = layers(copy)
        stored = node.operand(1).weight
        assert stored is not None and stored.nbytes == candidate.nbytes < whole.nbytes
        error = relative_error([run_graph(copy, [x])], [exact])
        assert 0.5 * error < candidate.error < 1.6 * error + 2e-3, (candidate, error)
        timed = piece(layers(graph)[0], candidate.treatment)
        verify(timed)
        (other,) = layers(timed)
        assert other.operand(1).tensor == node.operand(1).tensor


@pytest.mark.parametrize("between", ["", ",quantize{max_error=1.0}"])
def test_it_is_trained_where_it_has_blocks(between: str) -> None:
    """To give what a layer with other weights gives."""
    graph, x = pointwise(), pixels(count=24)
    found, _, _ = compressed(graph, f"prune{{what=blocks,ratio=0.5,block=[8,4]}}{between}", [[x]])
    dense = graph.clone()
    with dense.edit("other") as editor:
        old = dense.value("w")
        data = weight_of(layers(dense)[0])
        editor.replace(old, editor.const(1.3 * data + 0.1 * np.abs(data).mean(), name="c.weight", before=layers(dense)[0]))
    (before,) = layers(found.clone())
    report = finetune(found, dense, Calibration([[x]]), recipe=Recipe(rate=0.02, steps=60), options=Options(batch=8))
    assert report.changed and report.after < 0.8 * report.before
    (after,) = layers(found)
    assert after.operand(1).tensor == before.operand(1).tensor
    encoding = after.operand(1).tensor.encoding
    assert isinstance(encoding, BlockSparse) and isinstance(encoding.inner, Affine) is bool(between)
    places = [n.operand(1).weight.parts for n in (before, after)]  # type: ignore[union-attr]
    assert all(np.array_equal(*(parts[name] for parts in places)) for name in ("rows", "columns"))
    assert not np.array_equal(weight_of(before), weight_of(after))

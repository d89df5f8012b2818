"""Sizes that a graph's operators do not agree with are an error before generated code sees them; so are other arguments that
it must not get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mcomp
from mcomp.backend import CompileOptions
from mcomp.errors import ArtifactError, BackendError, CallError
from mcomp.ir import parse_graph
from mcomp.ops.conditions import conditions_of
from mcomp.runtime.safety import check_opaque
from tests.cpu.backend_harness import needs_compiler
from tests.runtime.build import MLP, model

BEHIND = """
graph @g [B in 1..] (%x: f32[B, 4], %p: f32[4]) -> (f32[B, 4]) {
  %y = select_scatter %x, %p {axis = 0, index = 2*B - 4} : f32[B, 4]
  return %y
}
"""
SLICED = """
graph @g [B in 1..] (%x: f32[B, 4]) -> (f32[3, 4]) {
  %y = slice %x {axis = 0, start = B - 3, stop = B} : f32[3, 4]
  return %y
}
"""
ADDED = """
graph @g [A in 1.., C in 1..] (%x: f32[A], %z: f32[C]) -> (f32[A]) {
  %y = add %x, %z : f32[A]
  return %y
}
"""
LARGEST = """
graph @g [B in 1..] (%x: f32[2, B]) -> (f32[2, 5], i64[2, 5]) {
  %v, %i = topk %x {k = 5, axis = 1} : f32[2, 5], i64[2, 5]
  return %v, %i
}
"""
STATED = """
graph @g [A in 1.., C in 1..] (%x: f32[A], %z: f32[C]) -> (f32[C]) {
  %y = relu %x : f32[C]
  return %y
}
"""
FEW = """
graph @g [B in 1..] (%x: f32[1, 2, B]) -> (f32[1, 2, B - 4]) {
  %w = const @w#seed=1 : f32[2, 2, 5]
  %y = conv %x, %w {stride = [1], padding = [[0, 0]], dilation = [1], groups = 1} : f32[1, 2, B - 4]
  return %y
}
"""

NESTED = """
graph @g [A in 1.., C in 1..] (%x: f32[A], %z: f32[C]) -> (f32[A]) {
  %y = fused %x, %z {kind = "loop", body = graph @body[A in 1.., C in 1..](%a: f32[A], %b: f32[A]) -> (f32[A]) {
    %s = add %a, %b : f32[A]
    %r = relu %s : f32[A]
    return %r
  }} : f32[A]
  return %y
}
"""


@pytest.mark.parametrize("target", ["reference", pytest.param("cpu", marks=needs_compiler)])
@pytest.mark.parametrize(("text", "good", "bad"), [
    (BEHIND, [(3, 4), (4,)], [(9, 4), (4,)]), (BEHIND, [(2, 4), (4,)], [(1, 4), (4,)]),
    (SLICED, [(5, 4)], [(2, 4)]), (ADDED, [(7,), (7,)], [(7,), (1,)]), (LARGEST, [(2, 5)], [(2, 4)]),
    (STATED, [(3,), (3,)], [(3,), (300,)]), (NESTED, [(5,), (5,)], [(500,), (1,)]), (FEW, [(1, 2, 6)], [(1, 2, 2)]),
])
def test_sizes_that_do_not_fit_are_an_error(
    text: str, good: list[tuple[int, ...]], bad: list[tuple[int, ...]], target: str
) -> None:
    made = model(text, target)
    for run in (made, made.session()):
        run(*[torch.ones(shape) for shape in good])
        with pytest.raises(CallError, match=r"MC0406 the sizes [A-C] = \d+.* do not fit"):
            run(*[torch.ones(shape) for shape in bad])


def test_what_is_not_padded_may_be_empty() -> None:
    graph = parse_graph("""graph @g [B in 0..] (%x: f32[B, 4]) -> (f32[B, 6]) {
  %y = pad %x {low = [0, 1], high = [0, 1], mode = "reflect"} : f32[B, 6]
  return %y
}""")
    assert conditions_of(graph) == ()


def test_a_graph_whose_sizes_always_fit_has_no_conditions() -> None:
    assert conditions_of(parse_graph(MLP, generate=True)) == ()


@needs_compiler
def test_a_tensor_elsewhere_is_refused_after_one_that_was_here() -> None:
    made, x = model(MLP, "cpu"), torch.ones(3, 8)
    made(x)
    with pytest.raises(CallError, match="is on meta"):
        made(x.to("meta"))


def test_threads_must_be_a_number(tmp_path: Path) -> None:
    model(MLP).save(tmp_path / "m.mcomp")
    for threads in (0, -1, True, "two", 1.5):
        with pytest.raises(BackendError, match=r"threads is .*1 or more"):
            mcomp.load(tmp_path / "m.mcomp", threads=threads)
        with pytest.raises(BackendError, match="threads is"):
            CompileOptions(threads=threads)


def test_internal_operators_of_torch_are_refused_in_files() -> None:
    text = """graph @g (%x: f32[4]) -> (f32[1000]) {{
  %y = aten.{name}.default %x {{args = ["$0", [1000], [1]]}} : f32[1000]
  return %y
}}"""
    with pytest.raises(ArtifactError, match=r"_reshape_alias.* not on the allow-list"):
        check_opaque(parse_graph(text.format(name="_reshape_alias")))
    assert check_opaque(parse_graph(text.format(name="_reshape_alias")), trusted=True)
    fine = parse_graph(text.format(name="_linalg_slogdet"))
    assert check_opaque(fine) == ["aten._linalg_slogdet.default"]


def test_what_an_argument_becomes_has_its_sizes() -> None:
    made = model("""graph @g [A in 1.., C in 1..] (%x: f32[A], %z: f32[C]) -> (f32[C]) {
  %y = neg %z : f32[C]
  return mutated @x = %y
}""")
    x = torch.ones(3)
    made(x, torch.ones(3))
    assert x.tolist() == [-1] * 3
    with pytest.raises(CallError, match=r"the new content of x has the shape \[1\], not \[3\]"):
        made(x, torch.ones(1))
    assert x.tolist() == [-1] * 3


@pytest.mark.parametrize("name", ["aten.add.overloads", "aten.add.name", "aten.add.__class__"])
def test_what_is_no_operator_of_torch_is_refused_in_files(name: str) -> None:
    graph = parse_graph(f"""graph @g (%x: f32[4]) -> (f32[4]) {{
  %y = {name} %x {{args = ["$0"]}} : f32[4]
  return %y
}}""")
    with pytest.raises(ArtifactError, match="torch has no operator"):
        check_opaque(graph)

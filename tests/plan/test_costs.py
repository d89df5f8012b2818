"""The cost table: what counts as the same piece, what is measured, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcomp.backend import CompileOptions, Executable
from mcomp.backends.cpu.backend import CpuBackend
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.ir import parse_graph, verify
from mcomp.ir.extract import extract, signature
from mcomp.ir.graph import Graph
from mcomp.plan.costs import CostTable
from tests.cpu.backend_harness import graph_of, needs_compiler

TEXT = """graph @net [B in 1..] (%x: f32[B, 8]) -> (f32[B, 4]) {
  %a = const @a#seed=1 : f32[8, 8]
  %b = const @b#seed=2 : f32[8, 8]
  %c = const @c#seed=3 : f32[4, 8]
  %h = linear %x, %a : f32[B, 8]
  %r = relu %h : f32[B, 8]
  %i = linear %r, %b : f32[B, 8]
  %s = relu %i : f32[B, 8]
  %y = linear %s, %c : f32[B, 4]
  return %y
}"""


def pieces(graph: Graph) -> list[Graph]:
    """Each linear with the relu after it."""
    parts = []
    for name in ("h", "i", "y"):
        node = graph.value(name).producer
        assert node is not None
        parts.append([node, *(u for u in node.result.users if u.op.name == "relu")])
    return [extract(part).graph for part in parts]


@pytest.fixture
def graph() -> Graph:
    return graph_of(TEXT)


def test_a_part_is_a_graph_of_its_own(graph: Graph) -> None:
    node = graph.value("i").producer
    assert node is not None
    part = extract([node, *node.result.users])
    verify(part.graph)
    assert [v.name for v in part.inputs] == ["r"] and [v.name for v in part.outputs] == ["s"]
    assert [n.op.name for n in part.graph.nodes] == ["const", "linear", "relu"]
    assert part.graph.symbols == graph.symbols
    assert signature(parse_graph(str(part.graph), store=graph.store)) == signature(part.graph)


def test_pieces_of_one_shape_are_the_same(graph: Graph) -> None:
    first, second, last = map(signature, pieces(graph))
    assert first == second != last


@needs_compiler
def test_each_shape_is_measured_once_and_kept(graph: Graph, tmp_path: Path) -> None:
    table = CostTable.load("cpu", 1, tmp_path)
    parts = pieces(graph)
    assert table.measure(parts, {"B": 3}) == 2
    again = CostTable.load("cpu", 1, tmp_path)
    assert again.times == table.times and again.measure(parts, {"B": 3}) == 0
    assert again.microseconds(parts[0], {"B": 3}) > 0
    with pytest.raises(KeyError):
        again.microseconds(parts[0], {"B": 4})


@needs_compiler
def test_what_was_measured_is_kept_when_measuring_is_cut(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcomp.plan.costs.AT_ONCE", 1)

    def progress(text: str) -> None:
        if "1 of 2" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CostTable.load("cpu", 1, tmp_path).measure(pieces(graph), {"B": 3}, progress=progress)
    assert len(CostTable.load("cpu", 1, tmp_path).times) == 1


def test_each_instruction_set_has_its_own_table(tmp_path: Path) -> None:
    paths = {CostTable.load(target, 1, tmp_path).path for target in ("cpu", "cpu:portable", "cpu:avx2")}
    assert len(paths) == 3


@needs_compiler
def test_pieces_are_timed_on_the_instruction_set_of_the_target(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    compile_many = CpuBackend.compile_many

    def watched(self: CpuBackend, graphs: Sequence[Graph], options: CompileOptions) -> list[Executable]:
        seen.append(options.isa)
        return compile_many(self, graphs, options)

    monkeypatch.setattr(CpuBackend, "compile_many", watched)
    for target in ("cpu:portable", "cpu"):
        CostTable.load(target, 1, tmp_path).measure(pieces(graph)[:1], {"B": 3})
    assert seen == ["portable", None]


def test_a_damaged_table_is_measured_again(tmp_path: Path) -> None:
    table = CostTable.load("cpu", 1, tmp_path)
    table.path.write_text("[1, 2")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert CostTable.load("cpu", 1, tmp_path).times == {}


BYTES = """graph @g(%x: f32[1, 8, 5, 5]) -> (f32[1, 4, 5, 5]) {
  %w = const @w#int8 : f32[4, 8, 1, 1] affine<i8, axis=0>
  %q = quantize %x {dtype=!u8, scale=0.02, zero=3} : f32[1, 8, 5, 5] affine<u8, scale=0.02, zero=3>
  %y = conv %q, %w {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[1, 4, 5, 5]
  %b = quantize %y {dtype=!u8, scale=0.1} : f32[1, 4, 5, 5] affine<u8, scale=0.1>
  %d = decode %b : f32[1, 4, 5, 5]
  return %d
}"""


@needs_compiler
def test_bytes_that_neighbours_make_and_take_count_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = graph_of(BYTES)
    names: set[tuple[str, ...]] = set()

    def profile(self: CpuExecutable, *args: Any, **options: Any) -> list[float]:
        found = [(kernel.name, *kernel.nodes) for kernel in self.kernels({})]
        names.update(found)
        return [100.0 if names == ("conv_i8", "b") else 10_000.0 for names in found]

    monkeypatch.setattr(CpuExecutable, "profile", profile)
    table = CostTable.load("cpu", 1, tmp_path)
    table.measure([piece], {})
    assert table.microseconds(piece, {}) == 100.0
    assert {("quantize", "q"), ("copy", "b"), ("conv_i8", "b")} < names
    alone = extract([piece.value("q").producer, piece.value("d").producer][:1]).graph  # type: ignore[list-item]
    with alone.edit("test") as editor:
        decoded = editor.add("decode", [alone.outputs[0]]).result
    alone.set_outputs([decoded])
    names.clear()
    table.measure([alone], {})
    assert table.microseconds(alone, {}) == 10_000.0 * len(names)


def test_an_encoded_input_is_refused(tmp_path: Path) -> None:
    graph = parse_graph("""graph @g(%x: f32[2, 4]) -> (f32[2, 4]) {
  %q = quantize %x {dtype = !u8, scale = 0.02, zero = 3} : f32[2, 4] affine<u8, scale=0.02, zero=3>
  %d = decode %q : f32[2, 4]
  return %d
}""")
    node = graph.value("d").producer
    assert node is not None
    with pytest.raises(ValueError, match="include the node that makes it"):
        CostTable.load("cpu", 1, tmp_path).measure([extract([node]).graph], {})

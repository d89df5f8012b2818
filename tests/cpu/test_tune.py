"""The table of tiles: what is measured, kept, and done with it. Nothing here is timed: a timer gives the numbers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.compiler import KERNELS, find_compiler
from mcomp.backends.cpu.isa import choose
from mcomp.backends.cpu.tune import Product, Table, compiled_timer, settle, tune
from mcomp.ir import graph_text, parse_graph, verify
from mcomp.manager import Context
from mcomp.manager.context import UNMEASURED
from mcomp.runtime.choose import lowered
from tests.cpu.backend_harness import check, graph_of, needs_compiler

TEXT = """graph @net [B in 1..] (%x: f32[B, 64, 14, 14]) -> (f32[B, 384]) {
  %k = const @k#seed=1 : f32[384, 64, 3, 3]
  %w = const @w#seed=2 : f32[384, 384]
  %h = conv %x, %k {stride=[2, 2], padding=[[1, 1], [1, 1]], dilation=[1, 1]} : f32[B, 384, 7, 7]
  %m = mean %h {axes=[2, 3]} : f32[B, 384]
  %y = fused %m, %w {kind="epilogue", body=graph @body [B in 1..] (%m: f32[B, 384], %w: f32[384, 384]) -> (f32[B, 384]) {
    %l = linear %m, %w : f32[B, 384]
    %r = relu %l : f32[B, 384]
    return %r
  }} : f32[B, 384]
  return %y
}"""
CONV, LINEAR = Product(False, 384, 576), Product(False, 384, 384)


class FakeTimer:
    """Panels of `best` columns take half the time."""

    def __init__(self, best: int) -> None:
        self.best = best
        self.asked: list[tuple[Product, int]] = []

    def __call__(self, product: Product, rows: int, panels: tuple[int, ...]) -> list[float]:
        self.asked.append((product, rows))
        return [500.0 if p == self.best else 1000.0 for p in panels]


def other_panel(table: Table) -> int:
    """A panel that the rule would not take."""
    return table.choices(LINEAR)[1]


def test_products_are_measured_once_the_largest_first(tmp_path: Path) -> None:
    graph, table = graph_of(TEXT), Table.load(choose(None), tmp_path)
    timer = FakeTimer(other_panel(table))
    assert tune(graph, table, {"B": 64}, timer=timer) == 2
    assert timer.asked == [(CONV, 512), (LINEAR, 64)]
    again = Table.load(choose(None), tmp_path)
    assert again.times == table.times and again.panel(CONV) == timer.best
    assert tune(graph, again, {"B": 64}, timer=timer) == 0 and len(timer.asked) == 2


def test_small_products_and_late_ones_are_left_to_the_rule(tmp_path: Path) -> None:
    graph, table = graph_of(TEXT), Table.load(choose(None), tmp_path)
    timer = FakeTimer(other_panel(table))
    assert tune(graph, table, {"B": 1}, timer=timer) == 1 and timer.asked[0][0] == CONV
    assert table.panel(LINEAR) is None
    late = Table.load(choose(None), tmp_path / "late")
    assert tune(graph, late, {"B": 64}, limit_s=0.0, timer=FakeTimer(16)) == 1


def test_a_little_faster_is_not_enough(tmp_path: Path) -> None:
    table = Table.load(choose(None), tmp_path)
    first, second = table.choices(LINEAR)[:2]
    table.times[str(LINEAR)] = {first: 100.0, second: 98.0}
    assert table.panel(LINEAR) is None
    table.times[str(LINEAR)] = {first: 100.0, second: 90.0}
    assert table.panel(LINEAR) == second


def test_a_damaged_table_is_measured_again(tmp_path: Path) -> None:
    table = Table.load(choose(None), tmp_path)
    table.save()
    table.path.write_text("{ not json")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert Table.load(choose(None), tmp_path).times == {}


@needs_compiler
def test_settled_panels_stand_in_the_types_and_keep_the_meaning(tmp_path: Path) -> None:
    graph, table = graph_of(TEXT), Table.load(choose(None), tmp_path)
    tune(graph, table, {"B": 64}, timer=FakeTimer(other_panel(table)))
    assert settle(graph, table) == 2
    for node in graph.nodes:
        if node.op.name == "fused":
            (body,) = node.bodies
            with body.edit("test") as edit:
                edit.set_type(body.inputs[1], node.operand(1).tensor)
    verify(graph)
    text = graph_text(graph)
    assert text.count(f"block={other_panel(table)}") == 3
    assert graph_text(parse_graph(text, graph.store)) == text
    executable = BACKEND.compile(graph, CompileOptions(threads=1))
    assert "TileFor<" in executable.source()
    check(executable, [torch.randn(3, 64, 14, 14)], tolerance=1e-5)


def test_code_that_may_not_depend_on_what_was_measured_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table.load(choose(None), tmp_path)
    tune(graph_of(TEXT), table, {"B": 64}, timer=FakeTimer(other_panel(table)))
    monkeypatch.setattr(Table, "load", classmethod(lambda cls, isa: table))
    panels = []
    for unmeasured in (False, True):
        context = Context()
        context.shared[UNMEASURED] = unmeasured
        panels.append(graph_text(lowered(BACKEND, graph_of(TEXT), context)).count(f"block={other_panel(table)}"))
    assert panels[0] > panels[1] == 0


@needs_compiler
def test_the_timer_runs_every_candidate(tmp_path: Path) -> None:
    table = Table.load(choose(None), tmp_path)
    timer = compiled_timer(table.isa, BACKEND.cache)
    for product in (Product(False, 80, 33), Product(True, 80, 33)):
        assert all(0 < ns < 1e9 for ns in timer(product, 17, table.choices(product)))


@needs_compiler
def test_measuring_stays_within_its_memory(tmp_path: Path) -> None:
    source, program = tmp_path / "tune.cpp", tmp_path / "tune"
    source.write_text("""#include "tune.hpp"
int main() {
  const int64_t widths[] = {2, 3, 1};
  double ns[3];
  for (int64_t n : {1, 16, 17, 33, 100})
    for (auto kind : {mcomp::TuneKind::kFloat, mcomp::TuneKind::kBytes, mcomp::TuneKind::kMatrix})
      mcomp::time_tiles(kind, 17, n, 37, widths, 3, 1.0, ns);
}
""")
    compiler = find_compiler()
    assert compiler is not None
    flags = ["-std=gnu++17", "-O1", "-g", "-fsanitize=address", "-pthread", f"-I{KERNELS}", *choose("portable").flags]
    built = subprocess.run([*compiler.command, *flags, str(source), "-o", str(program)], capture_output=True, text=True)
    if built.returncode != 0 and "asan" in built.stderr:
        pytest.skip("the compiler has no address sanitizer")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

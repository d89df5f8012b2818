"""Widths of tiles: the rule, and products of few or odd numbers of columns on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mcomp.backends.cpu.tiles import candidates, tile
from mcomp.ir.types import Layout
from tests.cpu.backend_harness import check, compiled, each_isa, graph_of, needs_compiler


def test_the_rule_pads_few_columns() -> None:
    assert tile(384) == tile(1000) == "DefaultTile" and tile(64, int8=True) == "DefaultTileI8"
    assert tile(16) == "TileFor<1, 2, 2>" and tile(8) == "TileFor<1, 1, 2>"
    assert tile(40) == "TileFor<3, 2, 2>" and tile(144, int8=True) == "TileForI8<3, 2, 2>"
    assert tile(112) == "TileFor<1, 2, 2>" and tile(112, int8=True) == "TileForI8<1, 2, 2>"


def test_a_measured_panel_goes_before_the_rule_where_it_fits() -> None:
    for block, expected in ((48, "TileFor<3, 2, 2>"), (16, "TileFor<1, 2, 2>"), (7, "DefaultTile")):
        graph = graph_of("""graph @g (%x: f32[2, 8]) -> (f32[2, 384]) {
  %w = const @w#seed=1 : f32[384, 8]
  %y = linear %x, %w : f32[2, 384]
  return %y
}""")
        (weight,) = [n.result for n in graph.nodes if n.op.name == "const"]
        with graph.edit("test") as edit:
            edit.set_type(weight, replace(weight.tensor, layout=Layout((1, 0), block)))
        assert tile(384, weight=weight) == expected


@pytest.mark.parametrize("int8", [False, True])
def test_candidates_start_with_the_rule(int8: bool) -> None:
    assert candidates(384, 0, int8=int8)[:2] == (32, 48)
    assert candidates(40, 0, int8=int8)[0] == 48
    for columns in range(1, 300):
        for isa, lanes in enumerate((16, 8, 4)):
            found = candidates(columns, isa, int8=int8)
            assert found and all(c % lanes == 0 for c in found) and len(set(found)) == len(found)


COLUMNS = (10, 40, 80, 144)
CODED = "affine<u8, scale=0.02, zero=3>"
PRODUCTS = {
    n: f"""graph @products [B in 1..] (%x: f32[B, 37], %i: f32[B, 12, 6, 5])
    -> (f32[B, {n}], f32[B, {n}], f32[B, {n}, 6, 5], f32[B, {n}, 6, 5]) {{
  %w = const @w#seed=1 : f32[{n}, 37]
  %w8 = const @w8#int8 : f32[{n}, 37] affine<i8, axis=0>
  %k = const @k#seed=2 : f32[{n}, 12, 3, 3]
  %k8 = const @k8#int8 : f32[{n}, 12, 3, 3] affine<i8, axis=0>
  %xq = quantize %x {{dtype=!u8, scale=0.02, zero=3}} : f32[B, 37] {CODED}
  %iq = quantize %i {{dtype=!u8, scale=0.02, zero=3}} : f32[B, 12, 6, 5] {CODED}
  %a = linear %x, %w : f32[B, {n}]
  %b = linear %xq, %w8 : f32[B, {n}]
  %c = conv %i, %k {{stride=[1, 1], padding=[[1, 1], [1, 1]], dilation=[1, 1]}} : f32[B, {n}, 6, 5]
  %d = conv %iq, %k8 {{stride=[1, 1], padding=[[1, 1], [1, 1]], dilation=[1, 1]}} : f32[B, {n}, 6, 5]
  return %a, %b, %c, %d
}}"""
    for n in COLUMNS
}


@needs_compiler
@each_isa
@pytest.mark.parametrize("columns", COLUMNS)
def test_products_of_every_width(columns: int, isa: str | None) -> None:
    executable = compiled(PRODUCTS[columns], isa=isa, among=tuple(PRODUCTS.values()))
    torch.manual_seed(0)
    for batch in (1, 29):
        check(executable, [torch.rand(batch, 37), torch.rand(batch, 12, 6, 5)], tolerance=1e-5)

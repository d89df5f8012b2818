"""Embeddings whose table is stored in integers: looked up as they are stored, and decoded row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcomp.errors import CallError
from mcomp.ir import dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Value
from tests.triton.harness import B, Made, check, kinds, made, needs_triton

pytestmark = needs_triton
ENCODINGS = {
    "rows": Affine(dtypes.i8, axis=(0,)), "whole": Affine(dtypes.i8), "known": Affine(dtypes.i8, scale=0.02, zero=3),
    "zeros": Affine(dtypes.u8, axis=(0,), zero_point=True), "groups": Affine(dtypes.i8, axis=(0,), group=8),
    "i4": Affine(dtypes.i4, axis=(0,)), "i4 groups": Affine(dtypes.i4, axis=(0,), group=8),
    "u4 zeros": Affine(dtypes.u4, axis=(0,), group=4, zero_point=True), "u4 zero": Affine(dtypes.u4, axis=(0,), zero=8),
    "i3": Affine(dtypes.i3, axis=(0,), group=4),
}


def _decoded(executable: Any) -> list[str]:
    """Constants that are held as floats which stand for stored integers."""
    buffers = {buffer for launch in executable.program.launches() for _, buffer, _ in launch.pointers}
    return [b.source.form for b in buffers if b.source is not None and b.source.form.startswith("decoded")]


@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.f16, dtypes.bf16], ids=str)
@pytest.mark.parametrize("how", ENCODINGS)
def test_rows_are_decoded_as_they_are_looked_up(how: str, dtype: DType) -> None:
    """Bit for bit, as the whole table decoded."""
    def make(m: Made) -> list[Value]:
        table = m.const((11, 24), dtype, ENCODINGS[how])
        return [m.op("embedding", table, m.input((B, 5), dtypes.i64)), m.op("embedding", table, m.input((B,), dtypes.i32))]

    executable = check(made(make), {"B": 3}, tolerance=0.0)
    assert kinds(executable, B=3) == ["index", "index"] and not _decoded(executable)


def test_an_odd_width_of_4_bits() -> None:
    executable = check(made(lambda m: [
        m.op("embedding", m.const((6, 7), encoding=ENCODINGS["i4"]), m.input((B,), dtypes.i64))]), tolerance=0.0)
    assert not _decoded(executable)


def test_a_table_that_is_a_head_too_is_held_once() -> None:
    def make(m: Made) -> list[Value]:
        table = m.const((12, 32), encoding=ENCODINGS["i4 groups"])
        return [m.op("linear", m.op("embedding", table, m.input((B, 5), dtypes.i64)), table)]

    executable = check(made(make))
    sources = {b.source for launch in executable.program.launches() for _, b, _ in launch.pointers if b.source is not None}
    assert {(s.part, s.form) for s in sources} == {("values", "nibbles"), ("scales", "plain")}


def test_an_index_outside_of_it_is_told() -> None:
    graph = made(lambda m: [m.op("embedding", m.const((6, 8), encoding=ENCODINGS["rows"]), m.input((B,), dtypes.i64))])
    executable = check(graph)
    for bad in (6, -1):
        with pytest.raises(CallError, match="out of range"):
            executable.run([torch.tensor([0, bad, 1])], {"B": 3})
    check(graph)

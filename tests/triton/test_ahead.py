"""Compiling ahead of time: what comes out is as it should be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcomp.backends.triton.aot import LONGEST, Compiled, compile_jobs, fills_groups, jobs_of, launches_of
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.device import Cuda
from mcomp.backends.triton.program import chip_of, config
from tests.triton.harness import B, made, needs_triton

pytestmark = needs_triton


def test_products_and_sums_are_rounded_each_by_itself(tmp_path: Path) -> None:
    """Fusing both to one instruction is asked for neither ahead of time nor at launches, whatever the compiler's default."""
    graph = made(lambda m: [m.op("add", m.op("mul", m.input((B, 64)), m.input((B, 64))), m.input((B, 64)))])
    listed = jobs_of(launches_of(lower_graph(graph, None), {"B": 8}, 90), {"B": 8}, 90)
    assert not compile_jobs([job for *_, job in listed], cache=tmp_path)[0].error
    (text,) = (p.read_text() for p in tmp_path.rglob("*.ptx"))
    assert re.search(r"\bmul(\.rn)?\.f32", text) and re.search(r"\badd(\.rn)?\.f32", text)
    assert not re.search(r"\bfma\b", text)

    given: list[dict[str, Any]] = []

    class Function:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **options: given.append(options)

    Cuda.launch(object.__new__(Cuda), Function(), (1,), [], config(4, 2, BLOCK=16))
    assert given == [{"BLOCK": 16, "num_warps": 4, "num_stages": 2, "enable_fp_fusion": False}]


def test_what_takes_the_assembler_too_long_is_a_fault() -> None:
    fine = Compiled("k", 90, tensor=("wgmma",), assembling=LONGEST)
    assert fine.faults(chip_of(90), dot=True) == []
    assert "in the assembler" in replace(fine, assembling=LONGEST + 1).faults(chip_of(90), dot=True)[0]


def test_tiles_that_fill_groups_of_warps_must_be_multiplied_by_them() -> None:
    small = Compiled("k", 90, tensor=("mma",))
    assert small.faults(chip_of(90), dot=True) == []
    assert small.faults(chip_of(90), dot=True, groups=True) == ["mma instead of wgmma"]
    assert replace(small, tensor=("wgmma",)).faults(chip_of(90), dot=True, groups=True) == []
    assert small.faults(chip_of(80), dot=True, groups=True) == []
    assert small.faults(chip_of(90), dot=False, groups=True) == []
    assert fills_groups(config(4, 3, BLOCK_M=64, BLOCK_N=32, BLOCK_K=64))
    for tile in (config(4, 3, BLOCK_M=32, BLOCK_N=64), config(2, 3, BLOCK_M=64, BLOCK_N=64), config(4, 1, BLOCK=64)):
        assert not fills_groups(tile)


@pytest.mark.parametrize("arch", [80, 90])
def test_how_long_the_assembler_took_is_told(arch: int, tmp_path: Path) -> None:
    graph = made(lambda m: [m.op("linear", m.input((B, 64)), m.const((64, 64)))])
    (compiled,) = compile_jobs([job for *_, job in jobs_of(launches_of(lower_graph(graph, None), {"B": 64}, arch),
                                                          {"B": 64}, arch)], cache=tmp_path)
    assert not compiled.error and 0.0 < compiled.assembling < compiled.seconds

"""Models in bfloat16: products and convolutions on pairs, where the CPU multiplies them, else widened."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.executor import CpuExecutable
from mcomp.ir import TensorType, WeightStore, dtypes, parse_graph
from tests.cpu.backend_harness import check, each_isa, kernel_names, needs_compiler

pytestmark = needs_compiler

TEXT = """graph @both [B in 1..] (%x: bf16[B, 3, 37], %i: bf16[B, 6, 9, 10])
    -> (bf16[B, 3, 40], bf16[B, 3, 5], bf16[B, 16, 9, 10], bf16[B, 12, 5, 5], bf16[B, 20, 9, 10]) {
  %w = const @w#? : bf16[40, 37]
  %b = const @b#? : bf16[40]
  %v = const @v#? : bf16[5, 40]
  %y = linear %x, %w, %b : bf16[B, 3, 40]
  %r = relu %y : bf16[B, 3, 40]
  %z = linear %r, %v : bf16[B, 3, 5]
  %k = const @k#? : bf16[16, 6, 3, 3]
  %g = const @g#? : bf16[12, 3, 3, 3]
  %p = const @p#? : bf16[20, 6, 1, 1]
  %c = const @c#? : bf16[16]
  %m = conv %i, %k, %c {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : bf16[B, 16, 9, 10]
  %n = conv %i, %g {stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1], groups=2} : bf16[B, 12, 5, 5]
  %o = conv %i, %p {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : bf16[B, 20, 9, 10]
  return %y, %z, %m, %n, %o
}"""


@cache
def executable(isa: str | None) -> CpuExecutable:
    """The graph with random weights, compiled."""
    store, rng = WeightStore(), np.random.default_rng(1)

    def weight(match: re.Match[str]) -> str:
        type = TensorType(tuple(map(int, match.group(1).split(", "))), dtypes.bf16)
        data = dtypes.f32_to_bf16(rng.standard_normal(type.static_shape).astype(np.float32))
        return f"#{store.add(type, data).digest} : {type}"

    graph = parse_graph(re.sub(r"#\? : bf16\[([^]]*)\]", weight, TEXT), store)
    return BACKEND.compile(graph, CompileOptions(isa=isa, threads=2))


@each_isa
def test_bf16_graphs_agree_with_the_reference(isa: str | None) -> None:
    torch.manual_seed(5)
    for batch in (1, 7):
        # Results are rounded to 8 bits: half a unit, 2**-9, here and there another way.
        check(executable(isa), [torch.randn(batch, 3, 37).bfloat16(), torch.randn(batch, 6, 9, 10).bfloat16()],
              tolerance=4e-3)


def test_both_sides_stay_bf16() -> None:
    names = kernel_names(executable(None), B=1)
    assert names.count("linear") == 2 and names.count("conv") == 3
    source = executable(None).source()
    assert "gemm_bf16<" in source and "conv_bf16<" in source
    assert "gemm_f32<" not in source and "conv_f32<" not in source

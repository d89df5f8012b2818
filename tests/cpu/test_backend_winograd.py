"""Winograd convolutions in compiled graphs: which layers take them, and that results stay those of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.backends.cpu.lower.winograd import Layer
from mcomp.ir import TensorType, WeightStore, parse_graph
from mcomp.ir.parser import parse_type
from tests.cpu.backend_harness import check, compiled, each_isa, kernel_names, needs_compiler

pytestmark = needs_compiler

SAME = "{stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1}"

RESIDUAL = f"""graph @residual [B in 0..] (%x: f32[B, 24, 14, 13]) -> (f32[B, 40, 14, 13]) {{
  %w1 = const @w1#seed=1 : f32[40, 24, 3, 3]
  %b1 = const @b1#seed=2 : f32[40]
  %w2 = const @w2#seed=3 : f32[40, 40, 3, 3]
  %h = fused %x, %w1, %b1 {{kind="epilogue", body=graph @body [B in 0..]
      (%x: f32[B, 24, 14, 13], %w: f32[40, 24, 3, 3], %b: f32[40]) -> (f32[B, 40, 14, 13]) {{
    %c = conv %x, %w, %b {SAME} : f32[B, 40, 14, 13]
    %r = relu %c : f32[B, 40, 14, 13]
    return %r
  }}}} : f32[B, 40, 14, 13]
  %y = fused %h, %w2 {{kind="epilogue", body=graph @body [B in 0..]
      (%x: f32[B, 40, 14, 13], %w: f32[40, 40, 3, 3]) -> (f32[B, 40, 14, 13]) {{
    %c = conv %x, %w {SAME} : f32[B, 40, 14, 13]
    %s = add %c, %x : f32[B, 40, 14, 13]
    return %s
  }}}} : f32[B, 40, 14, 13]
  return %y
}}"""

SIZED = """graph @sized [B in 1.., H in 3.., W in 3..] (%x: f32[B, 16, H, W]) -> (f32[B, 16, H, W + 1]) {
  %w = const @w#seed=4 : f32[16, 16, 3, 3]
  %y = conv %x, %w {stride=[1,1], padding=[[0,2],[2,1]], dilation=[1,1], groups=1} : f32[B, 16, H, W + 1]
  return %y
}"""

DIRECT = """graph @direct [B in 1..] (%x: f32[B, 32, 8, 8], %w: f32[32, 32, 3, 3])
    -> (f32[B, 32, 8, 8], f32[B, 32, 4, 4], f32[B, 32, 8, 8], f32[B, 32, 8, 8], f32[B, 8, 8, 8]) {
  %a = const @a#seed=5 : f32[32, 32, 3, 3]
  %g = const @g#seed=6 : f32[32, 16, 3, 3]
  %t = const @t#seed=7 : f32[8, 32, 3, 3]
  %given = conv %x, %w {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 32, 8, 8]
  %strided = conv %x, %a {stride=[2,2], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 32, 4, 4]
  %dilated = conv %x, %a {stride=[1,1], padding=[[2,2],[2,2]], dilation=[2,2], groups=1} : f32[B, 32, 8, 8]
  %grouped = conv %x, %g {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=2} : f32[B, 32, 8, 8]
  %few = conv %x, %t {stride=[1,1], padding=[[1,1],[1,1]], dilation=[1,1], groups=1} : f32[B, 8, 8, 8]
  return %given, %strided, %dilated, %grouped, %few
}"""

ALL = (RESIDUAL, SIZED, DIRECT)


@each_isa
def test_results_are_those_of_the_reference(isa: str | None) -> None:
    torch.manual_seed(0)
    for batch in (1, 3):
        check(compiled(RESIDUAL, isa=isa, among=ALL), [torch.randn(batch, 24, 14, 13)])
        for size in ((3, 3), (9, 12), (30, 5)):
            check(compiled(SIZED, isa=isa, among=ALL), [torch.randn(batch, 16, *size)])
        check(compiled(DIRECT, isa=isa, among=ALL), [torch.randn(batch, 32, 8, 8), torch.randn(32, 32, 3, 3)])


def test_an_empty_batch_gives_an_empty_result() -> None:
    found, = check(compiled(RESIDUAL, among=ALL), [torch.randn(0, 24, 14, 13)])
    assert found.shape == (0, 40, 14, 13)


def test_a_nan_reaches_its_neighbours_only() -> None:
    x = torch.randn(1, 16, 12, 12)
    x[0, 3, 5, 6] = torch.nan
    found, = compiled(SIZED, among=ALL).run([x], {"B": 1, "H": 12, "W": 12})
    expected = torch.zeros(12, 13, dtype=torch.bool)
    expected[3:6, 6:9] = True
    assert torch.equal(found.isnan(), expected.expand_as(found))


def test_convolutions_of_stride_1_take_it() -> None:
    assert kernel_names(compiled(RESIDUAL, among=ALL), B=1).count("conv_winograd") == 2
    assert kernel_names(compiled(SIZED, among=ALL), B=1, H=9, W=9).count("conv_winograd") == 1


def test_what_has_no_winograd_form_stays_direct() -> None:
    names = kernel_names(compiled(DIRECT, among=ALL), B=1)
    assert names.count("conv") == 5 and "conv_winograd" not in names


def test_sums_of_whole_numbers_stay_exact() -> None:
    store, type = WeightStore(), parse_type("f32[16, 16, 3, 3]")
    assert isinstance(type, TensorType)
    ones = store.add(type, {"values": np.ones((16, 16, 3, 3), np.float32)})
    text = f"""graph @count (%x: f32[1, 16, 20, 20]) -> (f32[1, 16, 20, 20]) {{
      %w = const @w#{ones.digest} : f32[16, 16, 3, 3]
      %y = conv %x, %w {SAME} : f32[1, 16, 20, 20]
      return %y
    }}"""
    executable, = BACKEND.compile_many([parse_graph(text, store)], CompileOptions(threads=1))
    mask = torch.zeros(1, 16, 20, 20)
    mask[..., 7:, 3:9] = 1
    found, = executable.run([mask], {})
    assert torch.equal(found, torch.nn.functional.conv2d(mask, torch.ones(16, 16, 3, 3), padding=1))


def test_work_counts_the_multiplications_made() -> None:
    found = next(k for k in compiled(RESIDUAL, among=ALL).kernels({"B": 2}) if k.name == "conv_winograd")
    direct = 2 * 2 * 14 * 13 * 40 * 24 * 9
    assert direct / 4 < found.flops < direct / 2
    assert found.read >= 4 * 2 * 24 * 14 * 13 + 4 * 16 * 24 * 40


@pytest.mark.parametrize(("size", "channels", "side"), [
    (56, 64, 4), (28, 128, 4), (14, 256, 4), (7, 512, 2), (32, 16, 4), (16, 32, 4), (8, 64, 4), (56, 8, None),
    (2, 64, None), (3, 1024, None),
])
def test_the_cost_model_chooses_by_size(size: int, channels: int, side: int | None) -> None:
    assert Layer(1, size, size, channels, channels).best() == side


DEPTH = 24


def test_errors_do_not_pile_up_with_depth() -> None:
    """A relative L2 error below 1e-5 after many layers of F(4 x 4, 3 x 3), each with a shortcut."""
    kinds = "f32[1, 64, 12, 12]"
    lines = [f"%w{i} = const @w{i}#seed={i} : f32[64, 64, 3, 3]" for i in range(DEPTH)]
    for i in range(DEPTH):
        lines += [f"%c{i} = conv %x{i}, %w{i} {SAME} : {kinds}", f"%r{i} = relu %c{i} : {kinds}",
                  f"%x{i + 1} = add %x{i}, %r{i} : {kinds}"]
    body = "\n".join(lines)
    executable = compiled(f"graph @deep (%x0: {kinds}) -> ({kinds}) {{\n{body}\nreturn %x{DEPTH}\n}}", threads=1)
    assert kernel_names(executable).count("conv_winograd") == DEPTH
    x = torch.randn(1, 64, 12, 12, generator=torch.Generator().manual_seed(0))
    found, = executable.run([x], {})
    exact, weights = x.double(), [n.result.weight for n in executable.graph.nodes if n.op.name == "const"]
    for weight in weights:
        assert weight is not None
        kernel = torch.from_numpy(weight.decode().copy()).double()
        exact = exact + torch.relu(torch.nn.functional.conv2d(exact, kernel, padding=1))
    error = torch.linalg.vector_norm(found.double() - exact) / torch.linalg.vector_norm(exact)
    assert float(error) < 1e-5 / 4


def test_larger_batches_pay_for_larger_weights() -> None:
    assert Layer(1, 7, 7, 512, 512).best() == 2
    assert Layer(16, 7, 7, 512, 512).best() == 4

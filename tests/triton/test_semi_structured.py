"""Weights with two of every four elements: torch's sparse kernels as a candidate, without the chip that they need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.executor import TritonExecutable
from mcomp.backends.triton.lower import semi_structured
from mcomp.backends.triton.program import Choice
from mcomp.backends.triton.tune import Tuner
from mcomp.ir import Graph, parse_graph
from mcomp.ir.dtypes import DTYPES, to_torch
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.runtime.calibration import Calibration
from tests.triton.harness import close, needs_triton
from tests.triton.test_tune import Timed

pytestmark = needs_triton


def pruned(dtype: str = "f16", pipeline: str = "prune{what=nm}", width: int = 64) -> Graph:
    """A linear with a relu behind it, after a pipeline."""
    graph = parse_graph(f"""
    graph @mlp[B in 1..](%x: {dtype}[B, {width}]) -> ({dtype}[B, 32]) {{
      %w = const @fc.weight#seed=1 : {dtype}[32, {width}]  loc(fc)
      %b = const @fc.bias#seed=2 : {dtype}[32]  loc(fc)
      %y = linear %x, %w, %b : {dtype}[B, 32]  loc(fc)
      %r = relu %y : {dtype}[B, 32]  loc(act)
      return %r
    }}""", generate=True)
    batches = [[given(dtype, width, seed)] for seed in range(8)]
    PassManager(f"{pipeline},fuse").run(graph, Context(calibration=Calibration(batches)))
    return graph


def given(dtype: str, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(40, width, generator=torch.Generator().manual_seed(seed)).to(to_torch(DTYPES[dtype]))


def ways(graph: Graph) -> list[str]:
    step = next(s for s in lower_graph(graph, None).steps if isinstance(s, Choice))
    return [name for name, _ in step.ways]


@pytest.mark.parametrize("pipeline", ["prune{what=nm}", "prune{what=nm},quantize{bits=8,activations=none}"])
def test_the_sparse_kernel_gives_what_ours_give(pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gets survives torch's own conversion to the sparse format, and it is made once, whoever calls."""
    made = []

    def compressed(weight: torch.Tensor) -> torch.Tensor:
        kept, meta = sparse_semi_structured_from_dense_cutlass(weight)
        assert torch.equal(sparse_semi_structured_to_dense_cutlass(kept, meta), weight)
        made.append(weight.shape)
        return weight

    monkeypatch.setattr(semi_structured, "compressed", compressed)
    graph = pruned(pipeline=pipeline)
    device = Timed(lambda seen: 2.0 if any(kind in ("linear", "vector") for kind, _ in seen) else 1.0)
    executable = TritonExecutable(lower_graph(graph, None), device, Tuner(device, folder=tmp_path, most=1))
    for seed in range(3):
        x = given("f16", seed=seed)
        close(executable.run([x], {"B": 40})[0], run_graph(graph, [x])[0])
    assert [k.name.rsplit("_", 1)[0] for k in executable.kernels({"B": 40})] == ["linear", "tail"]
    assert made == [(32, 64)]


def test_what_it_is_offered_for() -> None:
    assert ways(pruned()) == ["tile", "vector", "semi-structured"]
    assert "semi-structured" not in ways(pruned("f32"))
    assert "semi-structured" not in ways(pruned(width=48))
    assert "semi-structured" not in ways(pruned(pipeline="fold"))


def test_a_kernel_that_torch_lacks_is_out(tmp_path: Path) -> None:
    """Here it is the chip that is missing; the search goes on without it."""
    graph = pruned()
    device = Timed(lambda seen: 1.0)
    executable = TritonExecutable(lower_graph(graph, None), device, Tuner(device, folder=tmp_path, most=1))
    x = given("f16")
    close(executable.run([x], {"B": 40})[0], run_graph(graph, [x])[0])
    assert [k.name.rsplit("_", 1)[0] for k in executable.kernels({"B": 40})] == ["linear"]

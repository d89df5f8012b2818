"""Every pass alone, and all together, on small networks of many kinds: shapes stay right, what is left runs and is saved."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

import mcomp
from mcomp.backend import CompileOptions
from mcomp.backends.cpu import BACKEND
from mcomp.capture.signature import Parameter, Signature
from mcomp.capture.structure import Items, Leaf, Pairs
from mcomp.ir import Graph
from mcomp.ir.binding import bind_inputs
from mcomp.ops.evaluate import run_graph
from mcomp.report.report import Report
from mcomp.runtime.compiled import Built, CompiledModel
from mcomp.runtime.program import CompiledProgram
from tests.compress.graphs import compressed
from tests.compress.networks import NETWORKS, network, transformer
from tests.cpu.backend_harness import needs_compiler

NAMES = ("mobile", "dense", "next", "bert", "llama", "vit")
LOWERED = ("mobile", "next", "bert", "llama", "vit")
ALONE = (
    "lowrank{ratio=0.7,max_error=9.0,tables=true,gain=1.0}", "quantize{bits=4,max_error=9.0}",
    "quantize{bits=2,activations=static,max_error=9.0}", 'prune{ratio=0.25,what=["channels","ffn","heads"]}',
)
BLOCKS = "prune{ratio=0.5,what=blocks,block=[4,4]}"
LEARNING = "distill{steps=2,batch=4}"
TOGETHER = (
    'prune{ratio=0.25,what=["channels","ffn","heads"]},lowrank{ratio=0.8,max_error=9.0,gain=1.0},'
    f"{BLOCKS},quantize{{bits=8,max_error=9.0}},{LEARNING},fixpoint(cse,dce)"
)


def example(name: str) -> tuple[Graph, list[Any]]:
    return network(name) if name in NETWORKS else transformer(name)


def batches(inputs: list[Any]) -> list[list[Any]]:
    """The inputs, and others like them: enough to learn from."""
    torch.manual_seed(5)
    others = [[torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 40) for x in inputs]
              for _ in range(5)]
    return [inputs, *others]


@functools.cache
def together(name: str) -> tuple[Graph, float]:
    graph, inputs = example(name)
    found, _, error = compressed(graph, TOGETHER, batches(inputs))
    return found, error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pipeline", ALONE)
def test_each_alone(name: str, pipeline: str) -> None:
    graph, inputs = example(name)
    before = [v.type for v in graph.outputs]
    found, _, error = compressed(graph, pipeline, [inputs])
    assert [v.type for v in found.outputs] == before
    assert 0 < error < 1.5 and found.ledger


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.parametrize(("pipeline", "rule"), [
    (BLOCKS, "prune"), ("distill{student=narrower,ratio=0.7,steps=2,batch=4,max_error=9.0}", "distill"),
])
def test_blocks_and_students_alone(name: str, pipeline: str, rule: str) -> None:
    graph, inputs = example(name)
    before = [v.type for v in graph.outputs]
    found, _, error = compressed(graph, pipeline, batches(inputs))
    assert [v.type for v in found.outputs] == before
    assert 0 < error < 2.0 and {e.rule for e in found.ledger} == {rule}


@pytest.mark.parametrize("name", LOWERED)
def test_all_together(name: str) -> None:
    graph, _ = example(name)
    found, error = together(name)
    assert [v.type for v in found.outputs] == [v.type for v in graph.outputs]
    assert 0 < error < 1.5 and {e.rule for e in found.ledger} >= {"prune", "quantize"}


@needs_compiler
def test_what_is_left_runs_and_comes_back(tmp_path: Path) -> None:
    graphs = [together(name)[0] for name in LOWERED]
    for name, executable in zip(LOWERED, BACKEND.compile_many(graphs, CompileOptions(threads=2)), strict=True):
        graph, inputs = executable.graph, example(name)[1]
        expected = run_graph(graph, inputs)
        found = executable.run(inputs, bind_inputs(graph, inputs))
        again = mcomp.load(_model(graph, executable).save(tmp_path / f"{name}.mcomp"), trust_code=True, threads=2)
        loaded = again(*inputs)
        for ours, other, exact in zip(found, loaded if isinstance(loaded, tuple) else (loaded,), expected, strict=True):
            scale = torch.linalg.vector_norm(exact.double())
            assert float(torch.linalg.vector_norm(ours.double() - exact.double()) / scale) < 0.05, name
            assert float(torch.linalg.vector_norm(other.double() - exact.double()) / scale) < 0.05, name


def _model(graph: Graph, executable: Any) -> CompiledModel:
    names = tuple(v.name for v in graph.inputs)
    count = len(graph.outputs)
    program = CompiledProgram(
        graph, executable, Signature(tuple(Parameter(n, "any") for n in names)),
        Pairs(names, tuple(Leaf(i) for i in range(len(names)))),
        Leaf(0) if count == 1 else Items("tuple", tuple(Leaf(i) for i in range(count))),
    )
    return CompiledModel(Built(program=program, parts={}, eager=None, report=Report(target="cpu")), target="cpu")

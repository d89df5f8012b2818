"""Teachers that run along: generated code for large graphs in float32, torch for all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mcomp.backend import backend_named
from mcomp.errors import BackendError
from mcomp.ir import Graph
from mcomp.manager import Context
from mcomp.manager.run import PassManager
from mcomp.passes.compress.training import teacher
from mcomp.passes.compress.training.tasks import running_teacher
from mcomp.passes.compress.training.teacher import quick_teacher
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import conv, mlp, random


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """What the CPU backend compiles; graphs of any size are worth it."""
    found: list[Graph] = []
    backend = backend_named("cpu")
    compile: Callable[..., Any] = backend.compile

    def counted(graph: Graph, *rest: Any) -> Any:
        found.append(graph)
        return compile(graph, *rest)

    monkeypatch.setattr(backend, "compile", counted)
    monkeypatch.setattr(teacher, "_LARGE", 0)
    return found


@pytest.mark.parametrize("make", [conv, mlp])
def test_generated_code_gives_what_torch_gives(make: Callable[[], Graph], compiled: list[Graph]) -> None:
    graph = make()
    shape = [int(d) for d in graph.inputs[0].tensor.shape[1:]]
    quick, slow = quick_teacher(graph, graph.outputs, batch=8, threads=2), running_teacher(graph, graph.outputs)
    assert len(compiled) == 1
    for rows in (1, 8, 5):
        x = random(rows, *shape, seed=rows)
        kept = x.clone()
        assert relative_error([quick([x])], [slow([x])]) < 1e-6
        assert bool((x == kept).all())


def test_an_input_in_another_order_in_memory_is_the_same(compiled: list[Graph]) -> None:
    graph = conv()
    x = random(4, 8, 8, 12).permute(0, 3, 1, 2)
    quick, slow = quick_teacher(graph, graph.outputs, batch=4), running_teacher(graph, graph.outputs)
    assert relative_error([quick([x])], [slow([x.contiguous()])]) < 1e-6


def test_bfloat16_and_values_inside_are_left_to_torch(compiled: list[Graph]) -> None:
    graph = mlp()
    inside = graph.value("r")
    for taught in (
        quick_teacher(graph, graph.outputs, batch=8, bf16=True), quick_teacher(graph, [*graph.outputs, inside], batch=8),
    ):
        assert taught([random(3, 64)])[0].shape == (3, 48)
    assert not compiled


def test_a_small_teacher_is_not_compiled(compiled: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "_LARGE", 10_000_000)
    graph = mlp()
    quick_teacher(graph, graph.outputs, batch=8)
    assert not compiled


def test_without_a_compiler_torch_teaches(compiled: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backend_named("cpu")), "available", lambda self: "no compiler")
    graph = conv()
    assert quick_teacher(graph, graph.outputs, batch=8)([random(2, 12, 8, 8)])[0].shape == (2, 16, 8, 8)
    assert not compiled


def test_where_compiling_fails_torch_teaches(compiled: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> Any:
        raise BackendError("the compiler was killed", code="MC0603")

    monkeypatch.setattr(backend_named("cpu"), "compile", fail)
    graph = conv()
    assert quick_teacher(graph, graph.outputs, batch=8)([random(2, 12, 8, 8)])[0].shape == (2, 16, 8, 8)


def test_distill_is_taught_by_generated_code(compiled: list[Graph]) -> None:
    """Changed inputs need a teacher that runs along."""
    graph, context = conv(), Context(calibration=Calibration([[random(64, 12, 8, 8)]]))
    PassManager("prune{ratio=0.5},distill{augment=noise,steps=4,rate=0.001}").run(graph, context)
    assert len(compiled) == 1 and compiled[0].inputs[0].tensor.shape[1:] == (12, 8, 8)

"""Kernels of torch's libraries as candidates: in the precision that was asked for, and without a copy of what they give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.backends.cudnn.rnn
from torch.utils._python_dispatch import TorchDispatchMode

from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.executor import TritonExecutable
from mcomp.backends.triton.precision import full_precision
from mcomp.backends.triton.program import TorchStep
from mcomp.backends.triton.tune import Tuner
from mcomp.ir import Graph, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Value
from mcomp.ops.evaluate import run_graph
from tests.triton.harness import B, Made, close, compiled, graph_of, inputs_of, made, needs_triton
from tests.triton.test_tune import Timed

pytestmark = needs_triton
SETTINGS: dict[str, Any] = {
    "products": torch.backends.cuda.matmul, "convolutions": torch.backends.cudnn.conv, "recurrent": torch.backends.cudnn.rnn,
}


class Watched(TorchDispatchMode):
    """Notes every operator that torch runs, and the precision that CUDA devices would have for f32 then."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append((str(func), precisions()))
        return func(*args, **(kwargs or {}))

    @property
    def ops(self) -> list[str]:
        return [name for name, _ in self.seen]


def precisions() -> dict[str, str]:
    return {name: setting.fp32_precision for name, setting in SETTINGS.items()}


@pytest.fixture
def tf32() -> Iterator[None]:
    """A process that allows TF32 everywhere."""
    before = precisions()
    for setting in SETTINGS.values():
        setting.fp32_precision = "tf32"
    yield
    for name, setting in SETTINGS.items():
        setting.fp32_precision = before[name]


def by_library(graph: Graph, folder: Path) -> TritonExecutable:
    """An executable that found the library faster than every kernel of ours that could stand for it."""
    slow = ("linear", "vector", "matmul", "conv", "depthwise", "attention")
    device = Timed(lambda seen: 2.0 if any(kind.startswith(slow) for kind, _ in seen) else 1.0)
    return TritonExecutable(lower_graph(graph, None), device, Tuner(device, folder=folder, most=1), record=False)


def _linear(m: Made, dtype: DType = dtypes.f32) -> list[Value]:
    return [m.op("linear", m.input((B, 3, 40), dtype), m.const((24, 40), dtype), m.const((24,), dtype))]


def _matmul(m: Made) -> list[Value]:
    right = m.op("permute", m.input((B, 5, 8)), order=(0, 2, 1))
    return [m.op("matmul", m.input((B, 7, 8)), right)]


def _alone(m: Made) -> list[Value]:
    return [m.op("matmul", m.input((B, 7, 8)), m.op("permute", m.input((B, 5, 8)), order=(0, 2, 1)))]


def _conv(m: Made) -> list[Value]:
    x = m.input((B, 3, 8, 8))
    return [m.op("conv", x, m.const((4, 3, 3, 3)), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1))]


LSTM = """graph @lstm [B in 1..] (%x: f32[4, B, 5], %h: f32[1, B, 6], %c: f32[1, B, 6]) -> (f32[4, B, 6]) {
  %w = const @w#seed=1 : f32[24, 5]
  %v = const @v#seed=2 : f32[24, 6]
  %y, %n, %m = lstm %x, %h, %c, %w, %v {layers=1, bias=false} : f32[4, B, 6], f32[1, B, 6], f32[1, B, 6]
  return %y
}"""


def _depthwise(m: Made) -> list[Value]:
    x = m.input((B, 6, 8, 8))
    return [m.op("conv", x, m.const((6, 1, 3, 3)), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=6)]


@pytest.mark.parametrize(("heads", "causal", "tail"), [(2, True, False), (4, False, True)])
def test_attention_by_the_library(heads: int, causal: bool, tail: bool, tmp_path: Path) -> None:
    """Where neither masks nor TF32 are in the way; what heads give lies side by side, and is copied once."""
    def make(m: Made) -> list[Value]:
        q = m.input((B, 4, 6, 16), dtypes.f16)
        k, v = (m.input((B, heads, 6, 16), dtypes.f16) for _ in range(2))
        y = m.op("attention", q, k, v, causal=causal, grouped=heads != 4)
        found = m.op("permute", m.op("relu", y) if tail else y, order=(0, 2, 1, 3))
        return [m.op("linear", m.op("reshape", found, shape=(B, 6, 64)), m.const((5, 64), dtypes.f16))]

    graph = made(make)
    executable = by_library(graph, tmp_path)
    given = inputs_of(graph, {"B": 3})
    for _ in range(2):
        close(executable.run(given, {"B": 3})[0], run_graph(graph, given)[0])
    names = [k.name.rsplit("_", 1)[0] for k in executable.kernels({"B": 3})]
    assert names[0] == "attention" and ("tail" in names) is tail
    assert isinstance(executable.steps({"B": 3})[0], TorchStep)


@pytest.mark.parametrize("make", [_linear, _matmul, _conv, _depthwise])
def test_a_library_multiplies_f32_as_f32(make: Any, tf32: None, tmp_path: Path) -> None:
    """Whatever the process allows itself, which it gets back."""
    graph = made(make)
    executable = by_library(graph, tmp_path)
    given = inputs_of(graph, {"B": 2})
    executable.run(given, {"B": 2})
    with Watched() as watched:
        found = executable.run(given, {"B": 2})
    close(found[0], run_graph(graph, given)[0])
    products = [held for name, held in watched.seen if name.split(".")[1] in ("addmm", "bmm", "mm", "convolution")]
    assert products and all(held == dict.fromkeys(SETTINGS, "ieee") for held in products)
    assert precisions() == dict.fromkeys(SETTINGS, "tf32")


def test_so_do_layers_that_torch_runs(tf32: None) -> None:
    graph = graph_of(LSTM)
    executable = compiled(graph)
    with Watched() as watched:
        executable.run(inputs_of(graph, {"B": 2}), {"B": 2})
    assert any(held == dict.fromkeys(SETTINGS, "ieee") for _, held in watched.seen)
    assert precisions() == dict.fromkeys(SETTINGS, "tf32")


def test_precision_is_kept_while_any_call_runs(tf32: None) -> None:
    """Calls of two threads: the one that began later is not left to what the first one restores, and errors restore too."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_precision():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with full_precision():
        thread.start()
        assert inside.wait(10)
    assert precisions() == dict.fromkeys(SETTINGS, "ieee")
    leave.set()
    thread.join()
    assert precisions() == dict.fromkeys(SETTINGS, "tf32")
    with pytest.raises(ValueError, match="wrong"), full_precision():
        raise ValueError("wrong")
    assert precisions() == dict.fromkeys(SETTINGS, "tf32")


@pytest.mark.parametrize("dtype", [dtypes.f32, dtypes.f16], ids=str)
@pytest.mark.parametrize("make", [_linear, _alone])
def test_what_it_gives_is_not_copied(make: Any, dtype: DType, tmp_path: Path) -> None:
    if make is _alone and dtype is not dtypes.f32:
        pytest.skip("one type is enough")
    graph = made(lambda m: make(m, dtype) if make is _linear else make(m))
    executable = by_library(graph, tmp_path)
    given = inputs_of(graph, {"B": 2})
    executable.run(given, {"B": 2})
    with Watched() as watched:
        executable.run(given, {"B": 2})
    assert any(name in ("aten.addmm.out", "aten.bmm.out") for name in watched.ops)
    assert not [name for name in watched.ops if "copy_" in name or "clone" in name]


@pytest.mark.parametrize(("shape", "bias"), [((40,), True), ((2, 40), False), ((2, 0, 40), True), ((2, 3, 2, 40), True)])
def test_linear_layers_of_any_rank(shape: tuple[int, ...], bias: bool, tmp_path: Path) -> None:
    graph = made(lambda m: [m.op("linear", m.input(shape), m.const((24, 40)), m.const((24,)) if bias else None)])
    executable = by_library(graph, tmp_path)
    given = inputs_of(graph, {})
    for _ in range(2):
        close(executable.run(given, {})[0], run_graph(graph, given)[0])

"""Calling compiled graphs: threads, forks, arrays of all kinds, bad data, bound calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mcomp.errors import CallError
from mcomp.ops.evaluate import run_graph
from tests.cpu.backend_harness import check, compiled, graph_of, kernel_names, needs_compiler

pytestmark = needs_compiler

WIDE = """graph @wide [B in 0..] (%x: f32[B, 256]) -> (f32[B, 256]) {
  %w = const @w#seed=1 : f32[512, 256]
  %v = const @v#seed=2 : f32[256, 512]
  %h = linear %x, %w : f32[B, 512]
  %g = tanh %h : f32[B, 512]
  %y = linear %g, %v : f32[B, 256]
  return %y
}"""

LOOKUP = """graph @lookup [B in 0..] (%ids: i64[B], %rows: i64[B]) -> (f32[B, 4], f32[B, 4]) {
  %table = const @table#seed=1 : f32[10, 4]
  %e = embedding %table, %ids : f32[B, 4] loc(words "model.py":7)
  %t = index %e, %rows {axes=[0]} : f32[B, 4] loc(picks "model.py":9)
  return %e, %t
}"""

VIEWS = """graph @views [B in 1..] (%x: f32[B, 4, 6]) -> (f32[B, 3, 4], f32[B, 6, 2], f32[B, 4, 6], f32[B, 24]) {
  %h = slice %x {axis=2, start=0, stop=6, step=2} : f32[B, 4, 3]
  %t = permute %h {order=[0, 2, 1]} : f32[B, 3, 4]
  %u = permute %x {order=[0, 2, 1]} : f32[B, 6, 4]
  %s = slice %u {axis=2, start=1, stop=3} : f32[B, 6, 2]
  %f = flip %x {axes=[1, 2]} : f32[B, 4, 6]
  %r = reshape %x {shape=[B, 24]} : f32[B, 24]
  return %t, %s, %f, %r
}"""

SUM_OF_VIEWS = """graph @sum_of_views [B in 1..] (%x: f32[B, 4, 6]) -> (f32[B, 6, 2]) {
  %u = permute %x {order=[0, 2, 1]} : f32[B, 6, 4]
  %a = slice %u {axis=2, start=0, stop=2} : f32[B, 6, 2]
  %b = slice %u {axis=2, start=2, stop=4} : f32[B, 6, 2]
  %y = add %a, %b : f32[B, 6, 2]
  return %y
}"""

MIXED = """graph @mixed [B in 1.., n in 0..] (%x: f32[B, 5]) -> (i64[n, 2], f32[n, 2], f32[B, 5]) {
  %zero = full {value=0.0} : f32[]
  %m = gt %x, %zero : bool[B, 5]
  %at = nonzero %m {symbol="n"} : i64[n, 2]
  %f = cast %at {dtype=!f32} : f32[n, 2]
  %d = digamma %x : f32[B, 5]
  %y = exp %d : f32[B, 5]
  return %at, %f, %y
}"""

ALL = (WIDE, LOOKUP, VIEWS, SUM_OF_VIEWS, MIXED)


def test_calls_from_several_threads_do_not_mix() -> None:
    executable = compiled(WIDE, among=ALL)
    batches = [torch.randn(n, 256) for n in (1, 33, 64, 7)]
    expected = [run_graph(executable.graph, [x])[0] for x in batches]
    worst: list[float] = []

    def work(i: int) -> None:
        for _ in range(20):
            found, = executable.run([batches[i]], {"B": len(batches[i])})
            worst.append(float((found - expected[i]).abs().max() / expected[i].abs().max()))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(worst) == 80 and max(worst) < 1e-5


def test_a_forked_child_computes_too() -> None:
    executable = compiled(WIDE, among=ALL)
    x = torch.randn(64, 256)
    expected, = executable.run([x], {"B": 64})
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        found = executable.run([x.numpy()], {"B": 64}, numpy=True)[0]
        os.write(writer, b"same" if np.array_equal(found, expected.numpy()) else b"other")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == b"same"
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(executable.run([x], {"B": 64})[0], expected)


def test_numpy_arrays_and_strided_arrays_are_taken() -> None:
    executable = compiled(WIDE, among=ALL)
    x = torch.randn(256, 6).t()
    expected, = executable.run([x.contiguous()], {"B": 6})
    assert torch.equal(executable.run([x], {"B": 6})[0], expected)
    found, = executable.run([x.numpy()], {"B": 6}, numpy=True)
    assert isinstance(found, np.ndarray) and np.array_equal(found, expected.numpy())


def test_results_are_fresh_memory() -> None:
    executable = compiled(VIEWS, among=ALL)
    x = torch.randn(2, 4, 6)
    first = executable.run([x], {"B": 2})
    kept = [y.clone() for y in first]
    second = executable.run([x + 1], {"B": 2})
    assert all(torch.equal(a, b) for a, b in zip(first, kept))
    first[3].zero_()
    assert x.abs().sum() > 0 and second[3].abs().sum() > 0


def test_views_move_nothing() -> None:
    check(compiled(VIEWS, among=ALL), [torch.randn(3, 4, 6)])
    check(compiled(SUM_OF_VIEWS, among=ALL), [torch.randn(3, 4, 6)])
    assert kernel_names(compiled(SUM_OF_VIEWS, among=ALL), B=3) == ["add"]


def test_an_index_out_of_range_names_the_layer() -> None:
    executable = compiled(LOOKUP, among=ALL)
    good = torch.tensor([0, 9])
    check(executable, [good, torch.tensor([1, -2])])
    with pytest.raises(IndexError, match="words") as caught:
        executable.run([torch.tensor([0, 10]), torch.tensor([0, 1])], {"B": 2})
    assert isinstance(caught.value, CallError) and "model.py" in str(caught.value)
    with pytest.raises(IndexError, match="picks"):
        executable.run([good, torch.tensor([0, 2])], {"B": 2})
    check(executable, [good, torch.tensor([1, 0])])


def test_torch_runs_what_has_no_kernel() -> None:
    executable = compiled(MIXED, among=ALL)
    x = torch.rand(4, 5) + 0.1
    check(executable, [x], tolerance=1e-5)
    check(executable, [-0.3 - 0.4 * torch.rand(4, 5)], tolerance=1e-5)
    native = {k.name: k.native for k in executable.kernels({"B": 4})}
    assert not native["nonzero"] and not native["digamma"] and native["exp"]


def test_a_bound_call_reads_its_inputs_anew() -> None:
    executable = compiled(WIDE, among=ALL)
    x = torch.randn(8, 256)
    bound = executable.bind([x], {"B": 8})
    place = bound.outputs[0].data_ptr()
    x.copy_(torch.randn(8, 256))
    bound()
    assert bound.outputs[0].data_ptr() == place
    assert torch.equal(bound.outputs[0], executable.run([x], {"B": 8})[0])


def test_a_bound_call_reads_strided_inputs_anew() -> None:
    executable = compiled(WIDE, among=ALL)
    x = np.zeros((256, 8), np.float32)
    bound = executable.bind([x.T], {"B": 8})
    x[...] = np.random.default_rng(0).standard_normal((256, 8))
    bound()
    assert np.array_equal(bound.outputs[0], executable.run([x.T], {"B": 8}, numpy=True)[0])


def test_nothing_of_torch_is_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from mcomp.backend import CompileOptions\n"
        "from mcomp.backends.cpu import BACKEND\n"
        "from mcomp.ir import parse_graph\n"
        f"g = parse_graph({WIDE!r}, generate=True)\n"
        "e = BACKEND.compile(g, CompileOptions())\n"
        "y, = e.run([np.ones((2, 256), np.float32)], {'B': 2}, numpy=True)\n"
        "w, v = (next(n.result.weight.decode() for n in g.nodes if n.name == s) for s in 'wv')\n"
        "expected = np.tanh(np.ones((2, 256)) @ w.T.astype(float)) @ v.T\n"
        "assert np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr


def test_one_thread_gives_what_two_give() -> None:
    x = torch.randn(40, 256)
    one, = compiled(WIDE, threads=1, among=ALL).run([x], {"B": 40})
    two, = compiled(WIDE, threads=2, among=ALL).run([x], {"B": 40})
    assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


def test_arena_grows_with_the_sizes() -> None:
    executable = compiled(WIDE, among=ALL)
    assert 0 < executable.arena_bytes({"B": 2}) < executable.arena_bytes({"B": 200})
    assert executable.packed_bytes >= 2 * 4 * 256 * 512
    assert graph_of(WIDE).name == "wide"

"""Generated source and its compiled form: what may stand in it, how it is cached, restored and found damaged."""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from mcomp.backend import CompileOptions
from mcomp.backends.cpu.backend import CpuBackend, emit, lower_graph
from mcomp.backends.cpu.cache import CodeCache
from mcomp.backends.cpu.compiler import build, find_compiler
from mcomp.backends.cpu.isa import choose
from mcomp.backends.cpu.synchronizing import thread_costs
from mcomp.errors import BackendError
from mcomp.ir import Graph, Loc, TensorType, dtypes, parse_graph
from tests.cpu.backend_harness import needs_compiler

pytestmark = needs_compiler

TINY = """graph @tiny [B in 1..] (%x: f32[B, 3]) -> (f32[B, 3]) {
  %y = exp %x : f32[B, 3]
  return %y
}"""
X = np.array([[0.0, 1.0, 2.0]], np.float32)


def _run(backend: CpuBackend, text: str = TINY) -> np.ndarray:
    executable = backend.compile(parse_graph(text), CompileOptions())
    return executable.run([X], {"B": 1}, numpy=True)[0]


def test_names_cannot_break_out_of_the_source() -> None:
    evil = '*/ } int x = system("touch /tmp/owned"); /* \\\n #include "x" \n'
    graph = Graph(evil)
    x = graph.add_input(evil, TensorType((4,), dtypes.f32))
    with graph.edit("test") as e:
        node = e.add("relu", [x], name=evil, loc=Loc(evil, evil, 3))
    graph.set_outputs([node.result])
    source = emit([lower_graph(graph, None)], CompileOptions()).text
    assert "system(" not in source and "touch /tmp" not in source
    assert all(line.startswith(('#include "', "#include <")) for line in source.splitlines()
               if line.lstrip().startswith("#"))
    executable = CpuBackend().compile(graph, CompileOptions())
    found, = executable.run([np.array([-1, 0, 1, 2], np.float32)], {}, numpy=True)
    assert found.tolist() == [0, 0, 1, 2]


def test_layers_alike_share_one_function() -> None:
    lines = [f"  %h{i + 1} = linear %h{i}, %w{i} : f32[B, 8]" for i in range(6)]
    weights = [f"  %w{i} = const @w{i}#seed={i} : f32[8, 8]" for i in range(6)]
    text = "\n".join(("graph @deep [B in 1..] (%h0: f32[B, 8]) -> (f32[B, 8]) {", *weights, *lines, "  return %h6", "}"))
    source = emit([lower_graph(parse_graph(text, generate=True), None)], CompileOptions())
    assert sum("_linear" in name and "pack" not in name for name in source.functions) == 1


def test_all_workers_pack_constants() -> None:
    text = """graph @one (%x: f32[2, 8]) -> (f32[2, 8]) {
  %w = const @w#seed=1 : f32[8, 8]
  %y = linear %x, %w : f32[2, 8]
  return %y
}"""
    source = emit([lower_graph(parse_graph(text, generate=True), None)], CompileOptions()).text
    packing, main = (source.split(f"void p0_s{i}_region")[1].split("namespace")[0] for i in (0, 1))
    assert "pack" in packing and "w.id == 0) {" not in packing
    assert "w.id == 0) {" in main


def test_the_same_graph_gives_the_same_source() -> None:
    first, second = (emit([lower_graph(parse_graph(TINY), None)], CompileOptions()).text for _ in range(2))
    assert first == second


def test_compiled_code_is_kept_and_found(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "cache")
    _run(CpuBackend(cache))
    entry, = cache.entries()
    before = entry.stat().st_mtime_ns
    assert np.allclose(_run(CpuBackend(cache)), np.exp(X))
    assert entry.stat().st_mtime_ns == before


@pytest.mark.parametrize("harm", ["cut", "foreign", "no hash", "empty"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, harm: str) -> None:
    cache = CodeCache(tmp_path / "cache")
    _run(CpuBackend(cache))
    entry, = cache.entries()
    content = entry.read_bytes()
    entry.unlink()  # it is mapped into this process: replace it, do not write into it
    if harm == "cut":
        entry.write_bytes(content[: len(content) // 2])
    elif harm == "foreign":
        entry.write_bytes(b"\x7fELF" + b"\0" * 100)
    elif harm == "empty":
        entry.write_bytes(b"")
    else:
        entry.write_bytes(content)
        entry.with_suffix(".sha256").unlink()
    assert np.allclose(_run(CpuBackend(cache)), np.exp(X))
    assert cache.find(entry.stem) is not None


def _build_and_run(folder: str) -> bool:
    return bool(np.allclose(_run(CpuBackend(CodeCache(Path(folder)))), np.exp(X)))


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_build_and_run, [str(tmp_path / "cache")] * 2) == [True, True]
    cache = CodeCache(tmp_path / "cache")
    assert len(cache.entries()) == 1 and not list((tmp_path / "cache").glob(".building-*"))


@pytest.mark.skipif(choose(None).name == "portable", reason="portable code includes no vector instructions")
@pytest.mark.parametrize("damaged", [False, True])
def test_headers_are_precompiled_from_the_third_compilation_on(tmp_path: Path, damaged: bool) -> None:
    compiler = find_compiler()
    if compiler is None or "clang" in compiler.version or "ziglang" in compiler.command:
        pytest.skip("only g++ needs them")
    cache = CodeCache(tmp_path / "cache")
    for op in ("exp", "sin"):
        _run(CpuBackend(cache), TINY.replace("exp", op))
        assert not list(cache.folder.glob("headers-*"))
    _run(CpuBackend(cache), TINY.replace("exp", "cos"))
    (made,) = cache.folder.glob("headers-*")
    headers = made / "first.hpp.gch"
    assert headers.stat().st_size > 1 << 20
    if damaged:
        headers.write_bytes(headers.read_bytes()[: 1 << 20])
    before = headers.stat().st_mtime_ns, set(cache.entries())
    assert np.allclose(_run(CpuBackend(cache), TINY.replace("exp", "tanh")), np.tanh(X))
    assert headers.stat().st_mtime_ns == before[0]
    (entry,) = set(cache.entries()) - before[1]
    alone = CodeCache(tmp_path / "alone")
    _run(CpuBackend(alone), TINY.replace("exp", "tanh"))
    assert alone.entries()[0].name == entry.name and alone.entries()[0].read_bytes() == entry.read_bytes()


def test_without_a_cache_nothing_is_kept(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "cache")
    executable = CpuBackend(cache).compile(parse_graph(TINY), CompileOptions(cache=False))
    assert np.allclose(executable.run([X], {"B": 1}, numpy=True)[0], np.exp(X))
    assert cache.entries() == []


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = CodeCache(tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match=r"cannot be kept in .*file.cache .*XDG_CACHE_HOME") as caught:
        assert np.allclose(_run(CpuBackend(cache)), np.exp(X))
        assert np.allclose(_run(CpuBackend(cache), TINY.replace("exp", "tanh")), np.tanh(X))
    assert len(caught) == 1
    entries = cache.writable.entries()
    assert len(entries) == 2
    before = [e.stat().st_mtime_ns for e in entries]
    assert np.allclose(_run(CpuBackend(cache)), np.exp(X))
    assert [e.stat().st_mtime_ns for e in cache.writable.entries()] == before


def test_a_cache_that_cannot_be_written_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(CpuBackend(CodeCache(tmp_path / "cache")))
    cache = CodeCache(tmp_path / "cache")

    def refuse(suffix: str | None = None, prefix: str | None = None, dir: Path | None = None) -> str:
        if dir == cache.folder:
            raise PermissionError(13, "Permission denied")
        return mkdtemp(suffix, prefix, dir)

    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(_run(CpuBackend(cache)), np.exp(X))
    with pytest.warns(UserWarning, match="Permission denied"):
        _run(CpuBackend(cache), TINY.replace("exp", "tanh"))
    assert len(cache.entries()) == len(cache.writable.entries()) == 1
    assert np.allclose(_run(CpuBackend(cache)), np.exp(X))
    assert len(cache.writable.entries()) == 1


def test_a_compiler_error_is_shown(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="did not compile") as caught:
        build("this is no C++;", choose(None), CodeCache(tmp_path / "cache"))
    assert "error" in str(caught.value)


def test_compiled_code_is_restored_for_the_same_graph_only() -> None:
    backend = CpuBackend()
    executable = backend.compile(parse_graph(TINY), CompileOptions())
    binaries = executable.binaries()
    again = backend.restore(parse_graph(str(executable.graph)), binaries, CompileOptions())
    assert again is not None
    assert np.allclose(again.run([X], {"B": 1}, numpy=True)[0], np.exp(X))
    other = parse_graph(TINY.replace("exp", "tanh"))
    assert backend.restore(other, binaries, CompileOptions()) is None
    assert backend.restore(parse_graph(TINY), {}, CompileOptions()) is None


def test_an_instruction_set_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BackendError, match="no instruction set"):
        CpuBackend().compile(parse_graph(TINY), CompileOptions(isa="mmx"))


def test_describe_tells_what_there_is() -> None:
    facts = CpuBackend().describe()
    assert facts["compiler"] != "none" and "portable" in facts["instruction sets"]
    assert "us per barrier" in facts["cost of threads"]


def test_the_cost_of_threads_is_measured() -> None:
    costs = thread_costs(2, CpuBackend().cache)
    assert costs.threads == 2
    assert costs.barrier > 0 and costs.region > 0 and costs.waking > 0

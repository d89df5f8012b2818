"""Target cuda on a machine without a GPU: a clear error; lowering, looking and compiling ahead of time work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcomp.backend import CompileOptions, backend_named
from mcomp.backends.triton.aot import compile_jobs, jobs_of, launches_of
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.ship import pack, packed, unpack
from mcomp.errors import ArtifactError, BackendError
from tests.triton.harness import compiled, graph_of, needs_triton

TEXT = """graph @small [B in 1..] (%x: f32[B, 32]) -> (f32[B, 16]) {
  %w = const @w#seed=1 : f32[16, 32]
  %b = const @b#seed=2 : f32[16]
  %y = linear %x, %w, %b : f32[B, 16]
  %r = relu %y : f32[B, 16]
  return %r
}"""


def _run(*command: str, interpret: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)


@needs_triton
def test_optimizing_without_a_gpu_names_the_cpu() -> None:
    done = _run("-c", (
        "import torch, mcomp\nfrom mcomp.errors import McompError\n"
        "try: mcomp.optimize(torch.nn.Linear(4, 4).eval(), (torch.ones(1, 4),), target='cuda')\n"
        "except McompError as e: print(e)"
    ))
    assert "no CUDA device" in done.stdout and 'target="cpu"' in done.stdout and "MC0602" in done.stdout, done.stderr


def test_without_triton_the_error_says_what_to_install() -> None:
    done = _run("-c", (
        "import sys, torch\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'triton' else real(name, *a)\n"
        "import mcomp\nfrom mcomp.errors import McompError\n"
        "try: mcomp.optimize(torch.nn.Linear(4, 4).eval(), (torch.ones(1, 4),), target='cuda')\n"
        "except McompError as e: print(e)"
    ))
    assert 'pip install -e ".[cuda]" in the folder of mcomp' in done.stdout, done.stderr


@needs_triton
def test_opt_shows_source_and_compiled_kernels(tmp_path: Path) -> None:
    file = tmp_path / "small.mir"
    file.write_text(TEXT)
    shown = _run("-m", "mcomp", "opt", str(file), "--target", "cuda:sm_90")
    assert "fused" in shown.stdout, shown.stderr
    source = _run("-m", "mcomp", "opt", str(file), "--target", "cuda:sm_90", "--emit", "source")
    assert "@triton.jit" in source.stdout and "products.dense" in source.stdout, source.stderr
    compile(source.stdout, "source", "exec")
    kernels = _run("-m", "mcomp", "opt", str(file), "--target", "cuda:sm_90", "--emit", "kernels", "--size", "B=64")
    assert "registers" in kernels.stdout and "linear, relu" in kernels.stdout, kernels.stderr
    wrong = _run("-m", "mcomp", "opt", str(file), "--target", "cuda:volta", "--emit", "kernels")
    assert wrong.returncode != 0 and "cuda:sm_80" in wrong.stderr


@needs_triton
def test_shipped_kernels_are_found_and_not_compiled_again(tmp_path: Path) -> None:
    program = lower_graph(graph_of(TEXT), None)
    jobs = [job for *_, job in jobs_of(launches_of(program, {"B": 64}, 90), {"B": 64}, 90)]
    content = packed(jobs, tmp_path / "made")
    assert pack(tmp_path / "made") == content
    shutil.copytree(tmp_path / "made", tmp_path / "copy")
    assert pack(tmp_path / "copy") == content, "equal kernels give equal archives"
    shutil.rmtree(tmp_path / "made")
    folder = unpack(content, tmp_path / "unpacked")
    assert unpack(content, tmp_path / "unpacked") == folder
    before = set(folder.rglob("*.cubin"))
    assert before
    stamps = {p: p.stat().st_mtime_ns for p in before}
    assert not compile_jobs(jobs, cache=folder)[0].error
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.cubin")} == stamps


LAUNCH = """
import sys
from pathlib import Path

import torch
import triton
from triton.runtime.driver import driver

from mcomp.backend import backend_named
from mcomp.backends.triton.aot_worker import AbsentDriver
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.device import Interpreter
from mcomp.backends.triton.executor import TritonExecutable
from mcomp.backends.triton.program import Chip
from tests.triton.harness import graph_of

class Compiling(Interpreter):
    def __init__(self):
        super().__init__()
        self.chip = Chip(90, 227 << 10, 132)

    def launch(self, function, grid, args, config):
        function.warmup(*args, **dict(config.metas), num_warps=config.warps, num_stages=config.stages,
                        enable_fp_fusion=False, grid=grid)

backend_named("cuda")
driver.set_active(AbsentDriver(90))
hits = []
triton.knobs.compilation.listener = lambda **told: hits.append(told["cache_hit"])
executable = TritonExecutable(lower_graph(graph_of(sys.argv[1]), None), Compiling(), shipped=Path(sys.argv[2]))
executable.run([torch.ones(64, 32)], {"B": 64})
print(hits)
"""


@needs_triton
def test_another_process_launches_what_was_shipped(tmp_path: Path) -> None:
    executable = backend_named("cuda").compile(graph_of(TEXT), CompileOptions(isa="sm_90", hints={"B": 64}))
    folder = unpack(executable.binaries()["sm_90"], tmp_path / "unpacked")
    (tmp_path / "empty").mkdir()
    for place, hits in ((folder, "[True, True]"), (tmp_path / "empty", "[False, False]")):
        done = _run("-c", LAUNCH, TEXT, str(place))
        assert done.stdout.strip() == hits, done.stderr


def test_lists_of_files_name_what_lies_beside_them(tmp_path: Path) -> None:
    import json

    made = tmp_path / "made" / "KEY"
    made.mkdir(parents=True)
    (made / "k.cubin").write_bytes(b"code")
    paths = {"k.cubin": "/elsewhere/k.cubin", "k.ptx": "/gone/k.ptx"}
    (made / "__grp__k.json").write_text(json.dumps({"child_paths": paths}))
    folder = unpack(pack(tmp_path / "made"), tmp_path / "unpacked")
    found = json.loads((folder / "KEY" / "__grp__k.json").read_text())
    assert found == {"child_paths": {"k.cubin": str(folder / "KEY" / "k.cubin")}}
    (made / "__grp__k.json").write_text("[]")
    with pytest.raises(ArtifactError, match="no list of files"):
        pack(tmp_path / "made")


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    import io
    import zipfile

    for name in ("../outside", "/absolute", "a/../../b"):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(ArtifactError):
            unpack(held.getvalue(), tmp_path / "place")
    with pytest.raises(ArtifactError):
        unpack(b"no archive", tmp_path / "place")
    assert not (tmp_path / "outside").exists()


@needs_triton
def test_binaries_are_for_the_chip_that_was_asked_for() -> None:
    graph = graph_of(TEXT)
    assert compiled(graph).binaries() == {}
    executable = backend_named("cuda").compile(graph, CompileOptions(isa="sm_80", hints={"B": 32}))
    assert list(executable.binaries()) == ["sm_80"]
    with pytest.raises(BackendError, match="no architecture"):
        backend_named("cuda").compile(graph, CompileOptions(isa="avx2"))


def test_fp8_needs_a_chip_that_has_it() -> None:
    from mcomp.backends.triton.backend import check_types
    from mcomp.backends.triton.manifest import entries
    from mcomp.backends.triton.program import chip_of

    program = lower_graph(next(e for e in entries() if e.dtype == "f8e4m3").graph(), None)
    check_types(program, chip_of(90))
    with pytest.raises(BackendError, match="sm_89"):
        check_types(program, chip_of(80))

"""The manifest covers every lowering, and a representative part of it compiles well for chips that are not here.

The whole: `python -m benchmarks.gpu --aot`, or `pytest tests/triton --whole-manifest`.
"""

from __future__ import annotations

import os

import pytest

from benchmarks.gpu.ahead import faults_of, jobs, uncovered
from mcomp.backend import backend_named, lowering
from mcomp.backends.triton.aot import compile_jobs
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.builder import FUSION
from mcomp.backends.triton.lower.linear import WEIGHT_KINDS
from mcomp.backends.triton.manifest import AMPERE, HOPPER, entries
from mcomp.backends.triton.program import chip_of
from mcomp.manager import Context, PassManager
from tests.ops.cases import ALL_CASES
from tests.ops.suite import graph_of
from tests.triton.harness import needs_triton

WORKERS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def test_every_lowering_is_covered() -> None:
    assert uncovered() == []


def test_every_kind_of_kernel_is_there() -> None:
    """What lowerings launch in any way: for cases of every operator, for everything in the manifest, and for every way that
    a weight is stored."""
    graphs = [*map(graph_of, ALL_CASES), *(e.graph() for e in entries())]
    found = {kind for pair in WEIGHT_KINDS.values() for each in pair for kind in (each, f"{each}_split")}
    for graph in graphs:
        PassManager(FUSION).run(graph, Context(target="cuda"))
        found |= {launch.kind for launch in lower_graph(graph, None).launches()}
    assert sorted(found - {e.kernel for e in entries()}) == []


def test_names_are_unique_and_both_architectures_are_there() -> None:
    listed = entries()
    assert len({e.id for e in listed}) == len(listed)
    assert {arch for e in listed for arch in e.archs} == {AMPERE, HOPPER}
    dotted = {e.kernel for e in listed if e.dot and e.often}
    assert {"linear", "linear_i4", "linear_i8", "linear_i8_weight", "pair", "matmul", "blocksparse", "conv", "conv_i8",
            "attention"} <= dotted


def test_nothing_in_the_manifest_is_left_to_torch() -> None:
    for entry in entries():
        graph, context = entry.graph(), Context(target="cuda")
        PassManager(FUSION).run(graph, context)
        lower_graph(graph, context)
        assert [str(r) for r in context.remarks if r.kind == "missed"] == [], entry.id


@needs_triton
def test_a_part_compiles_without_spills_and_with_tensor_cores(request: pytest.FixtureRequest) -> None:
    whole = request.config.getoption("--whole-manifest")
    listed = jobs([e for e in entries() if e.often or whole], 1)
    found = compile_jobs([job for *_, job in listed], workers=WORKERS)
    wrong = {
        f"{entry.id} sm_{job.arch} [{config}]": faults
        for (entry, launch, config, job), compiled in zip(listed, found, strict=True)
        if (faults := faults_of(entry, launch, config, compiled, job.arch))
    }
    assert wrong == {}
    tensor = {(job.arch, name) for (*_, job), compiled in zip(listed, found) for name in compiled.tensor}
    assert {(AMPERE, "mma"), (HOPPER, "wgmma")} <= tensor
    assert (AMPERE, "wgmma") not in tensor


@needs_triton
def test_what_is_wrong_is_seen() -> None:
    """A tile far too large spills or does not fit; a kernel without tensor cores is told from one with them."""
    from mcomp.backends.triton.aot import job_of, jobs_of, launches_of
    from mcomp.backends.triton.program import config

    entry = next(e for e in entries() if e.id == "linear-f16")
    graph = entry.graph()
    PassManager(FUSION).run(graph)
    launch = launches_of(lower_graph(graph, None), entry.symbols, AMPERE)[0]
    numbers = jobs_of([launch], entry.symbols, AMPERE)[0][2].numbers
    huge = job_of(launch, config(1, 2, BLOCK_M=64, BLOCK_N=128, BLOCK_K=32, GROUP_M=8), numbers, AMPERE)
    vector = next(e for e in entries() if e.id == "vector-f16")
    plain = jobs([vector], 1)[0][3]
    found = compile_jobs([huge, plain])
    assert any("spills" in f or "shared memory" in f for f in found[0].faults(chip_of(AMPERE), dot=True))
    assert found[1].faults(chip_of(plain.arch), dot=False) == []
    assert found[1].faults(chip_of(plain.arch), dot=True) == ["no tensor-core instruction"]


def test_lowerings_need_no_triton() -> None:
    """Lowering and looking at source is for machines without triton and without a GPU."""
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from mcomp.backend import backend_named\n"
        "from mcomp.backends.triton.manifest import entries\n"
        "from mcomp.backends.triton.backend import lower_graph\n"
        "backend_named('cuda')\n"
        "programs = [lower_graph(e.graph(), None) for e in entries() if e.often]\n"
        "print(sum(len(p.launches()) for p in programs))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
    assert lowering is not None and backend_named("cuda").name == "cuda"

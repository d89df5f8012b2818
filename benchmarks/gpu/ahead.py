"""Compiling the manifest ahead of time, and what is wrong with what comes out."""

from __future__ import annotations

from mcomp.backend import backend_named, lowered_ops
from mcomp.backends.triton.aot import Compiled, Job, compile_jobs, fills_groups, jobs_of, launches_of
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.builder import FUSION
from mcomp.backends.triton.manifest import Entry, entries
from mcomp.backends.triton.program import Config, Launch, chip_of
from mcomp.manager import Context, PassManager

Listed = list[tuple[Entry, Launch, Config, Job]]


def jobs(listed: list[Entry], configurations: int) -> Listed:
    """What compiling the entries takes; equal kernels appear once."""
    backend_named("cuda")
    found: Listed = []
    seen: set[Job] = set()
    for entry in listed:
        graph = entry.graph()
        PassManager(FUSION).run(graph, Context(target="cuda"))
        program = lower_graph(graph, None)
        for arch in entry.archs:
            launches = launches_of(program, entry.symbols, arch)
            if entry.kernel not in {launch.kind for launch in launches}:
                raise AssertionError(f"{entry.id} is lowered to {sorted({launch.kind for launch in launches})}")
            for launch, config, job in jobs_of(launches, entry.symbols, arch, most=configurations):
                if job not in seen:
                    seen.add(job)
                    found.append((entry, launch, config, job))
    return found


def uncovered() -> list[str]:
    """Operators with a lowering that no entry of the manifest has."""
    backend_named("cuda")
    covered: set[str] = set()
    for entry in entries():
        graph = entry.graph()
        covered |= {node.op.name for node in graph.walk()}
        PassManager(FUSION).run(graph)
        covered |= {node.op.name for node in graph.walk()}
    return sorted(lowered_ops("cuda") - covered)


def compile_manifest(only: str, configurations: int, workers: int) -> int:
    """Compile, print a line for each kernel; 1 where something is wrong."""
    listed = jobs([e for e in entries() if only in e.id], configurations)
    found = dict(zip((job for *_, job in listed), compile_jobs([job for *_, job in listed], workers=workers)))
    wrong = 0
    for entry, launch, config, job in listed:
        compiled = found[job]
        faults = faults_of(entry, launch, config, compiled, job.arch)
        wrong += bool(faults)
        state = "; ".join(faults) or "fine"
        print(f"{entry.id} sm_{job.arch} {launch.name} [{config}]: {compiled.registers} registers, {compiled.shared} "
              f"bytes shared, "
              f"{'+'.join(compiled.tensor) or 'no tensor cores'}, {compiled.seconds:.1f} s, {compiled.assembling:.1f} in "
              f"the assembler: {state}")
    missing = uncovered() if not only else []
    if missing:
        print(f"the manifest lacks {', '.join(missing)}")
    print(f"{len(listed)} kernels compiled, {wrong} with faults")
    return 1 if wrong or missing else 0


def faults_of(entry: Entry, launch: Launch, config: Config, compiled: Compiled, arch: int) -> list[str]:
    """What is wrong with a compiled kernel of an entry. Tensor cores must be used: on sm_90 by wgmma, where a tile is large
    enough for it, else by mma."""
    dot = entry.dot and launch.kind == entry.kernel
    return compiled.faults(chip_of(arch), dot=dot, groups=fills_groups(config))

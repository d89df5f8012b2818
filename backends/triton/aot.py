"""Compiling kernels ahead of time, for chips that need not be there.

Compiling happens in processes of its own, where Triton compiles and does not interpret. A kernel is specialized as a launch
with the same arguments would specialize it, so that what comes out is found again in Triton's cache by such a launch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from mcomp.backends.triton.modules import source_of
from mcomp.backends.triton.plan import size_of
from mcomp.backends.triton.program import Chip, Choice, Config, Launch, Program, chip_of
from mcomp.errors import BackendError, install

WGMMA_ARCH = 90
"""Chips of this compute capability multiply by groups of four warps."""
LONGEST = 20.0
"""Seconds that the assembler may take for a configuration, on a slow machine that does other things too."""


@dataclass(frozen=True)
class Job:
    """One kernel to compile: its name and source, the chip (`arch`: compute capability times ten), element types of its
    pointers, values of its sizes, constexpr parameters, warps and stages."""

    name: str
    source: str
    arch: int
    pointers: tuple[str, ...]
    numbers: tuple[int, ...]
    metas: tuple[tuple[str, int], ...]
    warps: int
    stages: int


@dataclass(frozen=True)
class Compiled:
    """What came out: `registers` of a thread, bytes of `stack` and `local` memory (spills), bytes of `shared` memory, the
    tensor-core instructions in it (`wgmma`, `mma` or none), seconds in all and in the assembler, and the error where it did
    not compile."""

    name: str
    arch: int
    registers: int = 0
    stack: int = 0
    local: int = 0
    shared: int = 0
    tensor: tuple[str, ...] = ()
    seconds: float = 0.0
    assembling: float = 0.0
    error: str = ""

    def faults(self, chip: Chip, *, dot: bool, groups: bool = False) -> list[str]:
        """What is wrong with it; nothing where it is as it should be. `dot`: whether tensor cores must be used. `groups`:
        whether by groups of warps where the chip can."""
        if self.error:
            return [self.error]
        found = []
        if self.stack or self.local:
            found.append(f"spills: {self.stack} bytes of stack, {self.local} of local memory")
        if self.shared > chip.shared:
            found.append(f"{self.shared} bytes of shared memory; the chip has {chip.shared}")
        if dot and not self.tensor:
            found.append("no tensor-core instruction")
        elif dot and groups and chip.arch == WGMMA_ARCH and "wgmma" not in self.tensor:
            found.append("mma instead of wgmma")
        if self.assembling > LONGEST:
            found.append(f"{self.assembling:.0f} s in the assembler, more than {LONGEST:.0f}")
        return found


def fills_groups(config: Config) -> bool:
    """Whether tiles of a product are large enough for wgmma: 64 rows, a multiple of 8 columns and four warps; PTX ISA,
    asynchronous warpgroup-level matrix instructions."""
    sizes = dict(config.metas)
    return not (sizes.get("BLOCK_M", 1) % 64 or sizes.get("BLOCK_N", 1) % 8 or config.warps % 4)


def jobs_of(launches: Iterable[Launch], symbols: Mapping[str, int], arch: int, *,
            most: int = 1) -> list[tuple[Launch, Config, Job]]:
    """Jobs for launches at given sizes: the `most` best configurations of each."""
    chip = chip_of(arch)
    found = []
    for launch in launches:
        numbers = {name: size_of(d, symbols) for name, d in launch.numbers}
        sizes = {**numbers, **{name: size_of(d, symbols) for name, d in launch.sizes}}
        found += [
            (launch, config, job_of(launch, config, tuple(numbers.values()), arch))
            for config in launch.configs(sizes, chip)[:most]
        ]
    return found


def job_of(launch: Launch, config: Config, numbers: tuple[int, ...], arch: int) -> Job:
    """The job of one launch in one configuration."""
    pointers = tuple(kind for _, _, kind in launch.pointers) + (("i32",) if launch.fault else ())
    return Job(launch.name, source_of([launch]), arch, pointers, numbers, config.metas, config.warps, config.stages)


def launches_of(program: Program, symbols: Mapping[str, int], arch: int) -> list[Launch]:
    """The launches of a program for given sizes, with every choice made as the cost model makes it."""
    found: list[Launch] = []
    for step in program.steps:
        if isinstance(step, Launch):
            found.append(step)
        elif isinstance(step, Choice):
            sizes = {name: size_of(d, symbols) for name, d in step.sizes}
            found += [s for s in step.ways[step.default(sizes, chip_of(arch))][1] if isinstance(s, Launch)]
    return found


def compile_jobs(jobs: Sequence[Job], *, cache: Path | None = None, workers: int = 1) -> list[Compiled]:
    """Compile jobs in so many processes. `cache`: the folder of Triton's cache to compile into (default: the user's).

    Raises BackendError when triton is not installed or a process dies.
    """
    from importlib.util import find_spec

    if find_spec("triton") is None:
        raise BackendError("triton is not installed", code="MC0602", help=install("cuda"))
    pieces = [jobs[i::workers] for i in range(max(1, workers))]
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        results = list(pool.map(lambda piece: _in_process(piece, cache), pieces))
    found: list[Compiled | None] = [None] * len(jobs)
    for i, piece in enumerate(results):
        for j, compiled in enumerate(piece):
            found[i + j * len(pieces)] = compiled
    return [c for c in found if c is not None]


def _in_process(jobs: Sequence[Job], cache: Path | None) -> list[Compiled]:
    if not jobs:
        return []
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*(p for p in sys.path if p), environment.get("PYTHONPATH", "")])
    if cache is not None:
        environment["TRITON_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-m", "mcomp.backends.triton.aot_worker"], input=json.dumps([asdict(j) for j in jobs]),
        capture_output=True, text=True, env=environment, check=False,
    )
    if done.returncode != 0:
        raise BackendError(f"compiling Triton kernels failed: {done.stderr.strip()[-2000:]}", code="MC0604")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [Compiled(**{**line, "tensor": tuple(line["tensor"])}) for line in lines]

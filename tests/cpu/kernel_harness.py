"""Compiles the C++ drivers of the kernel tests, once per instruction set and test session.

    lib = kernel_harness.load("gemm_driver", isa)      # tests/cpu/drivers/gemm_driver.cpp -> ctypes.CDLL
    lib.run_gemm(ptr(a), ptr(b), ctypes.c_int64(m))

Parametrize tests over `ISAS` with the decorator `each_isa`: a set that this CPU lacks is reported as skipped. The first
`load` of a driver starts the compilation of all its variants, two at a time.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcomp.backends.cpu import precompiled
from mcomp.backends.cpu.compiler import GCC_MEMORY, GCC_STORES, find_compiler
from mcomp.backends.cpu.isa import ISAS as ISAS_BY_NAME
from mcomp.backends.cpu.isa import cpu_features

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "backends" / "cpu" / "kernels"
DRIVERS = Path(__file__).resolve().parent / "drivers"

BUILDS = "MCOMP_TEST_BUILDS"
"""The variable that names the folder of what tests compiled; see conftest.py."""
ISAS = ("avx512", "avx2", "portable")
BYTE_TILES = {"amx": "MatrixTile<2>", "amx_narrow": "MatrixTile<1>"}
"""Sets beyond AVX-512 on which only products of bytes and of bfloat16 differ: their tile in the drivers that have some."""
PLAIN = "avx512_plain"
"""AVX-512 without VNNI and BF16, on CPUs that have VNNI: products of bytes differ."""
COMMON_FLAGS = (
    "-std=gnu++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-semantic-interposition",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
)
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
AVX512_FLAGS = (
    *AVX2_FLAGS,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx512cd",
    "-mprefer-vector-width=512",
)
CPU_FLAGS_NEEDED = {
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "fma", "f16c"},
    "avx2": {"avx2", "fma", "f16c"},
    "portable": set[str](),
    **dict.fromkeys(BYTE_TILES, ISAS_BY_NAME["avx512_amx"].features),
}
CPU_FLAGS_NEEDED[PLAIN] = CPU_FLAGS_NEEDED["avx512"] | {"avx512_vnni"}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Feature names of this CPU as Linux prints them; empty where there is no /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not info.exists():
        return frozenset()
    line = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def isa_flags(isa: str) -> list[str]:
    """Compiler flags of an instruction set, with VNNI and BF16 when this CPU has them."""
    if isa == "portable":
        return ["-DMCOMP_ISA_PORTABLE"]
    if isa == "avx2":
        return ["-DMCOMP_ISA_AVX2", *AVX2_FLAGS]
    if isa in BYTE_TILES:
        tile = [f"-DMCOMP_TEST_{kind}={BYTE_TILES[isa]}" for kind in ("BYTES", "PAIRS")]
        return [*isa_flags("avx512"), "-mbmi2", "-mamx-tile", "-mamx-int8", "-mamx-bf16", "-DMCOMP_AMX", *tile]
    flags = ["-DMCOMP_ISA_AVX512", *AVX512_FLAGS]
    if isa == PLAIN:
        return flags
    if "avx512_vnni" in cpu_flags():
        flags += ["-mavx512vnni", "-DMCOMP_VNNI"]
    if "avx512_bf16" in cpu_flags():
        flags += ["-mavx512bf16", "-DMCOMP_BF16"]
    return flags


def own_flags(isa: str) -> tuple[str, ...]:
    """Flags that generated code is compiled with and that only this compiler knows."""
    found = find_compiler()
    return () if found is None else tuple(f for f in found.flags if f not in GCC_STORES or isa not in ("avx2", "portable"))


def supported(isa: str) -> bool:
    return CPU_FLAGS_NEEDED[isa] <= (cpu_features() if isa in BYTE_TILES else cpu_flags())


def compiler() -> str:
    """Path of the C++ compiler; skips the test when the machine has none."""
    path = shutil.which("g++") or shutil.which("clang++")
    if path is None:
        pytest.skip("no C++ compiler (g++ or clang++) on this machine")
    return path


def each_isa(test: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: runs the test with isa="avx512", "avx2" and "portable", skipping what the CPU lacks."""
    return _on(ISAS)(test)


def each_byte_isa(test: Callable[..., Any]) -> Callable[..., Any]:
    """As each_isa, with PLAIN and the sets of BYTE_TILES too."""
    return _on((*ISAS, PLAIN, *BYTE_TILES))(test)


def _on(isas: Sequence[str]) -> pytest.MarkDecorator:
    marks = [
        pytest.param(isa, marks=pytest.mark.skipif(not supported(isa), reason=f"this CPU lacks {isa}")) for isa in isas
    ]
    return pytest.mark.parametrize("isa", marks)


class _Builder:
    """Builds shared objects into one folder. Processes that run tests of one session share it (see conftest.py): what one
    has compiled, the others take."""

    def __init__(self) -> None:
        shared = os.environ.get(BUILDS)
        self._own = None if shared else tempfile.TemporaryDirectory(prefix="mcomp-kernels-")
        self._folder = Path(shared or self._own.name)  # type: ignore[union-attr]
        self._pool = ThreadPoolExecutor(max_workers=2)
        self._jobs: dict[tuple[str, str, tuple[str, ...]], Future[Path]] = {}

    def _compile(self, cxx: str, driver: str, isa: str, extra: tuple[str, ...]) -> Path:
        flags = (*isa_flags(isa), *own_flags(isa), *extra)
        digest = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:12]
        out = self._folder / f"{driver}-{isa}-{digest}.so"
        with open(out.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not out.exists():
                self._make(cxx, driver, isa, flags, out)
        return out

    def _make(self, cxx: str, driver: str, isa: str, flags: Sequence[str], out: Path) -> None:
        """The shared object; with g++ also its assembly (.s) and a report of what was vectorized (.txt)."""
        source, made = DRIVERS / f"{driver}.cpp", out.with_suffix(".new")
        first = precompiled.headers(self._folder, [cxx], "", [f for f in (*COMMON_FLAGS, *flags) if f != "-shared"]) \
            if "g++" in cxx and isa != "portable" else ()
        report = f"-fopt-info-vec-optimized={out.with_suffix('.txt')}"
        told = [*GCC_MEMORY, "-save-temps=obj", report] if "g++" in cxx else []
        command = [cxx, *COMMON_FLAGS, *flags, *first, *told, f"-I{KERNELS}", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        if done.returncode != 0:
            raise RuntimeError(f"compiling {source.name} for {isa} failed:\n{' '.join(command)}\n{done.stderr[-6000:]}")
        for assembly in self._folder.glob(f"{made.name}-*.s"):
            assembly.rename(out.with_suffix(".s"))
        for large in self._folder.glob(f"{made.name}-*.[io]*"):
            large.unlink()
        made.rename(out)

    def submit(self, driver: str, isa: str, extra: tuple[str, ...]) -> Future[Path]:
        key = (driver, isa, extra)
        if key not in self._jobs:
            self._jobs[key] = self._pool.submit(self._compile, compiler(), driver, isa, extra)
        return self._jobs[key]


@functools.cache
def _builder() -> _Builder:
    return _Builder()


@functools.cache
def load(driver: str, isa: str, *extra: str) -> ctypes.CDLL:
    """The driver `tests/cpu/drivers/<driver>.cpp` compiled for `isa` (plus extra flags), loaded.

    Functions return None unless the caller sets `restype`. Raises RuntimeError with the compiler's output.
    """
    builder = _builder()
    wanted = builder.submit(driver, isa, extra)
    for other in ISAS:
        if supported(other):
            builder.submit(driver, other, extra)
    return ctypes.CDLL(str(wanted.result()))


def vectorized(driver: str, isa: str) -> set[tuple[str, int]]:
    """File and line of every loop of a driver that g++ vectorizes somewhere; skips the test where there is another
    compiler."""
    _need_gcc()
    return _loops(_builder().submit(driver, isa, ()).result().with_suffix(".txt").read_text())


def vectorized_source(source: Path, isa: str) -> set[tuple[str, int]]:
    """The same of a source that is no driver."""
    _need_gcc()
    command = [compiler(), *COMMON_FLAGS, *isa_flags(isa), *own_flags(isa), "-w", "-fopt-info-vec-optimized", f"-I{KERNELS}"]
    done = subprocess.run([*command, str(source), "-o", os.devnull], capture_output=True, text=True, check=True,
                          env={**os.environ, "LC_ALL": "C"})
    return _loops(done.stderr)


def _loops(report: str) -> set[tuple[str, int]]:
    found = re.findall(r"([^/\s]+):(\d+):\d+: optimized: loop vectorized", report)
    return {(name, int(line)) for name, line in found}


def _need_gcc() -> None:
    if "g++" not in compiler():
        pytest.skip("only g++ reports what it vectorized in this form")


def assembly(driver: str, isa: str) -> str:
    """What a driver is compiled to."""
    _need_gcc()
    return _builder().submit(driver, isa, ()).result().with_suffix(".s").read_text()


def ptr(array: np.ndarray | None) -> ctypes.c_void_p:
    """Address of an array's first element for a C call, keeping the array alive; null for None."""
    return ctypes.c_void_p() if array is None else array.ctypes.data_as(ctypes.c_void_p)


def i64(*values: int) -> list[ctypes.c_int64]:
    """Integers as 64-bit C arguments: lib.f(*i64(m, n, k))."""
    return [ctypes.c_int64(int(value)) for value in values]


def aligned(nbytes: int, alignment: int = 64) -> np.ndarray:
    """Zeroed uint8 array of nbytes whose first byte has the given alignment."""
    raw = np.zeros(nbytes + alignment, dtype=np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes]


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 bits (uint16), nearest even; NaN becomes 0x7fc0."""
    u = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits (uint16) to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)

"""The C++ compiler: finding one, and turning a source into a shared object."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcomp.backends.cpu import precompiled
from mcomp.backends.cpu.cache import CodeCache
from mcomp.backends.cpu.isa import Isa
from mcomp.errors import BackendError, install

KERNELS = Path(__file__).resolve().parent / "kernels"
"""The folder of the kernel headers."""

FLAGS = (
    "-std=gnu++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
    "-fno-semantic-interposition", "-w",
)
GCC_STORES = ("-mmove-max=128", "-mstore-max=128")
"""For g++ with AVX-512; see `_own_flags`."""
GCC_LOOPS = ("--param=max-completely-peel-times=7",)
"""For g++; see `_own_flags`."""
GCC_MEMORY = ("--param=ggc-min-heapsize=400000", "--param=ggc-min-expand=200")
"""For g++: that it looks for memory to free from 400 MB on only, which saves it a tenth of its time."""
_TAIL = 4000
_WORTH_PRECOMPILING = 2
"""Entries of a cache from which on headers are precompiled, which takes as long as what it saves in two compilations."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: the command that starts it, what it says of itself, and flags for it alone."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{' '.join(self.command)}: {self.version}"


@functools.cache
def find_compiler() -> Compiler | None:
    """The first compiler that works among g++, clang++, c++ and the PyPI package `ziglang`; None when there is none."""
    candidates: list[tuple[str, ...]] = [
        (path,) for name in ("g++", "clang++", "c++") if (path := shutil.which(name)) is not None
    ]
    if importlib.util.find_spec("ziglang") is not None:
        candidates.append((sys.executable, "-m", "ziglang", "c++"))
    for command in candidates:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout:
            return Compiler(command, done.stdout.splitlines()[0], _own_flags(command))
    return None


def _own_flags(command: tuple[str, ...]) -> tuple[str, ...]:
    """Flags that this compiler needs, those of them that it knows. g++ 12 stores constant arrays wrongly with AVX-512
    (`{2, 2, 2, 2, 2, 2, 0, 0}` as eight twos) unless such stores are kept to 128 bits. g++ unrolls loops of up to 16 steps
    whole and then vectorizes the loop around them, with strided stores: rows of 8 and 16 results must stay loops."""
    def knows(flags: tuple[str, ...]) -> bool:
        tried = [*command, *flags, "-x", "c++", "-fsyntax-only", os.devnull]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0

    return tuple(f for flags in (GCC_LOOPS, GCC_STORES) if knows(flags) for f in flags)


def gcc_flags(isa: Isa) -> tuple[tuple[str, ...], ...]:
    """Flags that g++ gets for an instruction set besides the common ones, in groups that a compiler knows or does not."""
    return (GCC_LOOPS, GCC_STORES) if "-mavx512f" in isa.flags else (GCC_LOOPS,)


def missing_compiler() -> str | None:
    """What to install when there is no compiler; None when there is one."""
    if find_compiler() is not None:
        return None
    return (
        "there is no C++ compiler; install one (Debian, Ubuntu: `apt install g++`; Fedora: `dnf install gcc-c++`; "
        f"macOS: `xcode-select --install`), or run {install('compiler')}"
    )


@functools.cache
def headers_digest() -> str:
    """A hash over all kernel headers, so that code compiled against other ones is not used."""
    h = hashlib.sha256()
    for path in sorted(KERNELS.rglob("*.hpp")):
        h.update(path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


def build_key(source: str, isa: Isa, compiler: Compiler) -> str:
    """The name that compiled code is cached under: everything it depends on, hashed."""
    h = hashlib.sha256()
    for part in (source, headers_digest(), " ".join(_flags(isa, compiler)), " ".join(compiler.command), compiler.version):
        h.update(part.encode() + b"\0")
    return h.hexdigest()[:40]


def build(source: str, isa: Isa, cache: CodeCache | None) -> Path:
    """Compile a source (or find it compiled) and return the path of the shared object: in a temporary folder, with a
    warning, where the cache cannot be written.

    Raises BackendError when there is no compiler, or with what the compiler said.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BackendError("code cannot be compiled", code="MC0603", help=missing_compiler())
    if cache is None:
        return _compile(source, isa, compiler, Path(tempfile.mkdtemp(prefix="mcomp-")) / "code.so", _flags(isa, compiler))
    key = build_key(source, isa, compiler)
    found = cache.find(key)
    if found is not None:
        return found
    try:
        return _build_into(cache.writable, key, source, isa, compiler)
    except OSError as e:
        return _build_into(cache.leave(e), key, source, isa, compiler)


def _build_into(cache: CodeCache, key: str, source: str, isa: Isa, compiler: Compiler) -> Path:
    flags = [*_flags(isa, compiler), *(GCC_MEMORY if _is_gcc(compiler) else ())]
    first: tuple[str, ...] = ()
    if _is_gcc(compiler) and isa.features and len(cache.entries()) >= _WORTH_PRECOMPILING:
        alone = [f for f in flags if f != "-shared"]
        first = precompiled.headers(cache.folder, compiler.command, compiler.version, alone)
    with cache.staging() as folder:
        out = folder / "code.so"
        try:
            _compile(source, isa, compiler, out, [*flags, *first])
        except BackendError:
            if not first:
                raise
            _compile(source, isa, compiler, out, flags)  # precompiled headers may be damaged
        return cache.keep(key, out, source)


def _is_gcc(compiler: Compiler) -> bool:
    return "clang" not in compiler.version and "ziglang" not in compiler.command


def _flags(isa: Isa, compiler: Compiler) -> list[str]:
    wanted = [f for flags in gcc_flags(isa) for f in flags]
    own = [f for f in compiler.flags if f in wanted]
    flags = [*FLAGS, *isa.flags, *own]
    if not _is_gcc(compiler):
        flags.remove("-fno-semantic-interposition")
        if "ziglang" in compiler.command:
            flags += ["-fno-sanitize=all", f"-mcpu={'x86_64' if platform.machine() in ('x86_64', 'AMD64') else 'baseline'}"]
    return flags


def exported_flags(isa: Isa) -> str:
    """Flags to compile exported code with, as text; `kernels` is the folder of its headers."""
    return " ".join([*(f for f in FLAGS if f not in ("-shared", "-w")), *isa.flags, "-Ikernels"])


def _compile(source: str, isa: Isa, compiler: Compiler, out: Path, flags: Sequence[str]) -> Path:
    text = out.with_suffix(".cpp")
    text.write_text(source)
    command = [*compiler.command, *flags, f"-I{KERNELS}", str(text), "-o", str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError as e:
        raise BackendError(f"the compiler {compiler.command[0]} does not start: {e}", code="MC0603") from e
    if done.returncode != 0:
        raise BackendError(
            f"generated code did not compile ({compiler.version})", code="MC0603", ir=_excerpt(done.stderr),
            help="this is a fault of mcomp: report it with the model's IR",
        )
    return out


def _excerpt(output: str) -> str:
    errors: Sequence[str] = [line for line in output.splitlines() if "error" in line]
    text = "\n".join(errors) or output
    return text[:_TAIL]

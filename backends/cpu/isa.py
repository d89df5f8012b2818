"""Instruction sets: which ones generated code can be compiled for, and which this machine runs."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Collection
from dataclasses import dataclass

from mcomp.errors import BackendError


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set. `features`: what the CPU must have, in the words of /proc/cpuinfo. `flags`: for the compiler."""

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]

    @property
    def matrices(self) -> bool:
        """Whether it has matrix registers (AMX)."""
        return "amx_tile" in self.features


_AVX2_FEATURES = frozenset({"avx2", "fma", "f16c"})
_AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
_AVX512_FEATURES = _AVX2_FEATURES | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
_AVX512_FLAGS = (
    *_AVX2_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd", "-mprefer-vector-width=512",
)

_MATRIX_FEATURES = frozenset({"amx_tile", "amx_int8", "amx_bf16"})
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Linux on x86-64: the system call, what is asked of it, and for which part of a thread's state."""

_BF16_FEATURES = _AVX512_FEATURES | {"avx512_vnni", "avx512_bf16"}
_BF16_FLAGS = ("-DMCOMP_ISA_AVX512", *_AVX512_FLAGS, "-mavx512vnni", "-DMCOMP_VNNI", "-mavx512bf16", "-DMCOMP_BF16")

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("avx512_amx", _BF16_FEATURES | {"bmi2"} | _MATRIX_FEATURES,
            (*_BF16_FLAGS, "-mbmi2", "-mamx-tile", "-mamx-int8", "-mamx-bf16", "-DMCOMP_AMX")),
        Isa("avx512_vnni_bf16", _BF16_FEATURES, _BF16_FLAGS),
        Isa("avx512_vnni", _AVX512_FEATURES | {"avx512_vnni"},
            ("-DMCOMP_ISA_AVX512", *_AVX512_FLAGS, "-mavx512vnni", "-DMCOMP_VNNI")),
        Isa("avx512", _AVX512_FEATURES, ("-DMCOMP_ISA_AVX512", *_AVX512_FLAGS)),
        Isa("avx2", _AVX2_FEATURES, ("-DMCOMP_ISA_AVX2", *_AVX2_FLAGS)),
        Isa("portable", frozenset(), ("-DMCOMP_ISA_PORTABLE",)),
    )
}
"""All instruction sets, best first."""


@functools.cache
def cpu_features() -> frozenset[str]:
    """Features of this CPU; empty where the system does not list them (other architectures, other systems)."""
    try:
        with open("/proc/cpuinfo") as info:
            for line in info:
                if line.startswith("flags"):
                    found = frozenset(line.partition(":")[2].split())
                    return found if _matrices_allowed(found) else found - _MATRIX_FEATURES
    except FileNotFoundError:
        return frozenset()
    return frozenset()


def _matrices_allowed(features: frozenset[str]) -> bool:
    """Whether this process may use the matrix registers that the CPU has; Linux wants to be asked first, and refuses where
    a thread's signal stack is too small for them."""
    if not features >= _MATRIX_FEATURES:
        return False
    try:
        return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


def supported() -> tuple[Isa, ...]:
    """The instruction sets that this machine runs, best first; `portable` is always among them."""
    return tuple(isa for isa in ISAS.values() if isa.features <= cpu_features())


def choose(name: str | None) -> Isa:
    """The instruction set of this name, or the best one for None. Raises BackendError when this machine lacks it."""
    if name is None:
        return supported()[0]
    if name not in ISAS:
        raise BackendError(f"there is no instruction set {name}", code="MC0602", help=f"known: {', '.join(ISAS)}")
    missing = ISAS[name].features - cpu_features()
    if missing:
        raise BackendError(
            f"this CPU does not run {name}: it lacks {', '.join(sorted(missing))}", code="MC0602",
            help=f"it runs {', '.join(isa.name for isa in supported())}",
        )
    return ISAS[name]


def usable(names: Collection[str], wanted: str | None) -> Isa | None:
    """The best of these instruction sets that this machine runs, or the wanted one where it is among them; else None.
    Raises BackendError when this machine lacks the wanted one."""
    return next((isa for isa in (supported() if wanted is None else (choose(wanted),)) if isa.name in names), None)

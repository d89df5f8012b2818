"""Instruction sets: which ones generated code can be compiled for, and which this machine runs."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from mcomp.errors import BackendError


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set. `features`: what the CPU must have, in the words of /proc/cpuinfo. `flags`: for the compiler."""

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]


_AVX2_FEATURES = frozenset({"avx2", "fma", "f16c"})
_AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
_AVX512_FEATURES = _AVX2_FEATURES | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
_AVX512_FLAGS = (
    *_AVX2_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512cd", "-mprefer-vector-width=512",
)

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("avx512_vnni_bf16", _AVX512_FEATURES | {"avx512_vnni", "avx512_bf16"},
            ("-DMCOMP_ISA_AVX512", *_AVX512_FLAGS, "-mavx512vnni", "-DMCOMP_VNNI", "-mavx512bf16", "-DMCOMP_BF16")),
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
                    return frozenset(line.partition(":")[2].split())
    except FileNotFoundError:
        return frozenset()
    return frozenset()


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

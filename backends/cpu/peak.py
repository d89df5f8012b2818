"""What this machine can do at most, measured by loops that do nothing else; see kernels/peak.hpp."""

from __future__ import annotations

import ctypes

from mcomp.backends.cpu.cache import CodeCache
from mcomp.backends.cpu.compiler import build
from mcomp.backends.cpu.isa import Isa

_KINDS = (("f32", 0), ("i8", 1), ("bf16", 2))
_EACH_US = 30_000.0
_SOURCE = """#include "peak.hpp"
extern "C" __attribute__((visibility("default"))) double mcomp_peak_products(int64_t kind, int64_t threads, double us) {
  return mcomp::peak_products(static_cast<mcomp::PeakKind>(kind), static_cast<int>(threads), us);
}
extern "C" __attribute__((visibility("default"))) double mcomp_peak_reads(int64_t bytes, int64_t threads, double us) {
  return mcomp::peak_reads(bytes, static_cast<int>(threads), us);
}
"""


def measure_peaks(
    isa: Isa, threads: int, sets: tuple[int, ...], cache: CodeCache | None = None
) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[int, float], ...]]:
    """Operations per second of products by element type, with operands in registers, as far as the instruction set has
    them; and bytes per second that are read of working sets of these sizes in bytes."""
    code = ctypes.CDLL(str(build(_SOURCE, isa, cache)))
    for function in (code.mcomp_peak_products, code.mcomp_peak_reads):
        function.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_double]
        function.restype = ctypes.c_double
    products = ((kind, float(code.mcomp_peak_products(number, threads, _EACH_US))) for kind, number in _KINDS)
    reads = ((size, float(code.mcomp_peak_reads(size, threads, _EACH_US))) for size in sets)
    return tuple((kind, rate) for kind, rate in products if rate > 0), tuple((s, rate) for s, rate in reads if rate > 0)

"""Measuring a GPU with the kernels that models run with: rates of products, bandwidth, the cost of a launch."""

from __future__ import annotations

from collections.abc import Mapping

from mcomp.backends.triton.builder import FUSION
from mcomp.backends.triton.device import FP8_ARCH, Device
from mcomp.backends.triton.executor import TritonExecutable
from mcomp.backends.triton.frame import Frame, Ready
from mcomp.backends.triton.manifest import Entry, Making
from mcomp.ir import dtypes
from mcomp.ir.dims import sym
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import Affine, Scaled
from mcomp.ir.graph import Value
from mcomp.plan.profile import DeviceProfile

WIDTH = 4096
"""Rows and columns of the products that are timed, on a GPU."""
WORKING_SETS = (1 << 20, 8 << 20, 32 << 20, 256 << 20)


def measure(
    device: Device, threads: int, *, width: int = WIDTH, working_sets: tuple[int, ...] = WORKING_SETS
) -> DeviceProfile:
    """Rates of our own products in f32, f16, bf16, bytes and (where the chip multiplies those) floats of 8 bits, of
    element-wise chains, of streaming at several working sets, and the time of a kernel that does nearly nothing."""
    work = 2.0 * width**3
    floats = (dtypes.f32, dtypes.f16, dtypes.bf16)
    rates = [(d.name, work / _seconds(device, _product(d, width), {"B": width})) for d in floats]
    rates.append(("i8", work / _seconds(device, _bytes(width), {"B": width})))
    if device.chip.arch >= FP8_ARCH:
        rates.append(("f8e4m3", work / _seconds(device, _eighths(width), {"B": width})))
    count = max(1 << 12, working_sets[-1] // 8)
    rates.append(("scalar", 8.0 * count / _seconds(device, _chain(8), {"B": count})))
    bandwidth = tuple((size, size / _seconds(device, _chain(1), {"B": size // 8})) for size in working_sets)
    overhead = _seconds(device, _chain(1), {"B": 16}) * 1e6
    return DeviceProfile(device.name, threads, tuple(rates), bandwidth, overhead)


def _product(dtype: DType, width: int) -> Entry:
    def make(m: Making) -> list[Value]:
        return [m.op("linear", m.input((sym("B"), width), dtype), m.const((width, width), dtype))]

    return Entry("linear", dtype.name, "", make)


def _bytes(width: int) -> Entry:
    def make(m: Making) -> list[Value]:
        given = m.op("quantize", m.input((sym("B"), width)), scale=0.02)
        return [m.op("linear", given, m.const((width, width), dtypes.f32, Affine(dtypes.i8, axis=(0,))))]

    return Entry("linear_i8", "i8", "", make)


def _eighths(width: int) -> Entry:
    def make(m: Making) -> list[Value]:
        given = m.op("quantize", m.input((sym("B"), width), dtypes.bf16), dtype=dtypes.f8e4m3, scale=0.02)
        return [m.op("linear", given, m.const((width, width), dtypes.bf16, Scaled(axis=(0,))))]

    return Entry("linear_f8", "f8e4m3", "", make)


def _chain(length: int) -> Entry:
    def make(m: Making) -> list[Value]:
        x = m.input((sym("B"),))
        value = x
        for _ in range(length):
            value = m.op("neg", value) if length == 1 else m.op("mul", m.op("add", value, x), x)
        return [value]

    return Entry("pointwise", "f32", "", make)


def _seconds(device: Device, entry: Entry, symbols: Mapping[str, int]) -> float:
    """Seconds of the last kernel of a graph, which is what the graph is about."""
    from mcomp.backends.triton.backend import lower_graph
    from mcomp.backends.triton.program import Choice, Launch
    from mcomp.manager.run import PassManager

    graph = entry.graph()
    PassManager(FUSION).run(graph)
    owner = TritonExecutable(lower_graph(graph, None), device, record=False)
    steps = owner.steps(symbols)
    last = [s for s in steps if isinstance(s, Launch)][-1:]
    assert last and not isinstance(last[0], Choice)
    frame = Frame(Ready(owner, last, dict(symbols)))
    return max(device.milliseconds(lambda: frame.only_steps(symbols)), 1e-6) * 1e-3

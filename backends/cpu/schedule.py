"""When kernels run: which of them may overlap between two barriers, and how long buffers live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mcomp.backends.cpu.access import Buffer
from mcomp.backends.cpu.kernel import KernelStep, Segment
from mcomp.backends.cpu.plan import NANOSECOND, size_of
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.plan.profile import PRODUCTS

SERIAL_MICROSECONDS = 0.5
"""Kernels estimated below this are run by one worker, in a row, without barriers between them."""

_PRODUCT_UNITS = {"i8": 1}
_FLOAT_PRODUCT_UNITS = 3
_FLOP_UNITS = 12
_BYTE_UNITS = 8
"""What one operation, or one byte moved, counts in a region's work: by element type for products, for all others, for bytes.
They stand for 200, 67 and 17 operations and 25 bytes a nanosecond on one core, which vectorized kernels reach in a cache."""


@dataclass
class Phase:
    """Steps between two barriers. Those in `alone` are run by worker 0 one after the other, those in `shared` by all; the
    two kinds are independent of each other, and so are the shared ones."""

    alone: list[int] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """The phases of a segment, and for every buffer of the arena the first and last phase that touches it."""

    phases: tuple[Phase, ...]
    lives: Mapping[Buffer, tuple[int, int]]


def schedule(segment: Segment, hints: Mapping[str, int], *, share: bool = False) -> Schedule:
    """Order the steps of a segment into phases. `hints` are likely values of symbols, to tell small kernels; with `share`,
    none counts as small."""
    phases = [Phase()]
    users: list[list[KernelStep]] = [[], []]  # steps of the current phase: alone, shared
    lives: dict[Buffer, tuple[int, int]] = {}
    for index, step in enumerate(segment.steps):
        alone = not share and is_small(step, hints)
        against = users[1] if alone else [*users[0], *users[1]]
        if any(_conflict(step, other) for other in against):
            phases.append(Phase())
            users = [[], []]
        (phases[-1].alone if alone else phases[-1].shared).append(index)
        users[0 if alone else 1].append(step)
        now = len(phases) - 1
        for pointer in step.kernel.pointers:
            buffer = pointer.access.buffer
            lives[buffer] = (lives.get(buffer, (now, now))[0], now)
    return Schedule(tuple(p for p in phases if p.alone or p.shared) or (), lives)


def _conflict(step: KernelStep, other: KernelStep) -> bool:
    mine, theirs = set(step.kernel.writes), set(other.kernel.writes)
    overlap = mine & theirs
    if overlap and not (step.piece and other.piece and step.node is other.node):
        return True
    return bool(mine & set(other.kernel.reads) or theirs & set(step.kernel.reads))


def estimate(step: KernelStep, values: Mapping[str, int]) -> float | None:
    """Microseconds of a step on one core, roughly; None when a symbol has no value."""
    work = _value(work_of_step(step), values)
    return None if work is None else work / (1000 * NANOSECOND)


def work_of_step(step: KernelStep) -> Dim:
    """What a step adds to its region's work; see `plan.NANOSECOND`."""
    units = _FLOP_UNITS
    if any(op in PRODUCTS for op in step.ops):
        units = _PRODUCT_UNITS.get(compute_type(step), _FLOAT_PRODUCT_UNITS)
    moved = dims.add(step.work.read, step.work.write)
    return dims.add(dims.mul(step.work.flops, units), dims.mul(moved, _BYTE_UNITS))


def compute_type(step: KernelStep) -> str:
    """The element type of a step's products."""
    if step.kernel.name.endswith("_i8"):
        return "i8"
    source = next((p for p in step.kernel.pointers if p.name in ("a", "x", "q", "p0")), None)
    return "f32" if source is None else source.access.dtype.name


def is_small(step: KernelStep, hints: Mapping[str, int]) -> bool:
    """Whether sharing a step among workers costs more than it brings."""
    time = estimate(step, hints)
    return time is not None and time < SERIAL_MICROSECONDS


def _value(dim: Dim, values: Mapping[str, int]) -> int | None:
    if dims.symbols(dim) - values.keys():
        return None
    return size_of(dim, values)

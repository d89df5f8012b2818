"""Regions of compiled code, what they take for given sizes, and the frames that calls run in. Light to import: loading a
compiled model needs this and no lowering."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mcomp.backends.cpu.access import Buffer, aligned_bytes
from mcomp.backends.cpu.library import Entry
from mcomp.ir import dims
from mcomp.ir.dims import Dim

NANOSECOND = 200
"""Units of `Region.work` that one core does in a nanosecond."""

SINGLE_MICROSECONDS = 8
"""Regions estimated below this run on the calling thread alone: other threads save nothing."""

WAKING_MICROSECONDS = 20
"""Regions estimated below this are not worth waking a sleeping thread, which takes twice as long: others take part only
while they are awake."""


@dataclass(frozen=True)
class Region:
    """What running one segment's code takes: the prefix of its entry points, how many numbers and steps it has, the
    buffers by slot, the slots that lie in its arena (in the order of the plan's offsets), how many barriers it passes, and
    the work of all steps."""

    prefix: str
    number_count: int
    step_count: int
    buffers: tuple[Buffer, ...]
    arena: tuple[int, ...]
    phases: int
    work: Dim

    @cached_property
    def outside(self) -> tuple[tuple[int, Buffer], ...]:
        """Slots that every call fills, with their buffers: neither in the arena nor constant."""
        inside = set(self.arena)
        return tuple(
            (i, b) for i, b in enumerate(self.buffers) if i not in inside and b.kind not in ("const", "packed")
        )

    def threads(self, values: Mapping[str, int], most: int) -> int:
        """How many threads it is worth for these sizes; negative: as many, but only while they are awake."""
        if most == 1 or dims.symbols(self.work) - values.keys():
            return most
        microseconds = size_of(self.work, values) / (1000 * NANOSECOND)
        if microseconds < SINGLE_MICROSECONDS:
            return 1
        return most if microseconds >= WAKING_MICROSECONDS else -most


class SegmentPlan:
    """What one region needs for one set of sizes: its numbers, its arena, how many threads it is worth."""

    def __init__(
        self, region: Region, entry: Entry, symbols: list[int], values: Mapping[str, int], threads: int,
        fixed: Mapping[Buffer, int],
    ) -> None:
        self.threads = region.threads(values, threads)
        self.numbers, offsets, self.arena_bytes = entry.plan(
            symbols, abs(self.threads), region.number_count, len(region.arena)
        )
        self.numbers_address = ctypes.addressof(self.numbers)
        self._arena = dict(zip(region.arena, offsets))
        self._fixed = {i: fixed[b] for i, b in enumerate(region.buffers) if b in fixed}
        self._count = len(region.buffers)
        self.output_shapes: list[tuple[int, ...]] | None = None
        """Shapes of the outputs, noted when they are first needed."""
        self._free: list[Frame] = []

    def frame(self) -> Frame:
        """A frame that no other call uses."""
        try:
            return self._free.pop()
        except IndexError:
            return Frame(self._count, self.arena_bytes, self._arena, self._fixed)

    def give_back(self, frame: Frame) -> None:
        """Keep a frame for a later call."""
        self._free.append(frame)


class Frame:
    """The slots of one call, those in the arena and those of constants filled in."""

    def __init__(self, count: int, arena_bytes: int, arena: Mapping[int, int], fixed: Mapping[int, int]) -> None:
        self.slots = (ctypes.c_void_p * max(1, count))()
        self.address = ctypes.addressof(self.slots)
        self.memory = aligned_bytes(arena_bytes)
        base = self.memory.ctypes.data
        for slot, offset in arena.items():
            self.slots[slot] = base + offset
        for slot, address in fixed.items():
            self.slots[slot] = address


def size_of(dim: Dim, values: Mapping[str, int]) -> int:
    """The value of a dim. What is divided by a size of zero belongs to an empty tensor, and counts as nothing (generated
    code agrees)."""
    try:
        return dims.evaluate(dim, values)
    except ZeroDivisionError:
        return 0

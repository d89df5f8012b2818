"""Plans of a segment for given sizes, and the frames that calls run in."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from mcomp.backends.cpu.access import Buffer, aligned_bytes
from mcomp.backends.cpu.emit import SegmentCode
from mcomp.backends.cpu.kernel import Segment
from mcomp.backends.cpu.library import Entry
from mcomp.backends.cpu.schedule import estimate

SINGLE_MICROSECONDS = 20.0
"""Segments estimated below this run on the calling thread alone: waking others would cost more."""


class SegmentPlan:
    """What one segment needs for one set of sizes: its numbers, its arena, how many threads it is worth."""

    def __init__(
        self, segment: Segment, code: SegmentCode, entry: Entry, symbols: list[int], values: Mapping[str, int],
        threads: int, fixed: Mapping[Buffer, int],
    ) -> None:
        self.threads = threads if _total(segment, values) >= SINGLE_MICROSECONDS else 1
        self.numbers, offsets, self.arena_bytes = entry.plan(symbols, self.threads, code.number_count, len(code.arena))
        self.numbers_address = ctypes.addressof(self.numbers)
        self._arena = {segment.slot(b): o for b, o in zip(code.arena, offsets)}
        self._fixed = {segment.slot(b): fixed[b] for b in segment.buffers if b in fixed}
        self._count = len(segment.buffers)
        self.offsets = dict(zip(code.arena, offsets))
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


def _total(segment: Segment, values: Mapping[str, int]) -> float:
    total = 0.0
    for step in segment.steps:
        time = estimate(step.work, values)
        total += SINGLE_MICROSECONDS if time is None else time
    return total

"""Constants in memory: arrays of the weight store by address, and the packed forms made of them once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import numpy as np

from mcomp.backends.cpu.access import Buffer, ConstSource, aligned_bytes
from mcomp.backends.cpu.emit import SegmentCode
from mcomp.backends.cpu.kernel import Segment
from mcomp.backends.cpu.library import Entry
from mcomp.errors import BackendError
from mcomp.ir import dtypes
from mcomp.ir.store import Weight, WeightStore


class Constants:
    """Addresses of constant and packed buffers; keeps the memory alive."""

    def __init__(
        self, store: WeightStore, used: Iterable[Buffer], packing: Segment, code: SegmentCode, entry: Entry, threads: int
    ) -> None:
        self.addresses: dict[Buffer, int] = {}
        self._arrays: dict[ConstSource, np.ndarray] = {}
        self._store = store
        self._packed = self._pack(packing, code, entry, threads)
        for buffer in used:
            if buffer.source is not None:
                self._arrays[buffer.source] = self._arrays.get(buffer.source, constant_array(store, buffer.source))
                self.addresses[buffer] = self._arrays[buffer.source].ctypes.data

    @property
    def packed_bytes(self) -> int:
        """Bytes of packed constants."""
        return int(self._packed.size)

    def array(self, source: ConstSource) -> np.ndarray:
        """A constant array."""
        return self._arrays.get(source, constant_array(self._store, source))

    def _pack(self, segment: Segment, code: SegmentCode, entry: Entry, threads: int) -> np.ndarray:
        if not segment.steps:
            return aligned_bytes(0)
        numbers, offsets, total = entry.plan([], threads, code.number_count, len(code.arena))
        memory = aligned_bytes(total)
        places = dict(zip(code.arena, offsets))
        slots = (ctypes.c_void_p * len(segment.buffers))()
        sources: dict[ConstSource, np.ndarray] = {}
        for i, buffer in enumerate(segment.buffers):
            if buffer.source is not None:
                sources.setdefault(buffer.source, constant_array(self._store, buffer.source))
                slots[i] = sources[buffer.source].ctypes.data
            else:
                slots[i] = self.addresses[buffer] = memory.ctypes.data + places[buffer]
        fault = entry.run(ctypes.addressof(slots), ctypes.addressof(numbers), threads)
        if fault:
            raise BackendError(f"packing constants failed at step {fault}", code="MC0605")
        return memory


def constant_array(store: WeightStore, source: ConstSource) -> np.ndarray:
    """The array of the weight store that a buffer holds."""
    weight = store.get(source.digest)
    return decoded_array(weight) if source.decoded else weight.parts[source.part]


def decoded_array(weight: Weight) -> np.ndarray:
    """The dense array that a weight means, in its logical type's storage."""
    dense = weight.decode()
    if weight.type.dtype is dtypes.bf16:
        return dtypes.f32_to_bf16(np.asarray(dense, np.float32))
    return np.ascontiguousarray(dense.astype(weight.type.dtype.numpy, copy=False))

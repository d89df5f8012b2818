"""Constants in memory: arrays of the weight store by address, and the packed forms made of them once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable

import numpy as np

from mcomp.backends.cpu.access import Buffer, ConstSource, aligned_bytes
from mcomp.backends.cpu.library import Entry
from mcomp.backends.cpu.plan import Region
from mcomp.errors import BackendError
from mcomp.ir import dtypes
from mcomp.ir.store import Weight, WeightStore

Read = Callable[[ConstSource], np.ndarray]


class Constants:
    """Addresses of constant and packed buffers; keeps the memory alive. `read` gives a constant's array."""

    def __init__(self, read: Read, used: Iterable[Buffer], packing: Region, entry: Entry, threads: int) -> None:
        self.addresses: dict[Buffer, int] = {}
        self._arrays: dict[ConstSource, np.ndarray] = {}
        self._read = read
        self._packed = self._pack(packing, entry, threads)
        for buffer in used:
            if buffer.source is not None:
                self.addresses[buffer] = self.array(buffer.source).ctypes.data

    @property
    def packed_bytes(self) -> int:
        """Bytes of packed constants."""
        return int(self._packed.size)

    def array(self, source: ConstSource) -> np.ndarray:
        """A constant array."""
        found = self._arrays.get(source)
        if found is None:
            found = self._arrays[source] = self._read(source)
        return found

    def _pack(self, region: Region, entry: Entry, threads: int) -> np.ndarray:
        if not region.step_count:
            return aligned_bytes(0)
        numbers, offsets, total = entry.plan([], threads, region.number_count, len(region.arena))
        memory = aligned_bytes(total)
        places = dict(zip(region.arena, offsets))
        slots = (ctypes.c_void_p * len(region.buffers))()
        sources: dict[ConstSource, np.ndarray] = {}
        for i, buffer in enumerate(region.buffers):
            if buffer.source is not None:
                if buffer.source not in sources:
                    sources[buffer.source] = self._read(buffer.source)
                slots[i] = sources[buffer.source].ctypes.data
            else:
                slots[i] = self.addresses[buffer] = memory.ctypes.data + places[i]
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

"""The container of `.mcomp` files: safetensors, named arrays and a text header. Read here without its library, which would
cost a cold start; written with it. Needs numpy only to read.

Arrays of integers of less than 8 bits are stored without gaps, the first in the lowest bits: the metadata's `packed` is
JSON, by name their shape, their bits and whether they are signed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcomp.errors import ArtifactError
from mcomp.files import replacing

MAX_HEADER = 100 << 20
_PIECE = 4 << 20
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}

Place = tuple[np.dtype, tuple[int, ...], int, int]
"""Where an array is: element type, shape, first byte, byte after the last."""


@dataclass(frozen=True)
class Packed:
    """An array of integers of less than 8 bits, stored without gaps."""

    shape: tuple[int, ...]
    bits: int
    signed: bool

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return -(-self.count * self.bits // 8)

    @property
    def dtype(self) -> np.dtype:
        """How the integers are held in memory: one a byte."""
        return np.dtype(np.int8 if self.signed else np.uint8)


class Container:
    """An opened file. Arrays are mapped from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self.places, self.metadata = _read_header(file, size)
            self.packed = _read_packed(self.metadata, self.places)
        except FileNotFoundError as e:
            raise ArtifactError(f"there is no file {path}", code="MC0704",
                                help="check the path; save(path) of a compiled model writes such files") from e
        except (OSError, ValueError, RecursionError) as e:
            raise ArtifactError(
                f"{path} is damaged or no mcomp file: {e}", code="MC0701", help="get the file again, or save it anew"
            ) from e
        self._data = np.memmap(path, np.uint8, "r")

    def damaged(self, why: str) -> ArtifactError:
        """The error for a file that is not what was written."""
        return ArtifactError(f"{self.path} is damaged: {why}", code="MC0701", help="get the file again, or save it anew")

    def array(self, name: str) -> np.ndarray:
        """An array, read-only. Raises KeyError when there is none of this name."""
        if name in self.packed:
            return self._unpacked(name)
        dtype, shape, start, end = self.places[name]
        array = np.ndarray(shape, dtype, buffer=self._data, offset=start) if end > start else np.empty(shape, dtype)
        array.flags.writeable = False
        return array

    def hash_array(self, h: hashlib._Hash, name: str, label: str) -> None:
        """Feed an array to a hash, as `mcomp.ir.store.digest_of` does. No more than a piece of it stays in memory."""
        dtype, shape, start, end = self.places[name]
        packed = self.packed.get(name)
        if packed is not None:
            dtype, shape = packed.dtype, packed.shape
        h.update(f"|{label}:{dtype.str}:{shape}|".encode())
        data = self._data.data
        piece = _PIECE if packed is None else _PIECE // packed.bits * packed.bits
        for at in range(start, end, piece):
            upto = min(at + piece, end)
            if packed is None:
                h.update(data[at:upto])
            else:
                count = min((upto - start) * 8 // packed.bits, packed.count) - (at - start) * 8 // packed.bits
                h.update(self._spread(name, self._data[at:upto], packed, count).data)
            self.forget_pages(at, upto)

    def _unpacked(self, name: str) -> np.ndarray:
        _, _, start, end = self.places[name]
        packed = self.packed[name]
        array = self._spread(name, self._data[start:end], packed, packed.count).reshape(packed.shape)
        array.flags.writeable = False
        return array

    def _spread(self, name: str, data: np.ndarray, packed: Packed, count: int) -> np.ndarray:
        """`count` integers, one a byte. Raises ArtifactError when what is behind them is not zero."""
        if packed.bits == 4:
            values = np.stack([data & 15, data >> 4], -1).reshape(-1)
            rest = values[count:]
        else:
            single = np.unpackbits(data, bitorder="little")
            rest = single[count * packed.bits :]
            values = np.packbits(single[: count * packed.bits].reshape(count, packed.bits), axis=1, bitorder="little")[:, 0]
        if rest.any():
            raise self.damaged(f"{name} goes on behind its end")
        values, half = np.ascontiguousarray(values[:count]), 1 << (packed.bits - 1)
        return ((values ^ half).astype(np.int8) - half).astype(np.int8) if packed.signed else values

    def check_weights(self, digests: Mapping[str, str]) -> None:
        """Raise ArtifactError unless every weight, by digest and type, has the content it was written with."""
        parts: dict[str, list[str]] = {}
        for name in self.places:
            kind, _, rest = name.partition("/")
            if kind == "weights":
                parts.setdefault(rest.partition("/")[0], []).append(name)
        for digest, type in digests.items():
            h = hashlib.sha256(type.encode())
            for name in sorted(parts.get(digest, ())):
                self.hash_array(h, name, name.rpartition("/")[2])
            if h.hexdigest()[:32] != digest:
                raise self.damaged(f"weight {digest[:8]} does not have the content it was written with")

    def forget_pages(self, start: int = 0, end: int | None = None) -> None:
        """Let the system take back memory that holds whole pages of some bytes of the file; they are read again when
        needed."""
        mapped = getattr(self._data, "_mmap", None)
        if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = len(self._data) if end is None else end // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > first:
            mapped.madvise(mmap.MADV_DONTNEED, first, stop - first)


def _read_header(file: io.BufferedReader, size: int) -> tuple[dict[str, Place], dict[str, str]]:
    """The arrays' places and the metadata. Raises ValueError unless arrays have the sizes that their types say and cover
    what follows the header without gap and overlap."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise ValueError("its header is longer than the file")
    table = json.loads(file.read(length))
    if not isinstance(table, dict):
        raise ValueError("its header is no table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are no texts")
    places = {name: _place(name, row, 8 + length) for name, row in table.items()}
    at = 8 + length
    for _, _, start, end in sorted(places.values(), key=lambda p: (p[2], p[3])):
        if start != at:
            raise ValueError("its arrays overlap or leave a gap")
        at = end
    if at != size:
        raise ValueError("its arrays do not end where the file ends")
    return places, metadata


def _place(name: str, row: Any, base: int) -> Place:
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name} is none")
    if not isinstance(row["dtype"], str) or row["dtype"] not in _DTYPES:
        raise ValueError(f"{name} has the unknown element type {row['dtype']}")
    shape, offsets = row["shape"], row["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 32:
        raise ValueError(f"the entry of {name} is none")
    if not all(type(n) is int and n >= 0 for n in (*shape, *offsets)):
        raise ValueError(f"the entry of {name} has a number that is no size")
    dtype = np.dtype(_DTYPES[row["dtype"]])
    _check_extent(name, shape, dtype.itemsize)
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} does not have the size of its type")
    return dtype, tuple(shape), base + offsets[0], base + offsets[1]


def _check_extent(name: str, shape: Sequence[int], itemsize: int) -> None:
    """Numpy makes no array whose sizes, those of 0 left out, multiply to more than an address."""
    if math.prod(n for n in shape if n) * itemsize > sys.maxsize:
        raise ValueError(f"{name} has a size that no memory holds")


def _read_packed(metadata: Mapping[str, str], places: Mapping[str, Place]) -> dict[str, Packed]:
    """The arrays of integers of less than 8 bits. Raises ValueError unless each fills the bytes that are there."""
    table = json.loads(metadata.get("packed", "{}"))
    if not isinstance(table, dict):
        raise ValueError("its list of packed arrays is none")
    found = {}
    for name, row in table.items():
        shape, bits, signed = row if isinstance(row, list) and len(row) == 3 else (None, None, None)
        if not isinstance(shape, list) or type(bits) is not int or not isinstance(signed, bool) or name not in places:
            raise ValueError(f"the packed entry of {name} is none")
        if not 1 < bits < 8 or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"the packed entry of {name} has a number that is no size")
        _check_extent(name, shape, 1)
        found[name] = Packed(tuple(shape), bits, signed)
        dtype, stored, _, _ = places[name]
        if dtype != np.uint8 or stored != (found[name].nbytes,):
            raise ValueError(f"{name} does not have the size of its packed entry")
    return found


def pack_integers(values: np.ndarray, bits: int) -> np.ndarray | None:
    """Integers of less than 8 bits, one a byte (int8: signed, uint8: not), as bytes without gaps; None where some do not fit
    into so many bits."""
    signed = values.dtype == np.int8
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        return None
    flat = np.bitwise_and(values.reshape(-1).view(np.uint8), (1 << bits) - 1, dtype=np.uint8)
    single = np.unpackbits(flat[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(single.reshape(-1), bitorder="little")


class Beside:
    """A function that runs in a thread of its own; `join` waits for it and raises what it raised."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as e:  # handed to the thread that joins
            self._error = e

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Path:
    """Write a file, whole or not at all. Raises ArtifactError; a file that was there then stays as it was."""
    from safetensors.numpy import save_file

    try:
        with replacing(path) as temporary:
            contiguous = {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in tensors.items()}
            save_file(contiguous, temporary, dict(metadata))
    except Exception as e:
        raise ArtifactError(
            f"{path} could not be written: {e}", code="MC0702",
            help="free space or choose another folder; a file that was there before is unchanged",
        ) from e
    return path

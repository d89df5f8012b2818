"""The weight store: immutable arrays, found by the digest of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mcomp.ir import dims
from mcomp.ir.types import TensorType

Parts = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Weight:
    """A constant: its type and the arrays of its encoding (storage dtypes, C-contiguous, read-only).

    `parts` may be a function that reads them when first asked for (memory-mapped files).
    """

    type: TensorType
    digest: str
    _source: Parts | Callable[[], Parts] = field(repr=False)

    @property
    def parts(self) -> Parts:
        """The arrays by part name; `values` is always there."""
        source = self._source
        return source() if callable(source) else source

    def decode(self) -> np.ndarray:
        """The dense array; bf16, f16 and fp8 come back as float32."""
        return self.type.encoding.decode(self.parts, self.type)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts as the encoding counts them (without gaps between elements of less than 8 bits)."""
        return dims.evaluate(self.type.nbytes, {})


def digest_of(type: TensorType, parts: Parts) -> str:
    """SHA-256 over the type and every part's name, shape, dtype and bytes (32 hex digits)."""
    h = hashlib.sha256(str(type).encode())
    for name in sorted(parts):
        array = parts[name]
        h.update(f"|{name}:{array.dtype.str}:{array.shape}|".encode())
        h.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return h.hexdigest()[:32]


class WeightStore:
    """Weights by digest. Adding equal content twice keeps one copy. Graph clones share a store, or have one of their own on
    top of it (`below`), whose weights go when the last graph that has it goes."""

    def __init__(self, below: WeightStore | None = None) -> None:
        self._weights: dict[str, Weight] = {}
        self._below = below

    def add(self, type: TensorType, parts: Parts | np.ndarray) -> Weight:
        """Keep a constant. Arrays are copied only if they are not contiguous or still writeable by others.

        Raises ValueError when the arrays do not have the shapes and dtypes that the type's encoding asks for.
        """
        given = {"values": parts} if isinstance(parts, np.ndarray) else dict(parts)
        check_parts(type, given)
        frozen = {name: _freeze(array) for name, array in given.items()}
        digest = digest_of(type, frozen)
        return self._kept(digest) or self.keep(Weight(type, digest, frozen))

    def add_lazy(self, type: TensorType, digest: str, load: Callable[[], Parts]) -> Weight:
        """Keep a constant whose arrays are read on first use; the caller vouches for the digest."""
        return self._kept(digest) or self.keep(Weight(type, digest, load))

    def keep(self, weight: Weight) -> Weight:
        """Keep a weight, of another store perhaps; returns the one that is kept of its content."""
        return self._kept(weight.digest) or self._weights.setdefault(weight.digest, weight)

    def get(self, digest: str) -> Weight:
        """The weight with this digest or with the one digest that starts so. Raises KeyError."""
        found = self._kept(digest)
        if found is not None:
            return found
        matches = [w for w in self if w.digest.startswith(digest)]
        if len(matches) != 1:
            raise KeyError(f"{'no' if not matches else 'more than one'} weight with digest {digest}")
        return matches[0]

    def _kept(self, digest: str) -> Weight | None:
        found = self._weights.get(digest)
        return found if found is not None or self._below is None else self._below._kept(digest)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, str) and self._kept(digest) is not None

    @property
    def root(self) -> WeightStore:
        """The lowest of the stores that this one lies on; itself where it lies on none."""
        return self if self._below is None else self._below.root

    def __iter__(self) -> Iterator[Weight]:
        if self._below is not None:
            yield from self._below
        yield from (w for w in self._weights.values() if self._below is None or w.digest not in self._below)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def check_parts(type: TensorType, parts: Parts) -> None:
    """Raise ValueError unless `parts` are exactly the buffers that the type's encoding asks for."""
    expected = type.encoding.buffers(type)
    if expected.keys() != parts.keys():
        raise ValueError(f"{type} is stored in {sorted(expected)}, not {sorted(parts)}")
    for name, buffer in expected.items():
        shape = tuple(dims.evaluate(d, {}) for d in buffer.shape)
        if parts[name].shape != shape or parts[name].dtype != buffer.dtype.numpy:
            raise ValueError(
                f"part {name} of {type} is {parts[name].dtype}{list(parts[name].shape)}, "
                f"not {buffer.dtype.numpy}{list(shape)}"
            )


def _freeze(array: np.ndarray) -> np.ndarray:
    if not array.flags.c_contiguous or _writeable_by_others(array):
        array = array.copy(order="C")
        array.flags.writeable = False
    return array


def _writeable_by_others(array: np.ndarray) -> bool:
    """Whether the array or an array that it is a view of can be written to."""
    base: object = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return False

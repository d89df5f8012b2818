"""The cost table: microseconds of pieces of a graph at exact shapes, measured on the target and kept on disk.

    table = CostTable.load("cpu", threads=2)
    piece = extract([quantize, linear, relu]).graph
    table.measure([piece], sizes={"B": 1})          # measures what the table lacks
    table.microseconds(piece, sizes={"B": 1})

A piece is known by what it computes with (see `mcomp.ir.extract.signature`) and the sizes of its symbols, so that layers of
the same shape share a measurement, in this search and in later ones. Bytes that a piece makes of its inputs in a known
range, and floats that it makes of bytes at its end, count for nothing: in a whole model its neighbours make and take bytes.
Nor does what puts elements in another order, such as channels last: neighbours keep to one.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mcomp.backend import CompileOptions, Executable, backend_named
from mcomp.files import write_whole
from mcomp.ir import dims
from mcomp.ir.encoding import DENSE
from mcomp.ir.extract import signature
from mcomp.ir.graph import Graph, Value
from mcomp.plan.profile import cache_directory, profile_key
from mcomp.runtime.choose import lowered
from mcomp.threads import available_threads

_FORMAT = 2
"""Of what the times are."""
AT_ONCE = 48
"""Pieces compiled together."""
ROUNDS, REPEATS = 3, 7
"""Every piece is timed so often, in turns with the others; the least median of a round counts."""


@dataclass
class CostTable:
    """Microseconds by the key of a piece, for one device, target, number of threads and version of the kernels."""

    target: str
    threads: int | None
    path: Path
    times: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, target: str, threads: int | None, directory: Path | None = None) -> CostTable:
        """The table of this device; empty where nothing was measured. A damaged file is measured again, with a warning."""
        backend = backend_named(target)
        isa = target.partition(":")[2]
        name = f"costs{_FORMAT}-{profile_key(backend.name, threads or available_threads())}{isa and '-'}{isa}.json"
        table = cls(target, threads, (directory or cache_directory()) / name)
        try:
            found = json.loads(table.path.read_text(encoding="utf-8"))
            table.times = {str(key): float(us) for key, us in found.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as e:
            warnings.warn(f"the cost table {table.path} cannot be used ({e}); measuring again", stacklevel=2)
        return table

    def microseconds(self, piece: Graph, sizes: Mapping[str, int]) -> float:
        """What was measured of a piece. Raises KeyError where nothing was."""
        return self.times[piece_key(piece, sizes)]

    def measure(
        self, pieces: Sequence[Graph], sizes: Mapping[str, int], *, progress: Callable[[str], None] = lambda text: None,
    ) -> int:
        """Time the pieces that the table lacks and keep the result; returns how many were. Raises ValueError for a piece
        that takes an encoded value: include the node that makes it."""
        missing: dict[str, Graph] = {}
        for piece in pieces:
            encoded = next((v for v in piece.inputs if v.tensor.encoding != DENSE), None)
            if encoded is not None:
                raise ValueError(f"%{encoded.name} is {encoded.tensor.encoding}: include the node that makes it")
            key = piece_key(piece, sizes)
            if key not in self.times:
                missing.setdefault(key, piece)
        keys = list(missing)
        for start in range(0, len(keys), AT_ONCE):
            progress(f"measuring layers: {start} of {len(keys)}")
            some = keys[start : start + AT_ONCE]
            self.times.update(zip(some, self._time([missing[key] for key in some], sizes), strict=True))
            self.save()
        return len(keys)

    def save(self) -> None:
        """Keep the table, with what other processes measured meanwhile; a cache that cannot be written is a warning."""
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        merged = {**(known if isinstance(known, dict) else {}), **self.times}
        try:
            write_whole(self.path, json.dumps(merged, indent=0, sort_keys=True))
        except OSError as e:
            warnings.warn(f"the cost table cannot be kept in {self.path} ({e})", stacklevel=3)

    def _time(self, pieces: Sequence[Graph], sizes: Mapping[str, int]) -> list[float]:
        backend = backend_named(self.target)
        options = CompileOptions(isa=self.target.partition(":")[2] or None, threads=self.threads, hints=sizes)
        executables = backend.compile_many([lowered(backend, piece) for piece in pieces], options)
        calls = [_example(piece, sizes) for piece in pieces]
        counted = [_counted(piece, e, symbols) for piece, e, (_, symbols) in zip(pieces, executables, calls, strict=True)]
        best = [float("inf")] * len(pieces)
        for _ in range(ROUNDS):
            for i, (executable, (inputs, symbols)) in enumerate(zip(executables, calls, strict=True)):
                best[i] = min(best[i], _run(executable, inputs, symbols, counted[i]))
        return best


def piece_key(piece: Graph, sizes: Mapping[str, int]) -> str:
    """What a measurement is kept under."""
    used = {name: sizes.get(name, max(1, bounds.low)) for name, bounds in piece.symbols.items()}
    text = signature(piece) + json.dumps(used, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _run(executable: Executable, inputs: Sequence[Any], symbols: Mapping[str, int], counted: Sequence[bool]) -> float:
    times = executable.profile(inputs, symbols, repeats=REPEATS)
    return sum(us for us, counts in zip(times, counted, strict=True) if counts)


def _counted(piece: Graph, executable: Executable, symbols: Mapping[str, int]) -> list[bool]:
    """Which kernels of a piece count: not those that only make bytes of inputs, in a known range, or floats at its end, nor
    those that only put elements in another order; all where there are no others."""
    given = set(piece.inputs)
    beside = {
        n.result.name for n in piece.nodes
        if (n.op.name == "quantize" and n.operand(0) in given and "scale" in n.attrs)
        or (n.op.name == "decode" and piece.is_output(n.result))
    }
    kernels = executable.kernels(symbols)
    found = [bool(set(k.ops) - {"copy"}) and not (k.nodes and set(k.nodes) <= beside) for k in kernels]
    return found if any(found) else [True] * len(found)


def _example(piece: Graph, sizes: Mapping[str, int]) -> tuple[list[Any], dict[str, int]]:
    """Made-up inputs: normal numbers, small integers, all-true masks."""
    rng = np.random.default_rng(0)
    symbols = {name: sizes.get(name, max(1, bounds.low)) for name, bounds in piece.symbols.items()}
    return [_array(value, symbols, rng) for value in piece.inputs], symbols


def _array(value: Value, symbols: Mapping[str, int], rng: np.random.Generator) -> Any:
    from mcomp.ir import dtypes

    type = value.tensor
    shape = tuple(dims.evaluate(d, symbols) for d in type.shape)
    if type.dtype.is_float:
        array = rng.standard_normal(shape, np.float32)
        if type.dtype is dtypes.f32:
            return array
        import torch

        return torch.from_numpy(array).to(dtypes.to_torch(type.dtype))
    if type.dtype.is_int:
        return rng.integers(0, 2, shape).astype(type.dtype.numpy)
    return np.ones(shape, type.dtype.numpy)

"""Arguments of commands: arrays from files, and made-up ones."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.errors import CallError
from mcomp.ir.graph import Graph
from mcomp.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error)


def read_arrays(paths: Sequence[str]) -> list[np.ndarray]:
    """Arrays of `.npy` files, in order, and of `.npz` files, in the order they were written. No pickles. Raises CallError
    for files that cannot be read, or that hold something else than numbers."""
    arrays: list[np.ndarray] = []
    for path in paths:
        try:
            found = _arrays_of(path)
        except _UNREADABLE as e:
            raise CallError(f"{path} cannot be read as an array: {e}", help="give .npy or .npz files") from e
        for array in found:
            if array.dtype.kind not in "fiubc":
                raise CallError(f"{path} holds elements of {array.dtype}", help="give arrays of numbers")
        arrays += [array.astype(array.dtype.newbyteorder("="), copy=False) for array in found]
    return arrays


def _arrays_of(path: str) -> list[np.ndarray]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return [loaded]
    with loaded:
        return [loaded[name] for name in loaded.files]


def example_arrays(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> list[np.ndarray]:
    """Made-up arguments for a graph: normal numbers for floats, small integers, all-true masks. Symbols take their size
    from `sizes`, else 1 or their lower bound. Raises CallError for element types that numpy lacks."""
    arrays = []
    for name, type, array in _examples(graph, sizes, seed):
        if not type.dtype.is_numpy_native:
            raise CallError(f"no example can be made for %{name}: {type}", help="pass --input")
        arrays.append(array)
    return arrays


def tensors_for(graph: Graph, paths: Sequence[str], sizes: Mapping[str, int]) -> list[Tensor]:
    """The arguments of a graph as torch tensors: of files (bf16 and fp8 as their bits), or made up as by `example_arrays`
    where there are none."""
    import torch

    from mcomp.ir.dtypes import to_torch
    from mcomp.ops.encoded import tensor_of

    if not paths:
        return [torch.from_numpy(array).to(to_torch(type.dtype)) for _, type, array in _examples(graph, sizes, 0)]
    types: list[TensorType | None] = [v.tensor for v, s in zip(graph.inputs, graph.input_specs) if s.kind == "arg"]
    arrays = read_arrays(paths)
    types += [None] * (len(arrays) - len(types))
    return [
        tensor_of(a, t.dtype) if t is not None and not t.dtype.is_numpy_native and a.dtype == t.dtype.numpy
        else torch.from_numpy(a) for a, t in zip(arrays, types)
    ]


def _examples(graph: Graph, sizes: Mapping[str, int], seed: int) -> Iterator[tuple[str, TensorType, np.ndarray]]:
    """Name, type and content of each argument; bf16 and fp8 in float32."""
    from mcomp.ir import dims

    unknown = sorted(sizes.keys() - graph.symbols.keys())
    if unknown:
        raise CallError(f"the graph has no symbol {unknown[0]}",
                        help=f"its symbols are {', '.join(graph.symbols)}" if graph.symbols else "its sizes are all fixed")
    rng = np.random.default_rng(seed)
    symbols = {s: max(1, b.low) for s, b in graph.symbols.items()} | dict(sizes)
    for value, spec in zip(graph.inputs, graph.input_specs):
        if spec.kind == "arg":
            shape = tuple(dims.evaluate(d, symbols) for d in value.tensor.shape)
            yield value.name, value.tensor, _example(value.tensor, shape, rng)


def _example(type: TensorType, shape: tuple[int, ...], rng: Any) -> np.ndarray:
    if type.dtype.is_float or type.dtype.is_complex:
        found = rng.standard_normal(shape)
        return np.asarray(found, type.dtype.numpy if type.dtype.is_numpy_native else np.float32)
    if type.dtype.is_int:
        return np.asarray(rng.integers(0, 2, shape), type.dtype.numpy)
    return np.ones(shape, bool)

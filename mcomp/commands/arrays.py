"""Arguments of commands: arrays from files, and made-up ones."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.errors import CallError
from mcomp.ir.graph import Graph, Value
from mcomp.ir.types import TensorType

if TYPE_CHECKING:
    from torch import Tensor

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error)


def read_arrays(paths: Sequence[str], inputs: Sequence[str]) -> list[np.ndarray]:
    """Arrays of `.npy` and `.npz` files for inputs of these names; none without files. No pickles.

    Where all are named (in `.npz` files) and all names are inputs', every input gets the array of its name. Else they are in
    order: that of the files, and in `.npz` files that in which they were written. Raises CallError for files that cannot be
    read or hold no arrays, or other ones than of numbers, and for names that come twice or leave an input without an array.
    """
    found = [(path, name, array) for path in paths for name, array in _arrays_of(path).items()]
    if not found or not all(name in inputs for _, name, _ in found):
        return [array for _, _, array in found]
    by_name: dict[str, np.ndarray] = {}
    for path, name, array in found:
        if name in by_name:
            raise CallError(f"{path} holds a second array for the input {name}", help="give one array for each input")
        by_name[name] = array
    for name in inputs:
        if name not in by_name:
            raise CallError(f"{', '.join(paths)} holds no array for the input {name}", help="give one array for each input")
    return [by_name[name] for name in inputs]


def _arrays_of(path: str) -> dict[str, np.ndarray]:
    """The arrays of a file by name, in order; that of a `.npy` file has none."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            found = {"": loaded}
        else:
            with loaded:
                found = {name: loaded[name] for name in loaded.files}
    except _UNREADABLE as e:
        raise CallError(f"{path} cannot be read as an array: {e}", help="give .npy or .npz files") from e
    if not found:
        raise CallError(f"{path} holds no arrays", help="write them with numpy.savez")
    for array in found.values():
        if array.dtype.kind not in "fiubc":
            raise CallError(f"{path} holds elements of {array.dtype}", help="give arrays of numbers")
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in found.items()}


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
    inputs = _arguments(graph)
    types: list[TensorType | None] = [v.tensor for v in inputs]
    arrays = read_arrays(paths, [v.name for v in inputs])
    types += [None] * (len(arrays) - len(types))
    return [
        tensor_of(a, t.dtype) if t is not None and not t.dtype.is_numpy_native and a.dtype == t.dtype.numpy
        else torch.from_numpy(a) for a, t in zip(arrays, types)
    ]


def example_sizes(graph: Graph, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of made-up arguments, by symbol: those of `sizes`, else 1 or the lower bound. Raises CallError for symbols
    that the graph lacks."""
    from mcomp.ir import dims

    unknown = sorted(sizes.keys() - graph.symbols.keys())
    if unknown:
        raise CallError(f"the graph has no symbol {unknown[0]}",
                        help=f"its symbols are {', '.join(graph.symbols)}" if graph.symbols else "its sizes are all fixed")
    used = {s for value in _arguments(graph) for d in value.tensor.shape for s in dims.symbols(d)}
    return {s: sizes.get(s, max(1, b.low)) for s, b in graph.symbols.items() if s in used}


def _arguments(graph: Graph) -> list[Value]:
    return [value for value, spec in zip(graph.inputs, graph.input_specs) if spec.kind == "arg"]


def _examples(graph: Graph, sizes: Mapping[str, int], seed: int) -> Iterator[tuple[str, TensorType, np.ndarray]]:
    """Name, type and content of each argument; bf16 and fp8 in float32."""
    from mcomp.ir import dims

    rng = np.random.default_rng(seed)
    symbols = example_sizes(graph, sizes)
    for value in _arguments(graph):
        shape = tuple(dims.evaluate(d, symbols) for d in value.tensor.shape)
        yield value.name, value.tensor, _example(value.tensor, shape, rng)


def _example(type: TensorType, shape: tuple[int, ...], rng: Any) -> np.ndarray:
    if type.dtype.is_float or type.dtype.is_complex:
        found = rng.standard_normal(shape)
        return np.asarray(found, type.dtype.numpy if type.dtype.is_numpy_native else np.float32)
    if type.dtype.is_int:
        return np.asarray(rng.integers(0, 2, shape), type.dtype.numpy)
    return np.ones(shape, bool)

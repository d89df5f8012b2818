"""Values of symbolic sizes: from the shapes of a call's inputs, and assumed ones where only an estimate is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from mcomp.errors import CallError
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Bounds
from mcomp.ir.dtypes import DType
from mcomp.ir.graph import Graph, InputSpec
from mcomp.ir.types import TensorType, Type


class Port(Protocol):
    """An input as callers see it: its name and type."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> Type: ...

    @property
    def tensor(self) -> TensorType: ...


class Callee(Protocol):
    """What callers see of a graph."""

    @property
    def inputs(self) -> Sequence[Port]: ...

    @property
    def input_specs(self) -> Sequence[InputSpec]: ...

    @property
    def symbols(self) -> Mapping[str, Bounds]: ...


def bind_symbols(
    graph: Callee, shapes: Sequence[Sequence[int] | None], element_types: Sequence[DType | None] | None = None, *,
    names: Sequence[str] | None = None,
) -> dict[str, int]:
    """The value of every symbol that the input shapes determine, checked against them and against its bounds.

    One shape per graph input (None for scalars); trailing state inputs may be left out. With `element_types` these are
    checked too; None skips an input. `names` are what errors call the inputs. Raises CallError naming the input, the
    axis, what was found and what is expected.
    """
    inputs = _given(graph, shapes, names)
    if element_types is not None:
        inputs = [replace(i, dtype=d) for i, d in zip(inputs, element_types)]
    for given in inputs:
        _check_kind(graph, given)
    known, sources = _solve(graph, inputs)
    _check_sizes(graph, inputs, known, sources)
    for name, number in known.items():
        bounds = graph.symbols.get(name, Bounds())
        if number < bounds.low or (bounds.high is not None and number > bounds.high):
            given, axis = sources[name]
            allowed = f"at least {bounds.low}" if bounds.high is None else f"from {bounds.low} to {bounds.high}"
            raise _fault(graph, given, f"dim {axis} gives {name} = {number}, but {name} must be {allowed}")
    return known


def bind_inputs(graph: Callee, inputs: Sequence[Any]) -> dict[str, int]:
    """`bind_symbols` for arrays: torch tensors, numpy arrays (bf16 and fp8 as their bits), Python numbers, or encoded
    tensors."""
    described = [_describe(v, x) for v, x in zip(graph.inputs, inputs)]
    described += [(None, None)] * (len(inputs) - len(described))
    return bind_symbols(graph, [s for s, _ in described], [d for _, d in described])


@dataclass(frozen=True, slots=True)
class _Input:
    """An input of a call: the value it is for, what to call it, its shape and element type (None: unchecked)."""

    value: Port
    name: str
    shape: tuple[int, ...] | None
    dtype: DType | None = None


def _given(graph: Callee, shapes: Sequence[Sequence[int] | None], names: Sequence[str] | None) -> list[_Input]:
    missing = graph.input_specs[len(shapes) :]
    if len(shapes) > len(graph.inputs) or any(spec.kind != "state" for spec in missing):
        expected = sum(spec.kind != "state" for spec in graph.input_specs)
        raise CallError(f"{len(shapes)} inputs given, {expected} expected", code="MC0401", help=_signature(graph))
    called = names if names is not None else [v.name for v in graph.inputs]
    return [
        _Input(value, name, None if shape is None else tuple(shape))
        for value, name, shape in zip(graph.inputs, called, shapes)
    ]


def _check_kind(graph: Callee, given: _Input) -> None:
    type, shape = given.value.type, given.shape
    if not isinstance(type, TensorType):
        if shape is not None:
            raise _fault(graph, given, f"a tensor was given, but a number ({type}) is expected")
        return
    if shape is None:
        raise _fault(graph, given, f"a number was given, but a tensor {type} is expected")
    if len(shape) != type.rank:
        raise _fault(graph, given, f"rank {len(shape)} (shape {list(shape)}), expected {type.rank}")
    if given.dtype is not None and given.dtype != type.dtype:
        raise _fault(graph, given, f"elements are {given.dtype}, expected {type.dtype}")


def assume_symbols(graph: Graph, known: Mapping[str, int], default: int = 1) -> dict[str, int]:
    """`known`, and for every other symbol of the graph and of its nested graphs a guess: its upper bound if it has one,
    else the larger of `default` and its lower bound."""
    declared = dict(graph.symbols)
    for node in graph.walk():
        for body in node.bodies:
            declared.update(body.symbols)
    guessed = {name: b.high if b.high is not None else max(b.low, default) for name, b in declared.items()}
    return {**guessed, **known}


def _describe(value: Port, given: Any) -> tuple[tuple[int, ...] | None, DType | None]:
    if isinstance(given, (bool, int, float, complex)):
        return None, None
    if hasattr(given, "decode"):
        return tuple(given.shape), given.type.dtype
    if not hasattr(given, "shape"):
        raise CallError(f"input {value.name} is a {type(given).__name__}, expected {value.type}", code="MC0402")
    shape = tuple(int(s) for s in given.shape)
    try:
        if isinstance(given, np.ndarray):
            return shape, _numpy_element(value, given.dtype)
        return shape, dtypes.from_torch(given.dtype)
    except KeyError as e:
        raise CallError(f"input {value.name}: elements are {given.dtype}, expected {value.type}", code="MC0402") from e


def _numpy_element(value: Port, dtype: np.dtype) -> DType:
    expected = value.tensor.dtype
    if not expected.is_numpy_native and dtype == expected.numpy:
        return expected
    return dtypes.from_numpy(dtype.newbyteorder("="))


_Sources = dict[str, tuple[_Input, int]]


def _solve(graph: Callee, inputs: Sequence[_Input]) -> tuple[dict[str, int], _Sources]:
    """Solve for one symbol at a time until nothing new is found."""
    known: dict[str, int] = {}
    sources: _Sources = {}
    pending = [
        (given, axis, dim, given.shape[axis])
        for given in inputs if given.shape is not None and isinstance(given.value.type, TensorType)
        for axis, dim in enumerate(given.value.type.shape) if not isinstance(dim, int)
    ]
    progress = True
    while progress:
        progress = False
        for given, axis, dim, size in pending:
            try:
                found = dims.solve(dim, size, known)
            except ValueError as e:
                raise _fault(graph, given, f"dim {axis} is {size}, which no whole number makes out of {dim}") from e
            if found is not None:
                known[found[0]] = found[1]
                sources[found[0]] = (given, axis)
                progress = True
    unknown = {s for _, _, dim, _ in pending for s in dims.symbols(dim)} - known.keys()
    if unknown:
        raise CallError(
            f"the input shapes do not determine the size {sorted(unknown)[0]}", code="MC0403", help=_signature(graph)
        )
    return known, sources


def _check_sizes(graph: Callee, inputs: Sequence[_Input], known: Mapping[str, int], sources: _Sources) -> None:
    for given in inputs:
        if given.shape is None or not isinstance(given.value.type, TensorType):
            continue
        for axis, (dim, size) in enumerate(zip(given.value.type.shape, given.shape)):
            expected = dims.evaluate(dim, known)
            if expected == size:
                continue
            if isinstance(dim, int):
                raise _fault(graph, given, f"dim {axis} is {size}, expected {dim}")
            origin = ", ".join(
                f"{s} = {known[s]} from dim {sources[s][1]} of {sources[s][0].name}" for s in sorted(dims.symbols(dim))
            )
            raise _fault(graph, given, f"dim {axis} is {size}, expected {dim} = {expected} ({origin})")


def _fault(graph: Callee, given: _Input, message: str) -> CallError:
    return CallError(f"input {given.name}: {message}", code="MC0402", help=_signature(graph))


def _signature(graph: Callee) -> str:
    return "the inputs are " + (", ".join(f"{v.name}: {v.type}" for v in graph.inputs) or "none")

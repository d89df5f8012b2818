"""A compiled program: a graph, how it is called, what runs it, and the state it keeps."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mcomp.backend import Array, Bound, Executable
from mcomp.capture import structure
from mcomp.capture.signature import Signature
from mcomp.capture.structure import Rebind, Spec
from mcomp.errors import CallError
from mcomp.ir import dtypes
from mcomp.ir.binding import bind_symbols
from mcomp.ir.graph import Graph
from mcomp.runtime.face import Face, FaceInput
from mcomp.runtime.sizes import SizeChecks


class CompiledProgram:
    """One captured call, compiled. `graph` is the optimized graph, or reads it when it is first asked for (then `face` says
    how it is called); the executable may hold a lowered form of it. `checks`: what the graph asks of the sizes of a call.

    Safe to call from several threads; calls that keep state run one after another.
    """

    def __init__(
        self, graph: Graph | Callable[[], Graph], executable: Executable, signature: Signature, arguments: Spec,
        results: Spec, rebinds: Sequence[Rebind] = (), *, face: Face | None = None, checks: SizeChecks | None = None,
    ) -> None:
        self._graph = graph
        self.executable = executable
        self.signature = signature
        self.arguments = arguments
        self.results = results
        self.rebinds = tuple(rebinds)
        self.face = face if face is not None else Face.of(self.graph)
        self.checks = checks if checks is not None else SizeChecks(self.graph)
        self._arg_count = sum(1 for s in self.face.input_specs if s.kind == "arg")
        self._state_dtypes = {
            s.target: v.tensor.dtype for v, s in zip(self.face.inputs, self.face.input_specs) if s.kind == "state"
        }
        self._plain = not self._state_dtypes and all(s.kind == "result" for s in self.face.output_specs)
        self._state: dict[str, Array] = {}
        self._lock = threading.Lock()
        self._symbols: dict[tuple[Any, ...], dict[str, int]] = {}

    @property
    def graph(self) -> Graph:
        """The optimized graph."""
        if callable(self._graph):
            self._graph = self._graph()
        return self._graph

    def session(self) -> CompiledProgram:
        """The same program with state of its own, at its initial value."""
        return CompiledProgram(
            lambda: self.graph, self.executable, self.signature, self.arguments, self.results, self.rebinds,
            face=self.face, checks=self.checks,
        )

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run on the arguments of the captured model and return its result structure."""
        bound = self.signature.bind(args, kwargs)
        leaves = self.leaves(bound)
        numpy = bool(leaves) and all(isinstance(leaf, np.ndarray) for leaf in leaves)
        numpy = numpy or (not leaves and "torch" not in sys.modules)
        outputs = self.run(leaves, numpy=numpy)
        if self.rebinds:
            structure.apply_rebinds(self.rebinds, bound, outputs)
        return structure.build(self.results, outputs, bound)

    def leaves(self, bound: Mapping[str, Any]) -> list[Array]:
        """The argument tensors, flat, in the order of the graph's inputs. Raises CallError where they do not fit."""
        leaves: list[Array] = []
        structure.collect(self.arguments, bound, leaves)
        return leaves

    def symbols(self, leaves: Sequence[Array]) -> dict[str, int]:
        """The value of every symbol for these arguments. Raises CallError for wrong shapes and dtypes."""
        key = tuple((tuple(leaf.shape), leaf.dtype, getattr(leaf, "device", None)) for leaf in leaves)
        found = self._symbols.get(key)
        if found is None:
            found = self._check(leaves)
            if len(self._symbols) > 256:
                self._symbols.clear()
            self._symbols[key] = found
        return found

    def _check(self, leaves: Sequence[Array]) -> dict[str, int]:
        inputs = self.face.inputs[: self._arg_count]
        paths = {i: structure.path_text(p) for i, p in structure.leaf_paths(self.arguments).items()}
        if len(leaves) != len(inputs):
            raise CallError(f"{len(leaves)} tensors were passed where the model takes {len(inputs)}")
        for i, (value, leaf) in enumerate(zip(inputs, leaves)):
            expected = value.tensor
            given = array_dtype(leaf)
            if given is not expected.dtype:
                raise CallError(
                    f"{paths.get(i, value.name)} is {given or leaf.dtype}, but the model was captured with "
                    f"{expected.dtype}",
                    code="MC0402", ir=repr(value), help=f"convert it to {expected.dtype}, or capture with {given}",
                )
            device = getattr(leaf, "device", None)
            if device is not None and getattr(device, "type", "cpu") not in self.executable.devices:
                raise CallError(f"{paths.get(i, value.name)} is on {device}", help="move it to the CPU")
        symbols = bind_symbols(
            self.face, [tuple(int(d) for d in leaf.shape) for leaf in leaves],
            names=[paths.get(i, v.name) for i, v in enumerate(inputs)],
        )
        self.checks.check(symbols)
        return symbols

    def run(self, leaves: Sequence[Array], *, numpy: bool) -> list[Array]:
        """Run on flat arguments; returns the flat results. Writes back mutated arguments and keeps new state."""
        symbols = self.symbols(leaves)
        if self._plain:
            return self.executable.run(leaves, symbols, numpy=numpy)
        with self._lock:
            states = [self._state_value(name, numpy) for name in self._state_dtypes]
            outputs = self.executable.run([*leaves, *states], symbols, numpy=numpy)
            return self._settle(leaves, outputs)

    def _settle(self, leaves: Sequence[Array], outputs: Sequence[Array]) -> list[Array]:
        results: list[Array] = []
        positions = {v.name: i for i, v in enumerate(self.face.inputs)}
        self._check_kept(leaves, outputs, positions)
        for spec, output in zip(self.face.output_specs, outputs, strict=True):
            if spec.kind == "result":
                results.append(output)
            elif spec.kind == "state":
                self._state[spec.target] = output
            else:
                write_back(leaves[positions[spec.target]], output)
        return results

    def _check_kept(self, leaves: Sequence[Array], outputs: Sequence[Array], positions: Mapping[str, int]) -> None:
        """Raise CallError where a new content does not have the shape of what it replaces; then nothing is replaced."""
        states = {s.target: v for v, s in zip(self.face.inputs, self.face.input_specs) if s.kind == "state"}
        for spec, output in zip(self.face.output_specs, outputs, strict=True):
            if spec.kind == "result":
                continue
            kept = spec.kind == "state"
            wanted = states[spec.target].tensor.static_shape if kept else tuple(leaves[positions[spec.target]].shape)
            if tuple(output.shape) != wanted:
                raise CallError(
                    f"the new content of {spec.target} has the shape {list(output.shape)}, not {list(wanted)}",
                    code="MC0406", help="the model itself fails for these sizes, or was captured for others",
                )

    def _state_value(self, name: str, numpy: bool) -> Array:
        if name not in self._state:
            self._state[name] = self._initial_state(name)
        value = self._state[name]
        if numpy == isinstance(value, np.ndarray):
            return value
        from mcomp.ops.encoded import array_of, tensor_of

        return array_of(value) if numpy else tensor_of(value, self._state_dtypes[name])

    def _initial_state(self, name: str) -> Array:
        for value, spec in zip(self.face.inputs, self.face.input_specs):
            if spec.kind == "state" and spec.target == name:
                if spec.initial:
                    return self.graph.store.get(spec.initial).parts["values"].copy()
                return np.zeros(value.tensor.static_shape, value.tensor.dtype.numpy)
        raise CallError(f"the program keeps no state called {name}")

    def reset_state(self) -> None:
        """Put all state back to its value at capture."""
        with self._lock:
            self._state.clear()

    @property
    def state(self) -> dict[str, Array]:
        """The state kept now, by target; empty before the first call."""
        return dict(self._state)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundProgram:
        """Fix inputs and outputs; see `BoundProgram`. Raises CallError for programs that keep state or mutate."""
        if not self._plain:
            raise CallError("a model that keeps state or writes to its arguments cannot be bound", help="call it")
        bound = self.signature.bind(args, kwargs)
        leaves = self.leaves(bound)
        return BoundProgram(self, self.executable.bind(leaves, self.symbols(leaves)), bound)

    def accepts(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call fits: structure, element types and sizes."""
        try:
            self.symbols(self.leaves(self.signature.bind(args, kwargs)))
        except CallError:
            return False
        return True

    def differs_in_sizes(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call that does not fit has the right structure, element types and ranks all the same."""
        try:
            leaves = self.leaves(self.signature.bind(args, kwargs))
        except CallError:
            return False
        expected = [v.tensor for v in self.input_values()]
        return len(leaves) == len(expected) and all(
            array_dtype(leaf) is type.dtype and len(leaf.shape) == type.rank for leaf, type in zip(leaves, expected)
        )

    def input_values(self) -> tuple[FaceInput, ...]:
        """The inputs that the caller passes."""
        return self.face.inputs[: self._arg_count]


class BoundProgram:
    """Inputs and outputs fixed: write to `inputs` in place, call, read `outputs` or `result`. Allocates nothing."""

    def __init__(self, program: CompiledProgram, bound: Bound, arguments: Mapping[str, Any]) -> None:
        self._bound = bound
        self.inputs = bound.inputs
        self.outputs = bound.outputs
        self.result = structure.build(program.results, bound.outputs, arguments)
        """The result structure; its tensors are filled anew by every call."""
        self.run = bound.__call__

    def __call__(self) -> Any:
        """Run once and return `result`."""
        self.run()
        return self.result


def array_dtype(array: Array) -> dtypes.DType | None:
    """The element type of a tensor or array; None for one that the IR does not have."""
    try:
        if isinstance(array, np.ndarray):
            return dtypes.from_numpy(array.dtype)
        return dtypes.from_torch(array.dtype)
    except KeyError:
        return None


def write_back(target: Array, value: Array) -> None:
    """Copy a new content into the caller's tensor or array."""
    if isinstance(target, np.ndarray):
        target[...] = np.asarray(value)
        return
    import torch

    with torch.no_grad():
        target.copy_(torch.as_tensor(value))

"""A graph as a flat list of calls, for running it many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcomp.errors import BackendError, IRError, McompError
from mcomp.ir import dims
from mcomp.ir.dims import Bounds
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, InputSpec, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.encoded import decoded
from mcomp.ops.evaluate import bind_inputs, evaluate_attrs, run_node

Load = Callable[[Node], Any]
"""Gives the value of a `const` node."""
Override = Callable[..., Any]
"""Does what a node does, with its operands."""

_PROGRAMS = 256
"""Sets of sizes that calls are kept for."""
_NESTED = ("fused", "cond")
_STEPS = ("heaviside",)
"""Flat almost everywhere, and without a derivative in torch: gradients end there."""
_ERRORS = (RuntimeError, ValueError, TypeError, IndexError)


@dataclass(frozen=True, slots=True)
class _Step:
    """One call: operands and results by slot, and the slots to clear after it."""

    node: Node
    call: Callable[[list[Any]], Any]
    operands: tuple[int, ...]
    results: tuple[int, ...]
    free: tuple[int, ...]


@dataclass(frozen=True)
class _Border:
    """What is called: inputs and the bounds of their sizes."""

    inputs: Sequence[Value]
    input_specs: Sequence[InputSpec]
    symbols: Mapping[str, Bounds]


class Forward:
    """Computes `outputs` (default: the graph's) from `inputs` (default: the graph's) by the nodes between them.

    Means what `run_graph` means; attributes are evaluated and operands looked up once per set of sizes, and results are
    checked against the graph's types at the first run with these sizes only. `load` gives the value of a constant each
    time it is used; `overrides` replace what single nodes with one result do. The graph must not change
    while this is used.
    """

    def __init__(
        self, graph: Graph, load: Load, *, inputs: Sequence[Value] | None = None, outputs: Sequence[Value] | None = None,
        overrides: Mapping[Node, Override] | None = None,
    ) -> None:
        self.graph = graph
        self.inputs = tuple(graph.inputs) if inputs is None else tuple(inputs)
        self.outputs = tuple(graph.outputs) if outputs is None else tuple(outputs)
        self._load = load
        self._overrides = dict(overrides or {})
        self.nodes = _between(graph, self.inputs, self.outputs)
        self._slots = {v: i for i, v in enumerate(dict.fromkeys(
            [*self.inputs, *(r for n in self.nodes for r in n.results), *self.outputs]
        ))}
        self._programs: dict[tuple[tuple[str, int], ...], list[_Step]] = {}

    def symbols(self, inputs: Sequence[Any]) -> dict[str, int]:
        """The sizes that inputs determine. Raises CallError when they do not fit."""
        whole = self.inputs == tuple(self.graph.inputs)
        specs = self.graph.input_specs if whole else [InputSpec()] * len(self.inputs)
        return bind_inputs(_Border(self.inputs, specs, self.graph.symbols), inputs)

    def __call__(self, inputs: Sequence[Any], symbols: Mapping[str, int] | None = None) -> list[Any]:
        """The values of `outputs`: tensors, or `Encoded`. Without `symbols`, the inputs tell them.

        Raises CallError, IRError and BackendError as `run_graph` does.
        """
        known = dict(symbols) if symbols is not None else self.symbols(inputs)
        key = tuple(sorted(known.items()))
        program = self._programs.get(key)
        first = program is None
        if program is None:
            if len(self._programs) >= _PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            program = self._compile(known)
        values: list[Any] = [None] * len(self._slots)
        values[: len(inputs)] = inputs
        kept = {self._slots[v] for v in self.outputs}
        for step in program:
            given = [None if i < 0 else values[i] for i in step.operands]
            try:
                found = step.call(given)
            except McompError:
                raise
            except _ERRORS as e:
                node = step.node
                raise BackendError(
                    f"{node.op.name} failed: {e}", code="MC0610", where=str(node.loc) or None, ir=repr(node)
                ) from e
            if not isinstance(found, (tuple, list)):
                found = (found,)
            if first:
                _check(step.node, found, known)
            for slot, result in zip(step.results, found):
                values[slot] = result
            for slot in step.free:
                if slot not in kept:
                    values[slot] = None
        if first:
            self._programs[key] = program
        return [values[self._slots[v]] for v in self.outputs]

    def _compile(self, symbols: dict[str, int]) -> list[_Step]:
        last: dict[int, int] = {}
        for position, node in enumerate(self.nodes):
            for value in (*node.operands, *node.results):
                if value is not None and value in self._slots:
                    last[self._slots[value]] = position
        dead: dict[int, list[int]] = {}
        for slot, position in last.items():
            dead.setdefault(position, []).append(slot)
        return [
            _Step(
                node, self._call(node, symbols),
                tuple(-1 if v is None else self._slots[v] for v in node.operands),
                tuple(self._slots[v] for v in node.results), tuple(dead.get(position, ())),
            )
            for position, node in enumerate(self.nodes)
        ]

    def _call(self, node: Node, symbols: dict[str, int]) -> Callable[[list[Any]], Any]:
        load = self._load
        if node.op.name == "const":
            return lambda given: load(node)
        override = self._overrides.get(node)
        if override is not None:
            return lambda given: override(*given)
        if node.op.name in _NESTED:
            return lambda given: run_node(node, given, dict(symbols), constants=load)
        try:
            attrs = evaluate_attrs(node.attrs, symbols)
        except KeyError as e:
            raise IRError(
                f"{node.op.name}: the size {e.args[0]} depends on data, which training does not support",
                where=str(node.loc) or None, ir=repr(node),
            ) from e
        reference = node.op.reference
        if node.op.name in _STEPS:
            return lambda given: reference([decoded(x).detach() for x in given], attrs)
        if node.op.accepts_encoded or not any(_encoded(v) for v in node.operands):
            return lambda given: reference(given, attrs)
        return lambda given: reference([decoded(x) for x in given], attrs)


def _encoded(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, TensorType) and value.type.encoding != DENSE


def _between(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value]) -> list[Node]:
    """The nodes that the outputs need, in order. Raises IRError when they need an input of the graph that is not given."""
    given = set(inputs)
    needed: set[Value] = {v for v in outputs if v not in given}
    found: list[Node] = []
    for node in graph.reversed_nodes():
        if any(v in needed for v in node.results):
            found.append(node)
            needed.update(v for v in node.operands if v is not None and v not in given)
    missing = next((v for v in graph.inputs if v in needed), None)
    if missing is not None:
        raise IRError(f"%{missing.name} is needed and not given")
    return found[::-1]


def _check(node: Node, results: Sequence[Any], symbols: Mapping[str, int]) -> None:
    """Raise IRError when results do not have the shapes that the graph states."""
    for value, result in zip(node.results, results):
        if not isinstance(value.type, TensorType) or not value.type.symbols <= symbols.keys():
            continue
        expected = tuple(dims.evaluate(d, symbols) for d in value.type.shape)
        if tuple(result.shape) != expected:
            raise IRError(
                f"{node.op.name}: %{value.name} is {list(result.shape)}, but the graph states {value.type}",
                code="MC0104", where=str(node.loc) or None, ir=repr(node),
            )

"""The graph: values, nodes, and the graph that orders them. Nodes change only through `mcomp.ir.edit.Editor`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mcomp.errors import IRError
from mcomp.ir.dims import Bounds
from mcomp.ir.loc import UNKNOWN, Loc
from mcomp.ir.store import Weight, WeightStore
from mcomp.ir.types import TensorType, Type

if TYPE_CHECKING:
    from mcomp.ir.edit import Editor, Rewrite
    from mcomp.manager.analysis import Analyses
    from mcomp.manager.context import Context
    from mcomp.ops.base import Effect, Op

Attrs = Mapping[str, Any]


class Value:
    """What a node computes or a graph receives. Equality is identity; the name is unique in its graph."""

    __slots__ = ("_uses", "graph", "index", "name", "producer", "type")

    def __init__(self, graph: Graph, name: str, type: Type, producer: Node | None, index: int) -> None:
        self.graph = graph
        self.name = name
        self.type = type
        self.producer = producer
        self.index = index
        self._uses: dict[tuple[Node, int], None] = {}

    @property
    def uses(self) -> tuple[tuple[Node, int], ...]:
        """(node, operand index) of every use, in order of creation; `return` counts as a node."""
        return tuple(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that use this value, without repetition."""
        return tuple(dict.fromkeys(node for node, _ in self._uses))

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor's. Raises IRError for scalars."""
        if not isinstance(self.type, TensorType):
            raise IRError(f"%{self.name} is a {self.type}, not a tensor")
        return self.type

    @property
    def is_const(self) -> bool:
        return self.producer is not None and self.producer.op.name == "const"

    @property
    def weight(self) -> Weight | None:
        """The constant that this value is, or None."""
        if self.producer is None or self.producer.op.name != "const":
            return None
        return self.graph.store.get(self.producer.attrs["digest"])

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operation: op, operands (None for an absent optional one), results, frozen attributes, location."""

    __slots__ = ("alive", "attrs", "graph", "loc", "next", "op", "operands", "prev", "results")

    def __init__(self, graph: Graph, op: Op, operands: tuple[Value | None, ...], attrs: Attrs, loc: Loc) -> None:
        self.graph = graph
        self.op = op
        self.operands = operands
        self.attrs: Attrs = MappingProxyType(dict(attrs))
        self.loc = loc
        self.results: tuple[Value, ...] = ()
        self.alive = False
        self.prev: Node | None = None
        self.next: Node | None = None

    @property
    def result(self) -> Value:
        """The only result. Raises IRError when there are none or several."""
        if len(self.results) != 1:
            raise IRError(f"{self.op.name} has {len(self.results)} results")
        return self.results[0]

    @property
    def type(self) -> TensorType:
        """The type of the only result, which must be a tensor's."""
        return self.result.tensor

    def operand(self, index: int) -> Value:
        """A present operand. Raises IRError when it is absent."""
        value = self.operands[index] if index < len(self.operands) else None
        if value is None:
            raise IRError(f"{self.op.name} has no operand {index}")
        return value

    def maybe(self, index: int) -> Value | None:
        """An operand, or None when it is absent."""
        return self.operands[index] if index < len(self.operands) else None

    @property
    def name(self) -> str:
        """The name of the first result; the op's name for nodes without results."""
        return self.results[0].name if self.results else self.op.name

    @property
    def layer(self) -> str:
        """The module path of the node, for people; the node's name when unknown."""
        return self.loc.layer or self.name

    @property
    def bodies(self) -> tuple[Graph, ...]:
        """The nested graphs among the attributes."""
        return tuple(a for a in self.attrs.values() if isinstance(a, Graph))

    @property
    def effect(self) -> Effect:
        """The strongest of the effects of the operator and of the nodes in nested graphs."""
        from mcomp.ops.base import Effect

        inner = (node.effect for body in self.bodies for node in body.nodes)
        return max((self.op.effect, *inner), key=list(Effect).index)

    def __repr__(self) -> str:
        from mcomp.ir.printer import node_text

        return node_text(self)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What an input is. kind `arg`: passed by the caller. kind `state`: kept between calls under `target` (a buffer or
    parameter that the model mutates), starting from the weight `initial` (a digest)."""

    kind: str = "arg"
    target: str = ""
    initial: str = ""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What an output is. kind `result`: returned. kind `state`: the new content of the state input `target`. kind
    `mutated`: the new content of the argument input named `target`, written back to the caller's tensor."""

    kind: str = "result"
    target: str = ""


@dataclass
class LedgerEntry:
    """One approximate change: which pass, on which layer and node, its measured error (relative L2 of the node's output
    on calibration data), bytes saved, and predicted time saved in microseconds."""

    rule: str
    layer: str
    node: str = ""
    error: float = 0.0
    bytes_saved: int = 0
    time_saved_us: float = 0.0
    detail: str = ""


_NAME = re.compile(r"[^A-Za-z0-9_]+")
_PLAIN = re.compile(r"[A-Za-z0-9_]+\Z")


class Graph:
    """Nodes in topological order between inputs and a final `return`.

    `symbols` holds the bounds of the symbolic sizes. `version` counts edits: analyses are cached against it, in `analyses`,
    by the context that asked for them.
    """

    def __init__(self, name: str = "main", store: WeightStore | None = None) -> None:
        self.name = name
        self.store = store if store is not None else WeightStore()
        self.symbols: dict[str, Bounds] = {}
        self.inputs: list[Value] = []
        self.input_specs: list[InputSpec] = []
        self.output_specs: list[OutputSpec] = []
        self.ledger: list[LedgerEntry] = []
        self.journal: list[Rewrite] = []
        self.version = 0
        self.analyses: WeakKeyDictionary[Context, Analyses] = WeakKeyDictionary()
        self._editor: Editor | None = None
        self._names: dict[str, Value] = {}
        self._counters: dict[str, int] = {}
        self._order: tuple[int, dict[Node, int]] | None = None
        from mcomp.ops.base import op_named

        self.returns = Node(self, op_named("return"), (), {}, UNKNOWN)
        self._first: Node = self.returns

    # reading

    @property
    def nodes(self) -> Iterator[Node]:
        """All nodes but the final `return`, in order. Nodes may be erased while iterating (an erased node keeps its
        neighbours); nodes inserted after the current one are visited."""
        node: Node | None = self._first
        while node is not None and node is not self.returns:
            if node.alive:
                yield node
            node = node.next

    def reversed_nodes(self) -> Iterator[Node]:
        """All nodes but the final `return`, last first. Nodes may be erased while iterating."""
        node = self.returns.prev
        while node is not None:
            if node.alive:
                yield node
            node = node.prev

    def __len__(self) -> int:
        return sum(1 for _ in self.nodes)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values returned."""
        return tuple(v for v in self.returns.operands if v is not None)

    def value(self, name: str) -> Value:
        """The value with this name. Raises KeyError."""
        return self._names[name]

    def is_output(self, value: Value) -> bool:
        return any(node is self.returns for node, _ in value._uses)

    def position(self, node: Node) -> int:
        """Index of a node in the order; computed once per version."""
        if self._order is None or self._order[0] != self.version:
            order = {n: i for i, n in enumerate(self.nodes)}
            order[self.returns] = len(order)
            self._order = (self.version, order)
        return self._order[1][node]

    def walk(self) -> Iterator[Node]:
        """All nodes of this graph and of nested graphs, outer before inner."""
        for node in self.nodes:
            yield node
            for body in node.bodies:
                yield from body.walk()

    def __str__(self) -> str:
        from mcomp.ir.printer import graph_text

        return graph_text(self)

    __repr__ = __str__

    # writing

    def edit(self, label: str = "edit", loc: Loc | None = None) -> AbstractContextManager[Editor]:
        """The only way to change nodes: `with graph.edit("rule") as e: ...`. Atomic: an exception undoes everything.

        An edit inside an edit of the same graph joins it.
        """
        from mcomp.ir.edit import editing

        return editing(self, label, loc)

    def add_input(self, name: str, type: Type, spec: InputSpec | None = None) -> Value:
        """Append an input. `name` is made unique."""
        value = Value(self, self.unique_name(name), type, None, len(self.inputs))
        self._names[value.name] = value
        self.inputs.append(value)
        self.input_specs.append(spec or InputSpec())
        self.version += 1
        if self._editor is not None:
            self._editor.on_undo(self._drop_last_input)
        return value

    def set_outputs(self, values: Sequence[Value], specs: Sequence[OutputSpec] | None = None) -> None:
        """Replace what the graph returns; without `specs` all are plain results."""
        chosen = list(specs) if specs is not None else [OutputSpec() for _ in values]
        if len(chosen) != len(values):
            raise IRError(f"{len(values)} outputs but {len(chosen)} specs")
        with self.edit("outputs") as e:
            e.set_operands(self.returns, tuple(values))
            e.on_undo(partial(setattr, self, "output_specs", self.output_specs))
            self.output_specs = chosen

    def unique_name(self, hint: str) -> str:
        """A name not in use, made from `hint`."""
        base = hint if _PLAIN.match(hint) else _NAME.sub("_", hint).strip("_") or "v"
        if base not in self._names:
            return base
        count = self._counters.get(base, 0)
        while True:
            count += 1
            name = f"{base}_{count}"
            if name not in self._names:
                self._counters[base] = count
                return name

    def clone(self, name: str | None = None, store: WeightStore | None = None) -> Graph:
        """A copy that shares the weight store, or has another one that holds the same weights; names, locations, ledger and
        journal are kept."""
        copy, _ = self.clone_with_map(name, store)
        return copy

    def clone_with_map(self, name: str | None = None, store: WeightStore | None = None) -> tuple[Graph, dict[Value, Value]]:
        """A copy, and the map from values of this graph to values of the copy."""
        copy = Graph(name or self.name, self.store if store is None else store)
        copy.symbols = dict(self.symbols)
        copy.ledger = [replace(entry) for entry in self.ledger]
        mapping: dict[Value, Value] = {}
        for value, spec in zip(self.inputs, self.input_specs, strict=True):
            mapping[value] = copy.add_input(value.name, value.type, spec)
        for node in self.nodes:
            attrs = {k: a.clone(store=store) if isinstance(a, Graph) else a for k, a in node.attrs.items()}
            new = Node(copy, node.op, tuple(None if v is None else mapping[v] for v in node.operands), attrs, node.loc)
            copy._attach(new, copy.returns)
            new.results = tuple(
                copy._new_result(new, i, v.name, v.type) for i, v in enumerate(node.results)
            )
            mapping.update(zip(node.results, new.results))
        copy.set_outputs([mapping[v] for v in self.outputs], list(self.output_specs))
        copy.journal = list(self.journal)
        copy.version = self.version
        return copy, mapping

    # for the editor

    def _drop_last_input(self) -> None:
        value = self.inputs.pop()
        self.input_specs.pop()
        del self._names[value.name]

    def _new_result(self, node: Node, index: int, hint: str, type: Type) -> Value:
        value = Value(self, self.unique_name(hint), type, node, index)
        self._names[value.name] = value
        return value

    def _attach(self, node: Node, before: Node) -> None:
        previous = before.prev
        node.prev, node.next = previous, before
        before.prev = node
        node.alive = True
        if previous is None:
            self._first = node
        else:
            previous.next = node
        for i, value in enumerate(node.operands):
            if value is not None:
                value._uses[(node, i)] = None

    def _detach(self, node: Node) -> None:
        for i, value in enumerate(node.operands):
            if value is not None:
                value._uses.pop((node, i), None)
        if node.prev is None:
            if node.next is not None:
                self._first = node.next
        else:
            node.prev.next = node.next
        if node.next is not None:
            node.next.prev = node.prev
        node.alive = False


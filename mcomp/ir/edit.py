"""The editor: atomic, numbered, journalled changes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcomp.errors import IRError
from mcomp.ir import dtypes
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.loc import UNKNOWN, Loc
from mcomp.ir.store import Weight
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Op, normalize, op_named


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One committed edit: its number in the graph's life, what did it, and the results added and removed, by name."""

    number: int
    label: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    loc: Loc = UNKNOWN

    def __str__(self) -> str:
        removed = ", ".join(f"%{n}" for n in self.removed) or "nothing"
        added = ", ".join(f"%{n}" for n in self.added) or "nothing"
        place = f" at {self.loc}" if self.loc else ""
        return f"#{self.number} {self.label}: {removed} -> {added}{place}"


class Editor:
    """Changes one graph. Made by `graph.edit(label)`; usable only inside its `with` block."""

    def __init__(self, graph: Graph, label: str, loc: Loc | None) -> None:
        self.graph = graph
        self.label = label
        self.loc = loc
        self._undo: list[Callable[[], None]] = []
        self._added: dict[Value, None] = {}
        self._removed: list[str] = []
        self._original: dict[Value, str] = {}

    def add(
        self,
        op: str | Op,
        operands: Sequence[Value | None] = (),
        attrs: Mapping[str, Any] | None = None,
        *,
        name: str | Sequence[str] | None = None,
        loc: Loc | None = None,
        before: Node | None = None,
        types: Sequence[Type] | None = None,
    ) -> Node:
        """Insert a node before `before` (default: at the end). Result types are inferred unless `types` gives them.

        Attributes get their defaults, are checked against the op's specification and frozen. Raises IRError when
        operands, attributes or types do not fit.
        """
        chosen = op_named(op) if isinstance(op, str) else op
        given = tuple(operands)
        for value in given:
            if value is not None and value.graph is not self.graph:
                raise IRError(f"%{value.name} belongs to another graph")
        full = normalize(chosen, attrs or {})
        chosen.check_operands(given)
        place = loc if loc is not None else (self.loc or UNKNOWN)
        node = Node(self.graph, chosen, given, full, place)
        results = tuple(types) if types is not None else chosen.infer_node(node)
        self.graph._attach(node, before or self.graph.returns)
        self._undo.append(lambda: self._forget(node))
        hints = [name] * len(results) if isinstance(name, str) or name is None else list(name)
        node.results = tuple(
            self.graph._new_result(node, i, hints[i] or chosen.name.rsplit(".", 1)[-1], t)
            for i, t in enumerate(results)
        )
        for value in node.results:
            self._added[value] = None
        self.graph.version += 1
        return node

    def const(
        self, data: np.ndarray | Weight, *, name: str, type: TensorType | None = None, loc: Loc | None = None,
        before: Node | None = None, parts: Mapping[str, np.ndarray] | None = None,
    ) -> Value:
        """Insert a constant: an array (dense, of numpy's dtype unless `type` says otherwise), a weight of the store,
        or, with `type` and `parts`, the buffers of an encoded tensor."""
        if isinstance(data, Weight):
            weight = self.graph.store.keep(data)
        else:
            kind = type or TensorType(tuple(data.shape), dtypes.from_numpy(data.dtype))
            weight = self.graph.store.add(kind, parts if parts is not None else data)
        return self.add(
            "const", (), {"name": name, "digest": weight.digest}, name=name.rsplit(".", 1)[-1], loc=loc,
            before=before, types=[weight.type],
        ).result

    def erase(self, node: Node) -> None:
        """Remove a node whose results nobody uses. Raises IRError otherwise."""
        used = [v for v in node.results if v._uses]
        if used:
            raise IRError(f"%{used[0].name} is still used by {used[0].users[0].op.name}")
        graph, following = self.graph, node.next
        if following is None:
            raise IRError("`return` cannot be erased")
        graph._detach(node)
        for value in node.results:
            if graph._names.get(value.name) is value:
                del graph._names[value.name]
            if value in self._added:
                del self._added[value]
            else:
                self._removed.append(self._original.get(value, value.name))

        def undo() -> None:
            graph._attach(node, following)
            for value in node.results:
                graph._names[value.name] = value

        self._undo.append(undo)
        graph.version += 1

    def replace(self, old: Value, new: Value, *, keep_name: bool = True) -> None:
        """Make every user of `old` use `new`. With `keep_name`, a new value made in this edit takes over the name."""
        if old is new:
            return
        for node, index in old.uses:
            if node is not new.producer:
                self.set_operand(node, index, new)
        made_here = new in self._added
        if keep_name and made_here and not old._uses:
            self._swap_names(old, new)

    def replace_node(self, node: Node, values: Sequence[Value]) -> None:
        """Replace all results of a node and erase it."""
        if len(values) != len(node.results):
            raise IRError(f"{node.op.name} has {len(node.results)} results, not {len(values)}")
        for old, new in zip(node.results, values):
            self.replace(old, new)
        self.erase(node)

    def set_operand(self, node: Node, index: int, value: Value | None) -> None:
        """Change one operand."""
        operands = list(node.operands)
        operands[index] = value
        self.set_operands(node, tuple(operands))

    def set_operands(self, node: Node, operands: tuple[Value | None, ...]) -> None:
        """Change all operands. Result types stay; call `reinfer` when they may differ."""
        old = node.operands

        def assign(new: tuple[Value | None, ...]) -> None:
            for i, v in enumerate(node.operands):
                if v is not None:
                    v._uses.pop((node, i), None)
            node.operands = new
            for i, v in enumerate(new):
                if v is not None:
                    v._uses[(node, i)] = None

        assign(tuple(operands))
        self._undo.append(lambda: assign(old))
        self.graph.version += 1

    def set_attrs(self, node: Node, **changes: Any) -> None:
        """Change attributes; checked as in `add`."""
        from types import MappingProxyType

        old = node.attrs
        merged = {**old, **changes}
        node.attrs = MappingProxyType(normalize(node.op, merged))

        def undo() -> None:
            node.attrs = old

        self._undo.append(undo)
        self.graph.version += 1

    def set_type(self, value: Value, type: Type) -> None:
        """Change the type of a value."""
        old = value.type
        value.type = type

        def undo() -> None:
            value.type = old

        self._undo.append(undo)
        self.graph.version += 1

    def set_loc(self, node: Node, loc: Loc) -> None:
        """Change the location of a node."""
        old = node.loc
        node.loc = loc

        def undo() -> None:
            node.loc = old

        self._undo.append(undo)

    def reinfer(self, node: Node) -> bool:
        """Infer the result types of a node again; returns whether any changed."""
        changed = False
        for value, type in zip(node.results, node.op.infer_node(node), strict=True):
            if value.type != type:
                self.set_type(value, type)
                changed = True
        return changed

    def rename(self, value: Value, hint: str) -> None:
        """Give a value another name, made unique."""
        old = value.name
        self._set_name(value, self.graph.unique_name(hint))
        self._undo.append(lambda: self._set_name(value, old))

    def move(self, node: Node, before: Node) -> None:
        """Move a node to just before another."""
        following = node.next
        if following is None or node is before:
            raise IRError("`return` cannot be moved, and a node not before itself")
        self.graph._detach(node)
        self.graph._attach(node, before)

        def undo() -> None:
            self.graph._detach(node)
            self.graph._attach(node, following)

        self._undo.append(undo)
        self.graph.version += 1

    def inline(self, body: Graph, arguments: Sequence[Value], *, before: Node) -> list[Value]:
        """Insert copies of the nodes of `body`, its inputs replaced by `arguments`; returns its outputs' copies."""
        mapping: dict[Value, Value] = dict(zip(body.inputs, arguments, strict=True))
        for node in body.nodes:
            attrs = {k: a.clone() if isinstance(a, Graph) else a for k, a in node.attrs.items()}
            copy = self.add(
                node.op, [None if v is None else mapping[v] for v in node.operands], attrs,
                name=[v.name for v in node.results], loc=node.loc, before=before, types=[v.type for v in node.results],
            )
            mapping.update(zip(node.results, copy.results))
        return [mapping[v] for v in body.outputs]

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Call `undo`, after what was done later is undone, if this edit fails. For changes other than those above."""
        self._undo.append(undo)

    def _set_name(self, value: Value, name: str) -> None:
        names = self.graph._names
        if names.get(value.name) is value:
            del names[value.name]
        value.name = name
        names[name] = value

    def _swap_names(self, old: Value, new: Value) -> None:
        first, second = old.name, new.name

        def swap(a: str, b: str) -> None:
            old.name, new.name = b, a
            self.graph._names[a], self.graph._names[b] = new, old

        swap(first, second)
        self._original.setdefault(old, first)
        self._undo.append(lambda: swap(second, first))

    def _forget(self, node: Node) -> None:
        self.graph._detach(node)
        for value in node.results:
            if self.graph._names.get(value.name) is value:
                del self.graph._names[value.name]

    def _rollback(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self.graph.version += 1


@contextmanager
def editing(graph: Graph, label: str, loc: Loc | None) -> Iterator[Editor]:
    """See `Graph.edit`."""
    if graph._editor is not None:
        yield graph._editor
        return
    editor = Editor(graph, label, loc)
    graph._editor = editor
    try:
        yield editor
    except BaseException:
        editor._rollback()
        raise
    finally:
        graph._editor = None
    if editor._undo:
        graph.journal.append(
            Rewrite(
                len(graph.journal) + 1, label, tuple(v.name for v in editor._added), tuple(editor._removed),
                loc or UNKNOWN,
            )
        )

"""A match: where a rule's pattern was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir.edit import Editor
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.loc import Loc, fused
from mcomp.ir.types import Type
from mcomp.manager.context import Context
from mcomp.rewrite.facts import Number
from mcomp.rewrite.pattern import Bound, Found


class Match:
    """The root node, what the pattern's names are bound to, and every node matched."""

    def __init__(self, root: Node, found: Found, context: Context) -> None:
        self.root = root
        self.graph: Graph = root.graph
        self.context = context
        self.bindings: Mapping[str, Bound] = found.bindings
        self.nodes = found.nodes

    def __getitem__(self, name: str) -> Value:
        """The value bound to a name. Raises IRError when the name is bound to something else."""
        found = self.bindings[name]
        if not isinstance(found, Value):
            raise IRError(f"{name} is bound to {found!r}, not to a value")
        return found

    def get(self, name: str) -> Value | None:
        """The value bound to a name, or None where the pattern took another way or the operand is absent."""
        return self[name] if self.bindings.get(name) is not None else None

    def node(self, name: str) -> Node:
        """The node bound to a name. Raises IRError when the name is bound to something else."""
        found = self.bindings[name]
        if not isinstance(found, Node):
            raise IRError(f"{name} is bound to {found!r}, not to a node")
        return found

    def number(self, name: str) -> Number:
        """The number bound to a name. Raises IRError when the name is bound to something else."""
        found = self.bindings[name]
        if found is None or isinstance(found, (Value, Node)):
            raise IRError(f"{name} is bound to {found!r}, not to a number")
        return found

    def loc(self, label: str) -> Loc:
        """The location for what replaces the match."""
        return fused(label, *(n.loc for n in reversed(self.nodes)))

    def include(self, *nodes: Node) -> None:
        """Count further nodes as matched: a check found them by walking on from where the pattern ends."""
        self.nodes = tuple(dict.fromkeys((*self.nodes, *nodes)))

    def add(
        self, editor: Editor, op: str, operands: Sequence[Value | None], attrs: Mapping[str, Any] | None = None, *,
        name: str | None = None, types: Sequence[Type] | None = None,
    ) -> Value:
        """Insert a node of one result before the root. Absent operands at the end may be given as None."""
        given = list(operands)
        while given and given[-1] is None:
            given.pop()
        return editor.add(op, given, attrs, name=name, before=self.root, types=types).result

    def outside_user(self) -> tuple[Value, Node] | None:
        """A value of a matched node other than the root that a node outside of the match uses."""
        inside = set(self.nodes)
        for node in self.nodes:
            if node is self.root:
                continue
            for value in node.results:
                for user in value.users:
                    if user not in inside:
                        return value, user
        return None

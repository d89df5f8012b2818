"""Fused nodes: which nodes of a body a kernel takes together, the same for every backend that generates code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mcomp.ir.graph import Graph, Node, Value

if TYPE_CHECKING:
    from mcomp.backend import Declined

_Tail = TypeVar("_Tail")


class Builder(Protocol):
    """What lowering a body needs of a backend's builder."""

    context: Any

    def alias(self, value: Value, other: Value) -> None:
        """A value is another one."""

    def rename(self, result: Value, value: Value) -> None:
        """A value of the body is the node's result."""

    def lower(self, node: Node) -> Any:
        """Lower a node by itself."""

    def attempt(self, rule: Callable[[], Declined | None], part: Sequence[Node]) -> Declined | None:
        """Run a rule; what it did is undone where it declines."""


def body_nodes(node: Node, b: Builder) -> list[Node]:
    """The nodes of a fused node's body, its values made known to the builder; constants are lowered already."""
    body: Graph = node.attrs["body"]
    for inside, operand in zip(body.inputs, node.operands):
        if operand is not None:
            b.alias(inside, operand)
    for value, result in zip(body.outputs, node.results):
        b.rename(result, value)
    nodes: list[Node] = []
    for member in body.nodes:
        if member.op.name in ("const", "full"):
            b.lower(member)
        else:
            nodes.append(member)
    return nodes


def with_tail(
    nodes: Sequence[Node], at: int, head: Sequence[Node], rule: Callable[[_Tail], Declined | None],
    make: Callable[[Value, tuple[Node, ...], tuple[tuple[Value, Value], ...]], _Tail], follows: Callable[[Node], bool],
    b: Builder, *, alone: bool = False,
) -> int:
    """Lower a head, at place `at`, with as much of the run behind it as the rule takes; returns how many nodes those are, 0
    when there is no such run. `make`: the tail behind a value, of these nodes, with the values that others see. `alone`: the
    head without any is worth trying too."""
    anchor = head[-1].result
    tail = run_at(nodes, at + len(head), anchor, follows)
    while tail or alone:
        taken = [*head, *tail]
        end = make(anchor, tuple(tail), tuple((v, v) for v in seen_outside(taken)))
        refused = b.attempt(lambda end=end: rule(end), part_of(nodes, taken))  # type: ignore[misc]
        if refused is None:
            return len(taken)
        name = " and ".join(n.op.name for n in head)
        b.context.missed("lower", head[0], f"{name} with its epilogue: {refused.reason}", refused.remedy)
        alone = alone and bool(tail)
        tail = tail[: len(tail) // 2]
    return 0


def part_of(nodes: Sequence[Node], taken: Sequence[Node]) -> Sequence[Node]:
    """Nodes of a body that one kernel takes, as far as those are not all."""
    return taken if len(taken) < len(nodes) else ()


def run_at(nodes: Sequence[Node], start: int, anchor: Value | None, follows: Callable[[Node], bool]) -> list[Node]:
    """Nodes from `start` on that are computed index by index (`follows` says which are), all results of one shape, up to the
    first that quantizes; what they read comes from before, from the anchor or from the run."""
    run: list[Node] = []
    shape = None if anchor is None else anchor.tensor.shape
    for node in nodes[start:]:
        if not follows(node) or (shape is not None and node.type.shape != shape):
            break
        shape = node.type.shape
        run.append(node)
        if node.op.name == "quantize":
            break
    return run


def seen_outside(run: Sequence[Node]) -> list[Value]:
    """The values of a run that others use, or that leave the body."""
    inside = set(run)
    return [v for node in run for v in node.results if any(user not in inside for user in v.users)]

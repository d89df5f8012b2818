"""What is computed behind an anchor in the same kernel: element-wise nodes, and the results that leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcomp.backend import Declined
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Place, View
from mcomp.backends.triton.builder import Builder, work_of
from mcomp.backends.triton.expressions import scalar_lines, unsupported
from mcomp.backends.triton.lower.elementwise import (
    flat,
    flat_grid,
    is_static_quantize,
    leaf_of,
    load_leaf,
    room_for,
    store_value,
    widened,
)
from mcomp.backends.triton.program import Chip, Launch, Numbers, TorchStep
from mcomp.backends.triton.text import KNOWN, Group, KernelText
from mcomp.ir import dims
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Node, Value

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tail:
    """`anchor`: the value that the tile holds first. `nodes`: element-wise nodes behind it, in order; the last may quantize
    with a known scale. `results`: values that leave the kernel, with what they are called outside."""

    anchor: Value
    nodes: tuple[Node, ...]
    results: tuple[tuple[Value, Value], ...]

    def leaves(self, b: Builder) -> list[Value] | Declined:
        """Values in memory that the nodes read."""
        inside = {self.anchor, *(v for n in self.nodes for v in n.results)}
        found: dict[Value, None] = {}
        for node in self.nodes:
            if node.op.name == "quantize":
                if not is_static_quantize(node):
                    return Declined("its scales come from the data")
            elif (reason := unsupported(node)) is not None:
                return Declined(reason)
            for value in node.operands:
                if value is None or value in inside or isinstance(b.number(value), (bool, int, float)):
                    continue
                if value.type.dtype.name not in KNOWN:
                    return Declined(f"{value.type.dtype} is not computed with in Triton")
                found[value] = None
        for _, result in self.results:
            if result.type.dtype.name not in KNOWN:
                return Declined(f"{result.type.dtype} is not computed with in Triton")
        return list(found)

    def views(self, b: Builder) -> dict[Value, Place] | Declined:
        """Where the leaves are, as wide as the anchor: what is encoded is decoded as it is read."""
        leaves = self.leaves(b)
        if isinstance(leaves, Declined):
            return leaves
        return {v: widened(leaf_of(v, b), self.anchor.tensor.shape) for v in leaves}

    def room(self, b: Builder, order: Sequence[int] | None = None) -> list[Place]:
        """Memory for the results, axes in this order."""
        return [room_for(result, order, b) for _, result in self.results]


def plain(node: Node) -> Tail:
    """Nothing behind a node."""
    return Tail(node.result, (), ((node.result, node.result),))


def finish(
    tail: Tail, views: dict[Value, Place], start: str, groups: Sequence[Group], room: Sequence[Place], text: KernelText,
    b: Builder,
) -> None:
    """Compute the tail from the tile `start` and store its results where there is room for them."""
    names = {tail.anchor: start, **{value: load_leaf(text, leaf, groups) for value, leaf in views.items()}}
    known = scalar_lines([n for n in tail.nodes if n.op.name != "quantize"], names, b.number, text.line)
    assert not isinstance(known, str), known
    for (value, _), place in zip(tail.results, room, strict=True):
        store_value(value, place, known, groups, text)


def library_ways(
    node: Node, tail: Tail, views: dict[Value, Place], room: Sequence[Place], b: Builder
) -> list[tuple[str, list[Launch | TorchStep]]]:
    """A library's kernel for a node, and one of ours for its tail: a candidate that only measuring can choose. None where
    operands are encoded."""
    if any(v is not None and v.tensor.encoding != DENSE for v in node.operands):
        return []
    places = [None if v is None else b.read(v) for v in node.operands]
    return [("library", torch_steps(node, places, None, tail, views, room, b, into=_INTO.get(node.op.name)))]


def ours_first(sizes: Numbers, chip: Chip) -> int:
    """The first way, without measuring: our kernel."""
    return 0


def _linear_into(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> None:
    """A linear layer whose result goes to dense memory: leading axes are rows of one product."""
    import torch

    rows, flat_out = torch.atleast_2d(x).flatten(0, -2), torch.atleast_2d(out).flatten(0, -2)
    if bias is None:
        torch.mm(rows, weight.t(), out=flat_out)
    else:
        torch.addmm(bias, rows, weight.t(), out=flat_out)


def _matmul_into(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    import torch

    torch.matmul(a, b, out=out)


_INTO: dict[str, Callable[..., object]] = {"linear": _linear_into, "matmul": _matmul_into}
"""Operators that torch computes into given memory, as they are defined; its convolutions take none."""


def _whole(view: View) -> bool:
    """Whether a view is all of its buffer, in some order of axes."""
    return view.offset == 0 and view.numel == view.buffer.numel


def torch_steps(
    node: Node, inputs: Sequence[Place | None], call: Callable[..., Any] | None, tail: Tail, views: dict[Value, Place],
    room: Sequence[Place], b: Builder, into: Callable[..., object] | None = None,
) -> list[Launch | TorchStep]:
    """A kernel of a library for a node (`call`, `into`: see `TorchStep`), and one of ours for its tail."""
    alone = room[0] if not tail.nodes and len(room) == 1 else None
    direct = isinstance(alone, View) and (alone.is_dense() or (into is None and _whole(alone)))
    shape = node.type.shape
    target = room[0] if direct else b.temp(node.type.dtype, shape)
    assert isinstance(target, View)
    step = TorchStep(node, list(inputs), [target], work_of(node), library=True, call=call, into=into)
    steps: list[Launch | TorchStep] = [step]
    if not direct:
        text = KernelText()
        at = flat(text, shape)
        finish(tail, views, text.load(target, [at]), [at], room, text, b)
        steps.append(b.launch("tail", text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)},
                              kind="pointwise",
                              dtypes=(node.type.dtype.name,)))
    return steps

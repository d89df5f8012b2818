"""Moving quantization in front of views, to what makes the values: its kernel then writes bytes."""

from __future__ import annotations

from dataclasses import dataclass

from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.passes.compress.encode import dense_const

_VIEWS = frozenset({"reshape", "permute", "squeeze", "unsqueeze", "contiguous"})
_MAKERS = frozenset({
    "linear", "matmul", "conv", "conv_transpose", "attention", "avg_pool", "adaptive_avg_pool", "mean",
})


@dataclass(frozen=True)
class _Chain:
    """What lies between a maker and the `quantize` of its result: views, the maker's reader first, then perhaps a `mul`
    with factors, given as a constant that broadcasts against the maker's result."""

    maker: Node
    views: tuple[Node, ...]
    mul: Node | None = None
    factor: Value | None = None
    shape: tuple[int, ...] = ()
    """Of the factors, against the maker's result."""


def quantize_behind_makers(graph: Graph, context: Context) -> int:
    """Quantize what a product, an attention or an average gives instead of a view of it; returns at how many places.

        %a = attention %q, %k, %v                       %a = attention %q, %k, %v
        %p = permute %a {order = [0, 2, 1, 3]}          %c = quantize %a {scale = s, zero = z}
        %r = reshape %p {shape = [B, 128, 384]}         %d = decode %c
        %y = quantize %r {scale = s, zero = z}          %p = permute %d {order = [0, 2, 1, 3]}
                                                        %r = reshape %p {shape = [B, 128, 384]}
                                                        %y = quantize %r {scale = s, zero = z}

    One scale holds for all elements wherever they lie, so that the second quantization changes nothing: a backend that
    keeps views of bytes leaves it out. Smoothing factors of the last axis before %y move in front of %c with their axis.
    """
    done = 0
    for node in list(graph.nodes):
        chain = _chain(node)
        if chain is None or context.excluded("quantize", chain.maker) or not context.allow_rewrite("quantize.views"):
            continue
        _rewrite(graph, node, chain)
        done += 1
    return done


def _rewrite(graph: Graph, node: Node, chain: _Chain) -> None:
    first, value = chain.views[0], chain.maker.results[0]
    with graph.edit("quantize", loc=node.loc) as editor:
        loc = fused("quantize", node.loc, chain.maker.loc)
        if chain.mul is not None and chain.factor is not None:
            weight, source = chain.factor.weight, chain.factor.producer
            assert weight is not None and source is not None
            data, name = weight.decode().reshape(chain.shape), source.attrs["name"]
            factors = dense_const(editor, data, chain.factor.tensor, name, loc=loc, before=first)
            value = editor.add("mul", [value, factors], loc=loc, before=first, name=chain.mul.result.name).result
        coded = editor.add("quantize", [value], node.attrs, loc=loc, before=first, name=f"{value.name}_q").result
        plain = editor.add("decode", [coded], loc=loc, before=first, name=f"{value.name}_d").result
        editor.set_operands(first, (plain,))
        if chain.mul is not None:
            editor.set_operands(node, (chain.views[-1].result,))
            editor.erase(chain.mul)
            for operand in chain.mul.operands:
                if operand is not None and operand.is_const and operand.producer is not None and not operand.uses:
                    editor.erase(operand.producer)


def _chain(node: Node) -> _Chain | None:
    """The chain that ends in a node, where nothing else reads what is in between."""
    if node.op.name != "quantize" or node.attrs["scale"] is None:
        return None
    value = node.operand(0)
    factor = _smoothed(value)
    mul = value.producer if factor is not None else None
    if mul is not None and factor is not None:
        if len(value.uses) != 1:
            return None
        value = next(v for v in mul.operands if v is not None and v is not factor)
    views: list[Node] = []
    while value.producer is not None and value.producer.op.name in _VIEWS and len(value.uses) == 1:
        views.insert(0, value.producer)
        value = value.producer.operand(0)
    maker = value.producer
    if not views or maker is None or maker.op.name not in _MAKERS or len(value.uses) != 1 or len(maker.results) != 1:
        return None
    if value.tensor.encoding != DENSE:
        return None
    if factor is None:
        return _Chain(maker, tuple(views))
    shape = _factor_shape(factor, value, views)
    return None if shape is None else _Chain(maker, tuple(views), mul, factor, shape)


def _smoothed(value: Value) -> Value | None:
    """The constant factors along the last axis that a value was multiplied by."""
    node = value.producer
    if node is None or node.op.name != "mul":
        return None
    for operand, other in (node.operands, tuple(reversed(node.operands))):
        if operand is None or other is None or operand.weight is None or other.is_const:
            continue
        if operand.tensor.encoding == DENSE and operand.tensor.rank == 1 and other.type == value.type:
            return operand
    return None


def _factor_shape(factor: Value, made: Value, views: list[Node]) -> tuple[int, ...] | None:
    """The shape in which factors of the last axis broadcast against what was made, where it is seen permuted and then
    with its last axes as one; None for other views, or where the axes come in another order."""
    if [v.op.name for v in views] != ["permute", "reshape"]:
        return None
    order, before, after = views[0].attrs["order"], views[0].type.shape, views[1].type.shape
    joined = len(before) - len(after) + 1
    if joined < 1 or before[: len(after) - 1] != after[:-1] or not all(isinstance(d, int) for d in before[-joined:]):
        return None
    axes = order[len(order) - joined :]
    if list(axes) != sorted(axes) or factor.tensor.shape != (after[-1],):
        return None
    return tuple(d if i in axes and isinstance(d, int) else 1 for i, d in enumerate(made.tensor.shape))

"""Quantizing what is averaged: average pools and means read bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcomp.ir import dtypes
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.passes.compress.layer import METHODS, activation_of, round_trip
from mcomp.passes.compress.samples import Key, Sample, error_by_row

if TYPE_CHECKING:
    from torch import Tensor

_MAKERS = frozenset({
    "linear", "matmul", "conv", "conv_transpose", "attention", "layer_norm", "rms_norm", "batch_norm", "group_norm",
})
"""Operators whose kernels can end in bytes."""


def averaged_keys(graph: Graph, context: Context) -> list[Key]:
    """What has to be sampled for `average_bytes`."""
    return [_key(node) for node in graph.nodes if _fits(node, context)]


def average_bytes(graph: Graph, context: Context, samples: Mapping[Key, Sample], limit: float) -> int:
    """Quantize what average pools and means read, where a kernel that can write bytes makes it; returns at how many places.

        %y = conv %q, %w                             %y = conv %q, %w
        %m = mean %y {axes = [2, 3]}                 %c = quantize %y {scale = s, zero = z}
                                                     %d = decode %c
                                                     %m = mean %d {axes = [2, 3]}

    With the scale that another reader of %y has, else with one of its own, which needs that nobody else reads %y. Rounding
    may change the averages (of tokens: what is averaged) by at most `limit` (relative L2 error, root mean square over images
    or tokens of the sample).
    """
    done = 0
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        sample = samples.get(_key(node)) if _fits(node, context) else None
        if sample is None or not sample.whole or (sample.low == 0.0 and sample.high == 0.0):
            continue
        coder = _coder(node.operand(0))
        tries = [activation_of(sample, "static", m) for m in METHODS] if coder is None else [coder.attrs]
        attrs, error = min(((a, _error(node, sample, a)) for a in tries if a is not None), key=lambda found: found[1])
        if not error <= limit:
            reason = f"rounding what it averages would change the result by {error:.1%}, more than {limit:.1%}"
            context.missed("quantize", node, reason, "raise residual")
            continue
        if not context.allow_rewrite("quantize.average"):
            break
        _rewrite(graph, node, attrs, coder if coder is not None and order.get(coder, -1) < order[node] else None)
        detail = f"averages {attrs['dtype']}"
        context.record(graph, LedgerEntry("quantize", node.layer, node.name, error=error, detail=detail))
        context.remark("applied", "quantize", node, detail)
        done += 1
    return done


def _fits(node: Node, context: Context) -> bool:
    """Whether a node averages floats that it can have as bytes: over all spatial axes of images, or along tokens."""
    if node.op.name not in ("avg_pool", "adaptive_avg_pool", "mean") or context.target.partition(":")[0] == "cuda":
        return False
    x = node.operand(0)
    axes = sorted(node.attrs.get("axes", range(2, x.tensor.rank)))
    if not axes or axes[0] == 0 or axes != list(range(axes[0], axes[-1] + 1)) or (_is_of_images(node) and axes[0] != 2):
        return False
    if x.tensor.encoding != DENSE or x.tensor.dtype is not dtypes.f32 or context.excluded("quantize", node):
        return False
    return _is_made(x) and (_coder(x) is not None or all(u is node for u in x.users))


def _is_made(value: Value) -> bool:
    """Whether a kernel that can end in bytes makes a value, perhaps with element-wise nodes behind it."""
    from mcomp.ops.elementwise import ElementWise

    node = value.producer
    if node is None or node.op.name in _MAKERS:
        return node is not None
    if not isinstance(node.op, ElementWise):
        return False
    return any(v is not None and v.users == (node,) and _is_made(v) for v in node.operands)


def _key(node: Node) -> Key:
    """Images and their channels, or tokens."""
    return node.operand(0), 1 if _is_of_images(node) else -1


def _is_of_images(node: Node) -> bool:
    return node.op.name != "mean" or node.operand(0).tensor.rank - 1 in node.attrs["axes"]


def _coder(value: Value) -> Node | None:
    """A quantize with a known scale of 8 bits that reads a value."""
    for user in value.users:
        encoding = user.results[0].tensor.encoding if user.op.name == "quantize" else None
        if isinstance(encoding, Affine) and encoding.dtype.bits == 8 and encoding.scale is not None:
            return user
    return None


def _error(node: Node, sample: Sample, attrs: Mapping[str, Any]) -> float:
    rows = sample.rows()
    rough = round_trip(rows, attrs)
    if sample.channel == -1:
        return error_by_row(rough, rows)
    return error_by_row(_average(node, rough), _average(node, rows))


def _average(node: Node, x: Tensor) -> Tensor:
    found: Tensor = node.op.reference([x], node.attrs)
    return found


def _rewrite(graph: Graph, node: Node, attrs: Mapping[str, Any], coder: Node | None) -> None:
    x = node.operand(0)
    loc = fused("quantize", node.loc)
    with graph.edit("quantize", loc=loc) as editor:
        coded = coder.result if coder is not None else \
            editor.add("quantize", [x], attrs, loc=loc, before=node, name=f"{x.name}_q").result
        plain = editor.add("decode", [coded], loc=loc, before=node, name=f"{x.name}_d").result
        editor.set_operands(node, (plain,))

"""Products between activations: which get integer operands, in what ranges, and how much that changes their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.ir import dtypes
from mcomp.ir.encoding import DENSE
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.passes.compress.layer import round_trip
from mcomp.passes.compress.samples import Key, Method, Sample, activation_range, error_by_row, scale_and_zero
from mcomp.passes.compress.untouched import multiplies_floats
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.quantize import Quantize

OPERANDS = {"attention": 3, "matmul": 2}
"""Products between activations, and how many of their operands are multiplied."""
AUTO_ATTENTION = 0.15
"""The error of an attention's result up to which its operands become integers by themselves."""
_FEW = 8
_MEASURED = 8
"""Batches that errors are measured on."""


def activation_products(options: Quantize, nodes: Iterable[Node], context: Context) -> list[Node]:
    """Those of some nodes that are products between activations whose operands may become integers."""
    given = context.calibration is not None and context.calibration.given
    static = options.activations == "static" or (options.bits == 8 and options.activations == "auto")
    if options.attention is False or (options.attention == "auto" and not (given and static)):
        return []
    found = []
    for node in nodes:
        count = OPERANDS.get(node.op.name, 0)
        if not count or (options.attention == "auto" and node.op.name != "attention") or context.excluded("quantize", node):
            continue
        if options.attention == "auto" and not _pays(node):
            context.missed("quantize", node, f"with {node.operand(0).tensor.shape[-2]} queries, its operands stay floats: "
                           "reading keys and values takes the time", "use attention=true")
            continue
        if any(v is None or v.tensor.encoding != DENSE or not v.tensor.dtype.is_float or v.is_const
               for v in node.operands[:count]) or multiplies_floats("quantize", node, context):
            continue
        found.append(node)
    return found


def _pays(node: Node) -> bool:
    """Whether attention over integers is faster: with a few queries, reading keys and values takes the time."""
    queries = node.operand(0).tensor.shape[-2]
    return not isinstance(queries, int) or queries > _FEW


def quantize_products(
    options: Quantize, graph: Graph, context: Context, nodes: list[Node], samples: Mapping[Key, Sample]
) -> int:
    """Make the operands of these products integers, where the errors of their results allow; returns of how many."""
    ranges: dict[Node, list[dict[str, Any]]] = {}
    for node in nodes:
        found = product_ranges(options, node, samples)
        if found is None:
            operands = node.operands[: OPERANDS[node.op.name]]
            reached = all(v is not None and samples[v, -1].values for v in operands)
            reason = "an operand was zero in all calibration data" if reached else "calibration data never reached it"
            context.missed("quantize", node, reason, "give data that uses it")
        else:
            ranges[node] = found
    if not ranges:
        return 0
    assert context.calibration is not None
    errors = product_errors(graph, context.calibration, ranges, options.limit)
    return sum(_apply(options, graph, context, node, ranges[node], errors[node]) for node in ranges)


def _apply(
    options: Quantize, graph: Graph, context: Context, node: Node, ranges: list[dict[str, Any]], error: float
) -> bool:
    limit = context.option(node, "max_error", options.max_error)
    if options.attention == "auto":
        limit = min(limit, AUTO_ATTENTION)
    if not error <= limit:
        remedy = "use attention=true, or raise max_error" if options.attention == "auto" else "raise max_error"
        context.missed("quantize", node, f"its output would change by {error:.1%}, more than {limit:.1%}", remedy)
        return False
    if not context.allow_rewrite("quantize"):
        return False
    rewrite_product(graph, node, ranges)
    detail = "operands i8 static"
    context.record(graph, LedgerEntry("quantize", node.layer, node.name, error=error, detail=detail))
    context.remark("applied", "quantize", node, detail)
    return True


def rewrite_product(graph: Graph, node: Node, ranges: Sequence[Mapping[str, Any]]) -> None:
    """Quantize the operands of a product, each with the attributes that it has in `ranges`."""
    with graph.edit("quantize", loc=node.loc) as editor:
        loc = fused("quantize", node.loc)
        operands = list(node.operands)
        for i, attrs in enumerate(ranges):
            value = node.operand(i)
            operands[i] = editor.add("quantize", [value], attrs, loc=loc, before=node, name=f"{value.name}_q").result
        editor.set_operands(node, tuple(operands))
        editor.set_loc(node, loc)


def product_ranges(options: Quantize, node: Node, samples: Mapping[Key, Sample]) -> list[dict[str, Any]] | None:
    """Static symmetric parameters for the operands of a product; None when calibration never reached it, or showed nothing
    but zeros of one."""
    found = []
    for value in node.operands[: OPERANDS[node.op.name]]:
        assert value is not None
        sample = samples[value, -1]
        if not sample.values:
            return None
        method: Method = "mse" if options.ranges == "auto" else options.ranges
        low, high = activation_range(sample, method, options.percentile, 256)
        if low == high:
            return None
        scale, zero = scale_and_zero(low, high, unsigned=False)
        found.append({"dtype": dtypes.i8, "scale": scale, "zero": zero})
    return found


def product_errors(
    graph: Graph, calibration: Calibration, ranges: Mapping[Node, Sequence[Mapping[str, Any]]], limit: int
) -> dict[Node, float]:
    """The relative L2 error of each product's result (root mean square over its rows) with integer operands, and for
    attention weights in 255ths of a row's largest, on a few batches."""
    import torch

    from mcomp.ops.evaluate import run_graph

    wanted = {v for node in ranges for v in node.operands if v is not None}
    squares: dict[Node, list[float]] = {node: [] for node in ranges}
    held: dict[Value, Any] = {}

    def observe(node: Node, outputs: Sequence[Any]) -> None:
        held.update((v, x) for v, x in zip(node.results, outputs) if v in wanted)
        if node in ranges:
            given = [None if v is None else held[v] for v in node.operands]
            exact = outputs[0].float()
            rough = _rough(node, given, ranges[node]).float()
            squares[node].append(error_by_row(_rows(rough), _rows(exact)) ** 2)

    batches = calibration.batches[:limit]
    with torch.no_grad():
        for batch in batches[:: max(1, len(batches) // _MEASURED)][:_MEASURED]:
            given = calibration.inputs(graph, batch)
            held.update((v, x) for v, x in zip(graph.inputs, given) if v in wanted)
            run_graph(graph, given, observe=observe)
            held.clear()
    return {node: (sum(found) / len(found)) ** 0.5 if found else 0.0 for node, found in squares.items()}


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _rough(node: Node, inputs: Sequence[Any], ranges: Sequence[Mapping[str, Any]]) -> Tensor:
    given = [round_trip(x, attrs) for x, attrs in zip(inputs, ranges)]
    if node.op.name != "attention":
        result: Tensor = node.op.reference(given, node.attrs)
        return result
    query, key, value = given
    return rounded_attention(query, key, value, inputs[3] if len(inputs) > 3 else None, node.attrs)


def rounded_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attrs: Mapping[str, Any]
) -> Tensor:
    """Attention (see the operator) with each row's exponentials, divided by the largest, rounded to 255ths, then
    normalized."""
    import torch

    if attrs["grouped"]:
        share = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(share, -3) for x in (key, value))
    scale = attrs["scale"] if attrs["scale"] is not None else max(query.shape[-1], 1) ** -0.5
    scores = query.float() @ key.float().transpose(-1, -2) * scale
    lowest = float("-inf")
    if mask is not None:
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    if attrs["causal"]:
        kept = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~kept, lowest)
    if scores.shape[-1] == 0:
        return scores @ value.float()
    top = scores.amax(-1, keepdim=True)
    weights = torch.round(255 * torch.exp(scores - torch.where(top == lowest, 0.0, top)))
    total = weights.sum(-1, keepdim=True)
    return weights @ value.float() / torch.where(total == 0, 1.0, total)

"""Products between activations: ranges for their operands, and how much integers change their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcomp.ir import dtypes
from mcomp.ir.graph import Graph, Node, Value
from mcomp.passes.compress.layer import round_trip
from mcomp.passes.compress.samples import Key, Method, Sample, activation_range, error_by_row, scale_and_zero
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.quantize import Quantize

OPERANDS = {"attention": 3, "matmul": 2}
"""Products between activations, and how many of their operands are multiplied."""
_MEASURED = 8
"""Batches that errors are measured on."""


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

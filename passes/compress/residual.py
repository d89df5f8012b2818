"""Letting sums read the bytes that products read, so that residual values need not be kept as floats."""

from __future__ import annotations

from collections.abc import Mapping

from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Graph, LedgerEntry, Node
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.passes.compress.layer import round_trip
from mcomp.passes.compress.samples import Key, Sample, error_by_row, sample_of


def residual_bytes(graph: Graph, context: Context, samples: Mapping[Key, Sample], limit: float) -> int:
    """Where all readers of a value are one quantize and sums, let the sums read what was quantized; returns how many values
    did so.

        %q = quantize %x {scale = s, zero = z}       %q = quantize %x {scale = s, zero = z}
        %c = conv %q, %w                             %c = conv %q, %w
        %y = add %c, %x                              %d = decode %q
                                                     %y = add %c, %d

    Slices, and pads with zeros, may stand between. What computes %x then writes bytes alone, and the sum reads bytes.
    `limit`: values that rounding changes by more (relative L2 error, root mean square over images or tokens of the sample)
    are kept. The ledger has an entry for the first reader beside the quantize of each.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    done = 0
    for node in list(graph.nodes):
        sums = _sums_beside(node, order)
        if not sums or any(context.excluded("quantize", user) for user in sums):
            continue
        x = node.operand(0)
        sample = sample_of(x, samples)
        if sample is None:
            continue
        rows = sample.rows()
        error = error_by_row(round_trip(rows, node.attrs), rows)
        if not error <= limit:
            reason = f"rounding the residual would change it by {error:.1%}, more than {limit:.1%}"
            context.missed("quantize", sums[0], reason, "raise residual")
            continue
        if not context.allow_rewrite("quantize.residual"):
            break
        loc = fused("quantize", node.loc)
        with graph.edit("quantize", loc=loc) as editor:
            decoded = editor.add("decode", [node.result], loc=loc, before=sums[0], name=f"{x.name}_d").result
            for user in sums:
                editor.set_operands(user, tuple(decoded if v is x else v for v in user.operands))
        detail = f"reads what is added as {node.attrs['dtype']}"
        context.record(graph, LedgerEntry("quantize", sums[0].layer, sums[0].name, error=error, detail=detail))
        context.remark("applied", "quantize", sums[0], detail)
        done += 1
    return done


def _sums_beside(node: Node, order: Mapping[Node, int]) -> list[Node]:
    """The other readers of what a node quantizes to bytes with a known scale, in order; none unless all of them lead to
    sums and come later."""
    if node.op.name != "quantize" or node.attrs["scale"] is None:
        return []
    x, encoding = node.operand(0), node.type.encoding
    if not isinstance(encoding, Affine) or encoding.dtype.bits != 8 or x.producer is None or x.tensor.encoding != DENSE:
        return []
    others = sorted((u for u in x.users if u is not node), key=lambda u: order.get(u, -1))
    if not all(order.get(u, -1) > order[node] and _leads_to_sums(u) for u in others):
        return []
    return others


def _leads_to_sums(node: Node) -> bool:
    """Whether a node is a sum of two tensors of one shape, or moves elements to such sums only."""
    if node.op.name == "add":
        return all(v is not None and v.tensor.shape == node.type.shape for v in node.operands)
    moves = node.op.name == "slice" or (
        node.op.name == "pad" and node.attrs["mode"] == "constant" and node.attrs["value"] == 0.0
    )
    return moves and bool(node.result.users) and all(_leads_to_sums(u) for u in node.result.users)

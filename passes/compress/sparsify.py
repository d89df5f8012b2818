"""Weights with zeros that kernels skip: blocks, or n of every m; chosen by least error, what stays is refitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mcomp.backend import backend_named
from mcomp.ir.encoding import DENSE, NM, BlockSparse, Encoding
from mcomp.ir.graph import Graph, LedgerEntry, Node
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.passes.compress.encode import constant_bytes, dense_const, stored_floats
from mcomp.passes.compress.fitting import fit_behind
from mcomp.passes.compress.ledger import settle
from mcomp.passes.compress.moments import Moments, MomentSource, weight_matrix
from mcomp.passes.compress.readers import TOO_WIDE, tied, too_wide
from mcomp.passes.compress.surgeon import Reader, inverse_of, surgeon_order
from mcomp.passes.compress.untouched import tell_untouched

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.passes.compress.prune import Prune

_OTHERWISE = "use what=[channels,ffn] for it"
_FLOATS = ("f32", "f64", "f16", "bf16")
_ROUNDS = 32
"""Updates of the inverse matrix for one row of blocks."""
_EXACT = 512
"""Inputs up to which each output of an n:m weight is refitted by itself."""


@dataclass(frozen=True)
class Sparse:
    """A sparse weight: its encoding and parts, a new bias, and the relative L2 error of the layer's output."""

    encoding: Encoding
    parts: dict[str, np.ndarray]
    bias: np.ndarray
    error: float


def sparsify(options: Prune, graph: Graph, context: Context) -> int:
    """Make weights of linear layers and pointwise convolutions block-sparse, or of linear layers n:m sparse; returns how
    many."""
    assert context.calibration is not None
    what = "nm" if "nm" in options.kinds else "blocks"
    sizes = ((options.block[0], options.block[1]),) if options.block else backend_named(context.target).zero_blocks()
    handled, lacks = (("linear",), "n:m sparse form") if what == "nm" else (("linear", "conv"), "block-sparse form")
    nodes = [n for n in graph.nodes if n.op.name in handled and not context.excluded("prune", n)]
    tell_untouched("prune", graph, context, handled, lacks, _OTHERWISE)
    ready: list[Node] = []
    blocks: dict[Node, tuple[int, int]] = {}
    for node in nodes:
        block = fitting_block(sizes, node) or sizes[-1]
        reason = sparse_refusal(BlockSparse(block) if what == "blocks" else NM(options.n, options.m), node)
        if reason is not None:
            context.missed("prune", node, *reason)
        elif not tied("prune", node, context, "zeros in it"):
            ready.append(node)
            blocks[node] = block
    source = MomentSource(graph, context.calibration, ready, options.limit)
    chosen: list[tuple[Node, Sparse]] = []
    for node in ready:
        moments = source(node)
        if moments is None:
            context.missed("prune", node, "calibration data never reached it", "give data that uses it")
            continue
        ratio = context.option(node, "ratio", options.ratio)
        found = block_sparse(blocks[node], node, moments, ratio) if what == "blocks" else _pairs(options, node, moments)
        chosen.append((node, found))
    return _store(options, graph, context, chosen)


def _store(options: Prune, graph: Graph, context: Context, chosen: Sequence[tuple[Node, Sparse]]) -> int:
    """Give layers their sparse weights, then fit those behind; returns how many."""
    dense = graph.clone() if options.refit and chosen else None
    size, entries = constant_bytes(graph), len(graph.ledger)
    done: list[Node] = []
    for node, found in chosen:
        if not context.allow_rewrite("prune"):
            break
        store_sparse(graph, context, node, found)
        done.append(node)
    if dense is not None and done:
        first = min(done, key=graph.position)
        fit_behind(graph, dense, context, first, options.limit, "prune", damping=options.damping, variance=options.variance)
        settle(graph, entries, size)
    return len(done)


def fitting_block(sizes: Sequence[tuple[int, int]], node: Node) -> tuple[int, int] | None:
    """The first size of blocks that the weight of a linear or conv can have, or None."""
    return next((size for size in sizes if sparse_refusal(BlockSparse(size), node) is None), None)


def sparse_refusal(encoding: Encoding, node: Node) -> tuple[str, str] | None:
    """Why the weight of a linear or conv cannot become block-sparse, or that of a linear n:m sparse, and what would help;
    None when it can."""
    weight, bias = node.operand(1), node.maybe(2)
    wide = None if node.op.name == "linear" else _not_pointwise(node)
    if wide is not None:
        return f"conv has no block-sparse form {wide}", _OTHERWISE
    if weight.weight is None:
        return "its weight is computed, not constant", "run fold before prune"
    if weight.tensor.encoding != DENSE or weight.tensor.dtype.name not in _FLOATS:
        return f"its weight is {weight.tensor}", "prune before it is compressed"
    if bias is not None and (bias.weight is None or bias.tensor.encoding != DENSE):
        return "its bias is computed, not constant", "run fold before prune"
    if too_wide(node):
        return TOO_WIDE
    reason = encoding.feasible(weight.tensor.with_encoding(encoding))
    remedy = "use other blocks, such as block=[16,4]" if isinstance(encoding, BlockSparse) else "exclude it"
    return None if reason is None else (reason, remedy)


def _not_pointwise(node: Node) -> str | None:
    """What a convolution has that a product of its pixels and a matrix has not."""
    attrs, kernel = node.attrs, node.operand(1).tensor.shape[2:]
    if any(size != 1 for size in kernel):
        return f"with a kernel of {'x'.join(map(str, kernel))}"
    if any(step != 1 for step in attrs["stride"]):
        return f"with a stride of {'x'.join(map(str, attrs['stride']))}"
    if attrs["groups"] != 1:
        return f"with {attrs['groups']} groups"
    return "with padding" if any(pad for pair in attrs["padding"] for pad in pair) else None


def block_sparse(block: tuple[int, int], node: Node, moments: Moments, ratio: float) -> Sparse:
    """A share of the blocks of a layer's weight goes, in the order of the error that they add, each row of blocks refitted
    on the way."""
    return BlockOrder(block, node, moments).sparse(ratio)


class BlockOrder:
    """The order in which the blocks of the weight of a linear or pointwise convolution go."""

    def __init__(self, block: tuple[int, int], node: Node, moments: Moments) -> None:
        import torch

        self.block, self.node, self.moments = block, node, moments
        height, width = block
        self.weight, covariance = weight_matrix(node)[0], moments.covariance[0]
        rows, columns = self.weight.shape[0] // height, self.weight.shape[1] // width
        self.inverse = inverse_of(covariance)
        self.inputs = torch.arange(columns * width).reshape(columns, width)
        step = max(1, columns // _ROUNDS)
        pieces = [self.weight[r * height : (r + 1) * height] for r in range(rows)]
        readers = [Reader(piece, covariance, self.inputs, inverse=self.inverse) for piece in pieces]
        self.orders = [surgeon_order([reader], columns, columns, step) for reader in readers]
        self.prices = np.stack([np.maximum.accumulate(np.diff(o.errors)) for o in self.orders])

    def sparse(self, ratio: float) -> Sparse:
        """The weight without a share of its blocks."""
        import torch

        prices, (rows, columns), height = self.prices, self.prices.shape, self.block[0]
        gone = round(ratio * rows * columns)
        limit = np.sort(prices, axis=None)[gone - 1] if gone else -1.0
        counts = (prices < limit).sum(1)
        for r in np.argsort(np.where(counts < columns, prices[np.arange(rows), np.minimum(counts, columns - 1)], np.inf)):
            if counts.sum() >= gone:
                break
            counts[r] = min(columns, counts[r] + gone - counts.sum()) if prices[r, counts[r]] <= limit else counts[r]
        mask = torch.ones(rows, columns, dtype=torch.bool)
        found = torch.zeros_like(self.weight)
        for r, order in enumerate(self.orders):
            dropped, part = torch.from_numpy(order.units[: counts[r]]), slice(r * height, (r + 1) * height)
            mask[r, dropped] = False
            found[part] = _refit_rows(self.weight[part], self.inverse, self.inputs[dropped].reshape(-1))
        encoding, parts = encode_blocks(found, mask, self.block)
        bias = _bias(self.node, self.weight, found, self.moments)
        return Sparse(encoding, parts, bias, _error(found, self.weight, self.moments))


def _refit_rows(weight: Tensor, inverse: Tensor, gone: Tensor) -> Tensor:
    """The weights [N, K] with zeros at the inputs `gone`, the others moved to make up for them."""
    import torch

    if not len(gone):
        return weight.clone()
    found = weight - weight[:, gone] @ torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
    found[:, gone] = 0.0
    return found


def _error(found: Tensor, weight: Tensor, moments: Moments) -> float:
    """The relative L2 error of the layer's output once the bias makes up for the means."""
    change = found - weight
    whole = float(((weight @ moments.gram[0]) * weight).sum())
    square = float(((change @ moments.covariance[0]) * change).sum())
    return float((max(0.0, square) / whole) ** 0.5) if whole > 0 else 0.0


def encode_blocks(
    weight: Tensor, mask: Tensor, block: tuple[int, int]
) -> tuple[BlockSparse, dict[str, np.ndarray]]:
    """The encoding and parts of a weight [N, K] of which only some blocks, bool[N/rows, K/columns], are stored."""
    kept = mask.numpy()
    height, width = block
    tiles = weight.float().numpy().reshape(kept.shape[0], height, kept.shape[1], width).transpose(0, 2, 1, 3)
    starts = np.zeros(kept.shape[0] + 1, np.int32)
    np.cumsum(kept.sum(1), out=starts[1:])
    encoding = BlockSparse(block, int(kept.sum()))
    return encoding, {
        "values": np.ascontiguousarray(tiles[kept]), "columns": np.nonzero(kept)[1].astype(np.int32), "rows": starts,
    }


def _pairs(options: Prune, node: Node, moments: Moments) -> Sparse:
    """n of every m inputs stay, for every output its own: chosen from left to right, errors passed on to the right
    (Frantar and Alistarh 2023, arXiv:2301.00774), then refitted."""
    import torch

    n, m = options.n, options.m
    weight, covariance = weight_matrix(node)[0], moments.covariance[0]
    inverse = inverse_of(covariance)
    upper = torch.linalg.qr(_root(inverse), mode="r").R
    upper = upper * torch.sign(upper.diagonal())[:, None]
    work = weight.clone()
    mask = torch.zeros_like(weight, dtype=torch.bool)
    diagonal = upper.diagonal().square()
    for start in range(0, weight.shape[1], m):
        piece = slice(start, start + m)
        cost = work[:, piece].square() / diagonal[piece]
        stays = torch.argsort(cost, dim=1, descending=True, stable=True)[:, :n]
        mask[:, piece].scatter_(1, stays, True)
        for k in range(start, start + m):
            lost = torch.where(mask[:, k], 0.0, work[:, k]) / upper[k, k]
            work[:, k:] -= lost[:, None] * upper[k, k:][None, :]
    work[~mask] = 0.0
    if weight.shape[1] <= _EXACT:
        for row in range(len(weight)):
            gone = (~mask[row]).nonzero()[:, 0]
            work[row] = _refit_rows(weight[row : row + 1], inverse, gone)[0]
    encoding, parts = encode_pairs(work, mask, n, m)
    return Sparse(encoding, parts, _bias(node, weight, work, moments), _error(work, weight, moments))


def _root(inverse: Tensor) -> Tensor:
    """R with RᵀR = inverse."""
    import torch

    values, vectors = torch.linalg.eigh((inverse + inverse.T) / 2)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def encode_pairs(weight: Tensor, mask: Tensor, n: int, m: int) -> tuple[NM, dict[str, np.ndarray]]:
    """The encoding and parts of a weight [N, K] of which n of every m inputs are stored, bool[N, K]."""
    places = np.nonzero(mask.numpy().reshape(len(weight), -1, m))[2].reshape(len(weight), -1)
    values = weight.float().numpy()[mask.numpy()].reshape(len(weight), -1)
    return NM(n, m), {"values": np.ascontiguousarray(values), "indices": places.astype(np.uint8)}


def _bias(node: Node, weight: Tensor, found: Tensor, moments: Moments) -> np.ndarray:
    shift = ((weight - found) @ moments.mean[0]).float().numpy()
    held = node.maybe(2)
    return shift if held is None or held.weight is None else held.weight.decode() + shift


def store_sparse(graph: Graph, context: Context, node: Node, found: Sparse) -> None:
    """Give a layer its sparse weight and its bias, with a remark and an entry in the ledger."""
    old, held = node.operand(1), node.maybe(2)
    assert old.producer is not None and old.weight is not None
    type = old.tensor.with_encoding(found.encoding)
    parts = {**found.parts, "values": stored_floats(found.parts["values"], type.dtype)}
    size = constant_bytes(graph)
    with graph.edit("prune", loc=node.loc) as editor:
        loc = fused("prune", node.loc)
        weight = editor.const(
            parts["values"], parts=parts, type=type, name=old.producer.attrs["name"], loc=old.producer.loc, before=node,
        )
        name = held.producer.attrs["name"] if held is not None and held.producer is not None else f"{node.name}.bias"
        bias = dense_const(editor, found.bias, type, name, loc=loc, before=node)
        editor.set_operands(node, (node.operand(0), weight, bias))
        editor.set_loc(node, loc)
        for value, new in ((old, weight), (held, bias)):
            if value is not None and value.producer is not None and not value.uses:
                editor.replace(value, new)
                editor.erase(value.producer)
    saved = size - constant_bytes(graph)
    detail = f"weights {found.encoding}"
    context.record(graph, LedgerEntry("prune", node.layer, node.name, found.error, saved, detail=detail))
    context.remark("applied", "prune", node, detail)

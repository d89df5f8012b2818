"""Embedding tables: rounded to integers, or as narrower tables followed by a linear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.ir.store import Weight
from mcomp.manager.context import Context
from mcomp.ops.encoded import decoded
from mcomp.passes.compress.algebra import spectrum
from mcomp.passes.compress.encode import INTEGERS, constant_bytes, dense_const, encode_rounded, levels_of
from mcomp.passes.compress.factors import rank_step
from mcomp.passes.compress.feedback import round_weight
from mcomp.passes.compress.options import amount
from mcomp.passes.compress.reading import watch
from mcomp.passes.compress.samples import row_errors
from mcomp.runtime.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.ir.edit import Editor
    from mcomp.passes.compress.lowrank import LowRank
    from mcomp.passes.compress.quantize import Quantize

_UNSEEN = 0.5
"""The share of the weight that rows have alike, however often calibration data reads them."""
_GROUPS = (128, 64, 32)
"""Elements of a row with a scale of their own, below 8 bits."""


@dataclass(frozen=True)
class Table:
    """A constant [V, D], the `embedding`s that read its rows, and whether anything else reads it."""

    weight: Weight
    name: str
    nodes: tuple[Node, ...]
    shared: bool

    def rows(self) -> Tensor:
        """The table as float64 [V, D]."""
        import torch

        return torch.from_numpy(np.array(self.weight.decode(), np.float64))


def table_nodes(rule: str, graph: Graph, context: Context) -> list[Table]:
    """The tables of floats that `rule` may change; remarks for the others."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op.name != "embedding" or context.excluded(rule, node):
            continue
        weight = node.operand(0).weight
        if weight is None:
            context.missed(rule, node, "its table is computed, not constant", f"run fold before {rule}")
        elif weight.type.encoding != DENSE or not weight.type.dtype.is_float:
            context.missed(rule, node, f"its table is {weight.type}", f"run {rule} on a table of floats")
        else:
            found.setdefault(weight.digest, []).append(node)
    tables = []
    for digest, nodes in found.items():
        readers = {u for n in graph.nodes if n.op.name == "const" and n.attrs["digest"] == digest for u in n.result.users}
        const = nodes[0].operand(0).producer
        assert const is not None
        tables.append(Table(graph.store.get(digest), const.attrs["name"], tuple(nodes), readers != set(nodes)))
    return tables


def row_usage(graph: Graph, calibration: Calibration, tables: Sequence[Table], limit: int) -> list[Tensor]:
    """For each table how much its rows count [V] float64, in sum 1: by the root of how often calibration data reads them
    (at positions that are relevant, where it tells), because what is read most is padding; equal where it reads none."""
    import torch

    counts = [torch.zeros(table.weight.type.static_shape[0], dtype=torch.float64) for table in tables]
    readers: dict[Value, list[int]] = {}
    for i, table in enumerate(tables):
        for node in table.nodes:
            readers.setdefault(node.operand(1), []).append(i)

    at, marks = 0, calibration.relevant or {}

    def take(value: Value, data: Any) -> None:
        flat = decoded(data).reshape(-1)
        mark = marks.get((at, len(flat)))
        flat = flat if mark is None else flat[mark]
        for i in readers[value]:
            size = len(counts[i])
            counts[i] += torch.bincount(flat[(flat >= 0) & (flat < size)].long(), minlength=size)

    with torch.no_grad():
        for at in range(min(limit, len(calibration))):
            watch(graph, calibration, calibration.batches[at], readers, take)
    roots = [c.sqrt() if bool(c.any()) else torch.ones_like(c) for c in counts]
    return [r / r.sum().clamp(min=1) for r in roots]


def table_error(change: Tensor, rows: Tensor, usage: Tensor) -> float:
    """Root mean square over rows, by `usage`, of their relative L2 change (see `row_errors`)."""
    shares = row_errors(change.square().sum(1), rows.square().sum(1))
    return float((shares * usage)[usage > 0].sum().sqrt())


# integers

def quantize_tables(
    options: Quantize, graph: Graph, context: Context, tables: Sequence[Table], rounded: Mapping[str, Weight]
) -> int:
    """Round tables to integers, a scale for each row, or for groups of its elements below 8 bits; returns how many
    were. `rounded`: by digest, weights that were rounded the same way for other readers, which are shared."""
    if not tables or context.calibration is None:
        return 0
    usage = row_usage(graph, context.calibration, tables, options.limit)
    return sum(_quantize(options, graph, context, t, u, rounded.get(t.weight.digest)) for t, u in zip(tables, usage))


def _quantize(
    options: Quantize, graph: Graph, context: Context, table: Table, usage: Tensor, shared: Weight | None
) -> bool:
    import torch

    node = table.nodes[0]
    bits = int(context.option(node, "bits", options.bits))
    if shared is None and table.shared:
        context.missed("quantize", node, "others read its table and keep it as it is", "quantize them the same way")
        return False
    rows, limit, error = table.rows(), float(context.option(node, "max_error", options.max_error)), float("inf")
    trials: Iterable[tuple[Affine, dict[str, np.ndarray]]]
    if shared is None:
        trials = ((e, _encoded(rows, e, table.weight)) for e in table_encodings(table.weight.type.static_shape, bits))
    else:
        assert isinstance(shared.type.encoding, Affine)
        trials = [(shared.type.encoding, dict(shared.parts))]
    for encoding, parts in trials:
        type = table.weight.type.with_encoding(encoding)
        found = torch.from_numpy(np.array(encoding.decode(parts, type), np.float64))
        error = table_error(found - rows, rows, usage)
        if error <= limit:
            break
    if not error <= limit:
        context.missed("quantize", node, f"its rows would change by {error:.1%}, more than {limit:.1%}", "raise max_error")
        return False
    if not context.allow_rewrite("quantize"):
        return False
    detail = f"table {encoding.dtype}" + (f", groups of {encoding.group}" if encoding.group else "")
    before = constant_bytes(graph)
    with graph.edit("quantize", loc=node.loc) as editor:
        for reader in table.nodes:
            old = reader.operand(0)
            assert old.producer is not None
            new = editor.const(shared or parts["values"], parts=None if shared else parts, type=type, name=table.name,
                               loc=fused("quantize", old.producer.loc), before=reader)
            editor.set_operands(reader, (new, reader.operand(1)))
            editor.set_loc(reader, fused("quantize", reader.loc))
            if not old.uses:
                editor.replace(old, new)
                editor.erase(old.producer)
    saved = before - constant_bytes(graph)
    context.record(graph, LedgerEntry("quantize", node.layer, node.name, error=error, bytes_saved=saved, detail=detail))
    context.remark("applied", "quantize", node, detail)
    return True


def table_encodings(shape: tuple[int, ...], bits: int) -> list[Affine]:
    """How a table [V, D] may be stored, the smallest first: a scale for each row, or, below 8 bits, for groups of its
    elements."""
    groups: list[int | None] = [] if bits == 8 else [g for g in _GROUPS if shape[1] % g == 0]
    return [Affine(INTEGERS[bits], axis=(0,), group=group) for group in groups or [None]]


def _encoded(rows: Tensor, encoding: Affine, like: Weight) -> dict[str, np.ndarray]:
    return encode_rounded(round_weight(rows[None], None, levels_of(encoding)), encoding, like)


# narrower tables

@dataclass(frozen=True)
class TableFactors:
    """A table [V, r], the weight [D, r] and bias [D] of the linear behind it, and the relative error of the rows read."""

    table: Tensor
    weight: Tensor
    bias: Tensor
    error: float

    @property
    def size(self) -> int:
        """Elements of all three."""
        return self.table.numel() + self.weight.numel() + self.bias.numel()


class TableDecomposer:
    """Narrower tables of any rank. Rows weigh as often as they are read, and half of the weight is shared by all."""

    def __init__(self, rows: Tensor, usage: Tensor) -> None:
        weights = _UNSEEN / len(usage) + (1 - _UNSEEN) * usage
        self.rows, self.usage = rows, usage
        self.mean = weights @ rows
        away = rows - self.mean
        values, vectors = spectrum((away * weights[:, None]).T @ away)
        self.variances, self.directions, self._away = values.flip(0), vectors.flip(1), away
        self.energy = float(weights @ rows.square().sum(1))

    def rank_for(self, energy: float) -> int:
        """The least rank, rounded up, that keeps a share of the rows' energy."""
        tails = self.variances.flip(0).cumsum(0).flip(0)
        needed, full = int((tails > (1 - energy) * self.energy).sum()), len(self.variances)
        step = rank_step(full)
        return min(full, max(step, -(-needed // step) * step))

    def rank_of(self, share: float) -> int:
        """The largest rank, in steps, that leaves at most a share of the elements; at least 1."""
        vocabulary, width = self.rows.shape
        fitting, step = int((share * vocabulary - 1) * width / (vocabulary + width)), rank_step(width)
        return max(1, min(width, fitting // step * step or fitting))

    def factors(self, rank: int) -> TableFactors:
        """The table and linear of a rank."""
        chosen = self.directions[:, :rank]
        narrow = self._away @ chosen
        error = table_error(narrow @ chosen.T - self._away, self.rows, self.usage)
        return TableFactors(narrow, chosen, self.mean, error)


def factor_tables(options: LowRank, graph: Graph, context: Context, tables: Sequence[Table]) -> int:
    """Make tables narrower, where that leaves fewer bytes; returns how many were."""
    if not tables or context.calibration is None:
        return 0
    usage = row_usage(graph, context.calibration, tables, options.limit)
    return sum(_factor(options, graph, context, table, used) for table, used in zip(tables, usage))


def _factor(options: LowRank, graph: Graph, context: Context, table: Table, usage: Tensor) -> bool:
    node = table.nodes[0]
    if table.shared:
        context.missed("lowrank", node, "others read its table and keep it as it is", f'exclude "{node.layer}"')
        return False
    rows = table.rows()
    decomposer = TableDecomposer(rows, usage)
    factors = decomposer.factors(_table_rank(options, node, context, decomposer))
    limit = float(context.option(node, "max_error", options.max_error))
    if factors.error > limit:
        context.missed("lowrank", node, f"its rows would change by {factors.error:.1%}, more than {limit:.1%}",
                       "raise max_error, energy or ratio")
        return False
    share = factors.size / rows.numel()
    if share > options.gain:
        context.missed("lowrank", node, f"rank {factors.weight.shape[1]} would leave {share:.0%} of its bytes",
                       "lower energy, or raise gain")
        return False
    return factor_table(graph, context, table, factors)


def factor_table(graph: Graph, context: Context, table: Table, factors: TableFactors) -> bool:
    """Put a narrower table and linears in the place of embeddings, with a remark and an entry in the ledger; False where no
    rewrite is allowed any more."""
    if not context.allow_rewrite("lowrank"):
        return False
    node = table.nodes[0]
    layer, name = node.layer, node.name
    before = constant_bytes(graph)
    vocabulary, width = table.weight.type.static_shape
    detail = f"table of rank {factors.weight.shape[1]}, {factors.size / (vocabulary * width):.0%} of the elements"
    context.remark("applied", "lowrank", node, detail)
    with graph.edit("lowrank", loc=node.loc) as editor:
        for reader in table.nodes:
            _replace(editor, reader, table, factors)
    saved = before - constant_bytes(graph)
    context.record(graph, LedgerEntry("lowrank", layer, name, error=factors.error, bytes_saved=saved, detail=detail))
    return True


def _replace(editor: Editor, node: Node, table: Table, factors: TableFactors) -> None:
    loc, type = fused("lowrank", node.loc), table.weight.type
    old = node.operand(0).producer
    assert old is not None
    parts = {"in": factors.table, "out": factors.weight, "bias": factors.bias}
    consts = {
        part: dense_const(editor, data.numpy(), type, f"{table.name}.{part}", loc=fused("lowrank", old.loc), before=node)
        for part, data in parts.items()
    }
    narrow = editor.add("embedding", [consts["in"], node.operand(1)], loc=loc, before=node, name=f"{node.name}_in").result
    wide = editor.add("linear", [narrow, consts["out"], consts["bias"]], loc=loc, before=node, name=f"{node.name}_out")
    editor.replace_node(node, wide.results)
    if not old.result.uses:
        editor.erase(old)


def _table_rank(options: LowRank, node: Node, context: Context, decomposer: TableDecomposer) -> int:
    name, value = amount(options, node, context)
    if name == "rank":
        return min(int(value), decomposer.rows.shape[1])
    return decomposer.rank_of(value) if name == "ratio" else decomposer.rank_for(value)

"""Treatments of single layers: what they are, graphs to time them, and giving them to a graph."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from mcomp.ir import dims, dtypes
from mcomp.ir.encoding import DENSE, BlockSparse, Encoding
from mcomp.ir.extract import extract
from mcomp.ir.graph import Graph, Node
from mcomp.ir.types import TensorType
from mcomp.manager.context import Context
from mcomp.passes.compress.encode import constant_bytes, with_integers
from mcomp.passes.compress.factors import Factors, Scheme, factor_shapes, full_rank, schemes_for
from mcomp.passes.compress.fitting import fit_behind
from mcomp.passes.compress.layer import integers_for
from mcomp.passes.compress.ledger import settle
from mcomp.passes.compress.lowrank import decomposer_of, factor_layer, infeasible
from mcomp.passes.compress.moments import MomentSource
from mcomp.passes.compress.products import OPERANDS
from mcomp.passes.compress.quantize import Quantize
from mcomp.passes.compress.readers import tied
from mcomp.passes.compress.recurrent import RECURRENT
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.sparsify import Sparse, block_sparse, sparse_refusal, store_sparse
from mcomp.passes.compress.tables import Table, TableDecomposer, factor_table, row_usage, table_nodes

if TYPE_CHECKING:
    from torch import Tensor

Activations = Literal["static", "dynamic", "none"]
Precision = tuple[int | None, Activations]
"""Bits of weights (None: floats), and how what they are multiplied by becomes integers."""
FLOAT: Precision = (None, "none")


@dataclass(frozen=True)
class Treatment:
    """What is done to one layer: factors of given ranks (for a table: its width), blocks of which a share goes, bits of the
    weights (None: floats) and how what they are multiplied by becomes integers. In this order, where there are several."""

    scheme: Scheme | Literal["table"] | None = None
    ranks: tuple[int, ...] = ()
    block: tuple[int, int] | None = None
    gone: float = 0.0
    bits: int | None = None
    activations: Activations = "none"

    def __str__(self) -> str:
        """As `parse` reads it: `tucker 8x12, int8 static`, `blocks 32x4 without 0.5`, `int4`, `float`."""
        words = []
        if self.scheme is not None:
            words.append(f"{self.scheme} {'x'.join(map(str, self.ranks))}")
        if self.block is not None:
            words.append(f"blocks {self.block[0]}x{self.block[1]} without {self.gone!r}")
        if self.bits is not None:
            words.append(f"int{self.bits}" + ("" if self.activations == "none" else f" {self.activations}"))
        return ", ".join(words) or "float"

    @classmethod
    def parse(cls, text: str) -> Treatment:
        """A treatment from text. Raises ValueError."""
        found = cls()
        for part in (p.strip() for p in text.split(",")):
            if part == "float":
                continue
            if match := re.fullmatch(r"(channel|spatial|table) (\d+)|(tucker) (\d+)x(\d+)", part):
                kind, *ranks = (g for g in match.groups() if g is not None)
                found = replace(found, scheme=cast(Scheme, kind), ranks=tuple(map(int, ranks)))
            elif match := re.fullmatch(r"blocks (\d+)x(\d+) without (\d*\.?\d+)", part):
                found = replace(found, block=(int(match[1]), int(match[2])), gone=float(match[3]))
            elif match := re.fullmatch(r"int([2348])(?: (static|dynamic))?", part):
                found = replace(found, bits=int(match[1]), activations=cast(Activations, match[2] or "none"))
            else:
                raise ValueError(f"{part!r} is no treatment")
        if found.scheme is not None and (found.block is not None or 0 in found.ranks):
            raise ValueError(f"{text!r} cannot be had")
        if found.gone > 1.0 or (found.block is not None and 0 in found.block):
            raise ValueError(f"{text!r}: blocks have rows and columns, and at most all of them (1.0) go")
        return found


KEEP = Treatment()
"""A layer as it is."""


@dataclass(frozen=True)
class Part:
    """One of the layers that a treatment leaves in the place of one: its weight, attributes, and how it is stored before
    rounding."""

    weight: Tensor
    attrs: Mapping[str, Any]
    encoding: Encoding = DENSE
    mask: Tensor | None = None


def mode_of(node: Node, activations: Activations) -> Activations:
    """Convolutions have no dynamic activations."""
    return "static" if node.op.name == "conv" and activations == "dynamic" else activations


def part_type(node: Node, part: Part, precision: Precision) -> TensorType:
    """The type of a part's weight at a precision."""
    type = TensorType(tuple(part.weight.shape), node.operand(1).tensor.dtype, part.encoding)
    bits, activations = precision
    if bits is None:
        return type
    return type.with_encoding(with_integers(part.encoding, integers_for(bits, activations, node.op.name, type)))



# pieces to time

_PASSED = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean")
"""Operators, besides element-wise ones and views, between layers that multiply bytes, on which they work as well."""


def gives_bytes(node: Node) -> bool:
    """Whether what a layer gives goes to products only, through element-wise operators, pools and views: where these
    multiply bytes, it stores bytes."""
    from mcomp.ops.elementwise import ElementWise

    seen: set[Node] = set()
    queue, products = [node], 0
    while queue:
        for user in (u for value in queue.pop().results for u in value.users):
            if user is node.graph.returns:
                return False
            if user.op.name in ("linear", "conv"):
                products += 1
            elif not (isinstance(user.op, ElementWise) or user.op.view or user.op.name in _PASSED):
                return False
            elif user not in seen:
                seen.add(user)
                queue.append(user)
    return products > 0


def piece(node: Node, treatment: Treatment, *, bytes_behind: bool | None = None) -> Graph:
    """A graph of one linear or conv after a treatment, with what makes its integers, and weights of zeros: it takes the
    time that the real one takes. Which blocks go is made up. `bytes_behind`: whether it gives bytes where it multiplies
    such of a known range; None: as `gives_bytes` says of the node."""
    graph = extract([node]).graph
    target = next(n for n in graph.nodes if n.op.name == node.op.name)
    old, bias = target.operand(1).producer, target.maybe(2)
    precision: Precision = (treatment.bits, treatment.activations)
    with graph.edit("piece") as editor:
        value, parts = target.operand(0), _empty(target, treatment)
        for i, part in enumerate(parts):
            if treatment.activations != "none":
                static = mode_of(target, treatment.activations) == "static"
                how = {"dtype": dtypes.u8, "scale": 0.05, "zero": 128} if static else {"dtype": dtypes.i8}
                value = editor.add("quantize", [value], how, before=target).result
            type = part_type(target, part, precision)
            const = editor.const(np.zeros(0), parts=_zeros(type, part), type=type, name=f"w{i}", before=target)
            last = bias if i == len(parts) - 1 else None
            value = editor.add(target.op, [value, const, last], part.attrs, before=target).result
        if treatment.activations == "static" and (gives_bytes(node) if bytes_behind is None else bytes_behind):
            value = editor.add("quantize", [value], {"dtype": dtypes.u8, "scale": 0.05, "zero": 128}, before=target).result
            value = editor.add("decode", [value], before=target).result
        editor.replace_node(target, [value])
        if old is not None and not old.result.uses:
            editor.erase(old)
    return graph


def _empty(node: Node, treatment: Treatment) -> tuple[Part, ...]:
    return untouched_parts(node.operand(1).tensor.static_shape, node.attrs, treatment, node.op.name == "conv")


def untouched_parts(
    shape: Sequence[int], attrs: Mapping[str, Any], treatment: Treatment, conv: bool
) -> tuple[Part, ...]:
    """What a treatment leaves of a weight of some shape: parts of the right shapes, without numbers."""
    import torch

    if treatment.scheme is not None:
        assert treatment.scheme != "table"
        shapes = factor_shapes(treatment.scheme, treatment.ranks, shape, dict(attrs) if conv else None)
        return tuple(Part(torch.zeros(1).expand(s), a or attrs) for s, a in shapes)
    if treatment.block is None:
        return (Part(torch.zeros(1).expand(*shape), attrs),)
    height, width = treatment.block
    order = np.random.default_rng(0).permutation(shape[0] // height * (shape[1] // width))
    kept = (order >= round(treatment.gone * order.size)).reshape(shape[0] // height, -1)
    mask = torch.from_numpy(np.kron(kept, np.ones(treatment.block, bool)))
    zeros = torch.zeros(1).expand(*shape)
    return (Part(zeros, attrs, BlockSparse(treatment.block, int(kept.sum())), mask),)


def _zeros(type: TensorType, part: Part) -> dict[str, np.ndarray]:
    parts = {
        name: np.zeros(tuple(dims.evaluate(d, {}) for d in buffer.shape), buffer.dtype.numpy)
        for name, buffer in type.encoding.buffers(type).items()
    }
    if isinstance(type.encoding, BlockSparse) and part.mask is not None:
        kept = part.mask.numpy()[:: type.encoding.block[0], :: type.encoding.block[1]]
        parts["columns"][:] = np.nonzero(kept)[1]
        parts["rows"][1:] = kept.sum(1).cumsum()
    return parts


# rewriting

def apply(
    graph: Graph, context: Context, chosen: Mapping[str, Treatment], options: Quantize | None = None, limit: int = 128, *,
    refit: bool = True,
) -> None:
    """Give layers, by the name of their node, their treatments: factors and blocks first, then integers, each by what
    calibration data shows of the graph as it is then. `options`: how integers are chosen; bits and activations are those of
    the treatments. `refit`: before integers, fit the layers behind factors and blocks to what they gave. Measured errors go
    to the ledger; none is too large. Names that the graph does not have are left out."""
    assert context.calibration is not None
    mark_relevant(graph, context, limit)
    nodes = {n.name: n for n in graph.nodes if n.name in chosen}
    chosen = {name: treatment for name, treatment in chosen.items() if name in nodes}
    _tell_strangers(chosen, nodes, context)
    names = {name: [name] for name in chosen}
    _thin_tables(graph, context, chosen, nodes, names, limit)
    thinner = [n for n, t in chosen.items() if _thins(t) and _may_thin(nodes[n], t, context)]
    source = MomentSource(graph, context.calibration, [nodes[n] for n in thinner], limit)
    rewrites: list[tuple[str, Factors | Sparse]] = []
    for name in thinner:
        node, treatment, moments = nodes[name], chosen[name], source(nodes[name])
        if moments is None:
            rule = "lowrank" if treatment.block is None else "prune"
            context.missed(rule, node, "calibration data never reached it", "give data that uses it")
        elif treatment.block is not None:
            rewrites.append((name, block_sparse(treatment.block, node, moments, treatment.gone)))
        elif treatment.scheme is not None and treatment.scheme != "table":
            rewrites.append((name, decomposer_of(node, moments).factors(treatment.scheme, treatment.ranks)))
    dense = graph.clone() if refit and rewrites else None
    size, entries = constant_bytes(graph), len(graph.ledger)
    changed: list[Node] = []
    for name, found in rewrites:
        if isinstance(found, Factors):
            made = factor_layer(graph, context, nodes[name], found)
            names[name] = [n.name for n in made]
            changed += made
        elif context.allow_rewrite("prune"):
            store_sparse(graph, context, nodes[name], found)
            changed.append(nodes[name])
    if dense is not None and changed:
        fit_behind(graph, dense, context, min(changed, key=graph.position), limit)
        settle(graph, entries, size)
    kinds: dict[Precision, set[str]] = {}
    for name, treatment in chosen.items():
        if treatment.bits is not None and _no_integers(nodes[name], treatment) is None:
            kinds.setdefault((treatment.bits, treatment.activations), set()).update(names[name])
    for (bits, activations), some in kinds.items():
        run = replace(options or Quantize(), bits=bits or 8, activations=activations, max_error=float("inf"), attention=True)
        run.run_on(graph, context, [n for n in graph.nodes if n.name in some])


def _thins(treatment: Treatment) -> bool:
    return treatment.scheme not in (None, "table") or treatment.block is not None


def _tell_strangers(chosen: Mapping[str, Treatment], nodes: Mapping[str, Node], context: Context) -> None:
    """Remarks for what can be no integers, or no narrower table."""
    for name, treatment in chosen.items():
        kind, refused = nodes[name].op.name, _no_integers(nodes[name], treatment)
        if treatment.bits is not None and refused is not None:
            context.missed("quantize", nodes[name], *refused)
        if treatment.scheme == "table" and kind != "embedding":
            context.missed("lowrank", nodes[name], f"%{name} is a {kind}, which has no table", "name embeddings")


def _no_integers(node: Node, treatment: Treatment) -> tuple[str, str] | None:
    """Why a node cannot have the integers of a treatment, and what would help."""
    kind, precision = node.op.name, (treatment.bits, treatment.activations)
    if kind in OPERANDS:
        reason = f"%{node.name} is a {kind}, whose operands are integers of 8 bits in static ranges or floats"
        return None if precision == (8, "static") else (reason, "use int8 static")
    if kind in ("linear", "conv", "embedding", *RECURRENT):
        return None
    return f"%{node.name} is a {kind}, which has no integers here", "name products, recurrent layers and embeddings"


def _may_thin(node: Node, treatment: Treatment, context: Context) -> bool:
    """Whether a layer can be factorized, or made sparse; a remark where not."""
    rule = "lowrank" if treatment.block is None else "prune"
    if context.excluded(rule, node):
        return False
    reason: tuple[str, str] | None
    if node.op.name not in ("linear", "conv"):
        reason = "it is no linear or conv", "name linear and conv nodes"
    elif treatment.block is not None:
        reason = sparse_refusal(BlockSparse(treatment.block), node)
    else:
        reason = infeasible(node) or _no_such_factors(node, treatment)
    if reason is not None:
        context.missed(rule, node, *reason)
    return reason is None and not tied(rule, node, context, "factors or blocks")


def _no_such_factors(node: Node, treatment: Treatment) -> tuple[str, str] | None:
    """Why a feasible linear or conv has no factors of a treatment's kind and ranks, and what would help."""
    shape, scheme = node.operand(1).tensor.static_shape, treatment.scheme
    known = schemes_for(shape)
    if scheme not in known:
        return f"a weight of shape {list(shape)} has no {scheme} factors", f"use {' or '.join(known)}"
    most = (shape[1], full_rank(scheme, shape)) if scheme == "tucker" else (full_rank(scheme, shape),)
    if any(rank > limit for rank, limit in zip(treatment.ranks, most, strict=True)):
        ranks, limits = ("x".join(map(str, some)) for some in (treatment.ranks, most))
        return f"{scheme} {ranks} is more than the full rank, {limits}", "use lower ranks"
    return None


def _thin_tables(
    graph: Graph, context: Context, chosen: Mapping[str, Treatment], nodes: Mapping[str, Node], names: dict[str, list[str]],
    limit: int,
) -> None:
    wanted = {nodes[n]: t.ranks[0] for n, t in chosen.items() if t.scheme == "table"}
    if not wanted or context.calibration is None:
        return
    tables = [t for t in table_nodes("lowrank", graph, context) if t.nodes[0] in wanted]
    _tell_tables(tables, wanted, context)
    tables = [t for t in tables if not t.shared and wanted[t.nodes[0]] <= t.weight.type.static_shape[1]]
    for table, usage in zip(tables, row_usage(graph, context.calibration, tables, limit)):
        name = table.nodes[0].name
        factors = TableDecomposer(table.rows(), usage).factors(wanted[table.nodes[0]])
        if factor_table(graph, context, table, factors):
            names[name] = [f"{name}_in", name]


def _tell_tables(tables: Sequence[Table], wanted: Mapping[Node, int], context: Context) -> None:
    """Remarks for embeddings whose tables cannot be of the width that is wanted."""
    known = {t.nodes[0]: t for t in tables}
    for node, width in wanted.items():
        if node.op.name != "embedding" or context.excluded("lowrank", node):
            continue
        table = known.get(node)
        if table is None:
            context.missed("lowrank", node, "it is not the first reader of a plain table", "name the first one")
        elif table.shared:
            context.missed("lowrank", node, "others read its table and keep it as it is", "leave its treatment away")
        elif width > table.weight.type.static_shape[1]:
            context.missed("lowrank", node, f"its table is {table.weight.type.static_shape[1]} wide, less than {width}",
                           "use a smaller width")

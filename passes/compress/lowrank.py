"""`lowrank`: layers as products of narrower ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mcomp.errors import PassError
from mcomp.ir.encoding import DENSE
from mcomp.ir.extract import extract
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.ir.loc import fused
from mcomp.manager.context import Context
from mcomp.manager.passes import NONE, Pass, PassEffect, PassResult, register_pass
from mcomp.passes.compress.encode import constant_bytes, dense_const
from mcomp.passes.compress.factors import Decomposer, Factors, Scheme
from mcomp.passes.compress.fitting import fit_behind
from mcomp.passes.compress.ledger import settle
from mcomp.passes.compress.moments import Moments, MomentSource, weight_matrix
from mcomp.passes.compress.options import amount, check_layers, check_limit
from mcomp.passes.compress.readers import TOO_WIDE, tied, too_wide
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.tables import factor_tables, table_nodes
from mcomp.passes.compress.untouched import tell_untouched

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.ir.edit import Editor

_FASTER = 0.98
"""Measured time after, as a share of that before, above which a layer stays as it was."""


@register_pass
@dataclass(frozen=True)
class LowRank(Pass):
    """Weights of linear and conv as products of two or three thinner ones, where that is less work.

    before:
        %w = const @fc.weight#9f3a : f32[512, 512]
        %y = linear %x, %w, %b : f32[B, 512]
    after:
        %v = const @fc.weight.in#77b0 : f32[64, 512]
        %h = linear %x, %v : f32[B, 64]
        %u = const @fc.weight.out#1c02 : f32[512, 64]
        %y = linear %h, %u, %b : f32[B, 512]

    The factors have the least error of the layer's output on calibration data (`mcomp.passes.compress.factors`), and the
    bias takes up its mean.

    energy: the share of the output's energy to keep; ranks are as small as that allows (0.99 unless another option says
        how much). rank: the same rank everywhere. ratio: operations left, as a share of the layer's. What `layers` gives of
        these for a layer stands in the place of all three.
    max_error: a layer whose output changes by more (relative L2 error) stays whole.
    conv: spatial (k x 1, then 1 x k), tucker (1 x 1, k x k, 1 x 1), channel (k x k, then 1 x 1); auto takes the one with
        the fewest operations, or with the least error where `ratio` or `rank` says how many; none leaves convolutions.
    tables: embedding tables become narrower ones followed by a linear; auto: unless the objective is latency.
    refit: then fit, in order, the last factors and the layers behind to what they gave before.
    gain: a layer stays whole unless the operations left are at most this share.
    measured: time each layer before and after on the target (kept in the cost table) and keep only those that are faster.
    limit: at most so many calibration batches are used.
    """

    name = "lowrank"
    effect = PassEffect.APPROXIMATE

    energy: float | None = None
    rank: int | None = None
    ratio: float | None = None
    max_error: float = 0.25
    conv: Literal["auto", "channel", "spatial", "tucker", "none"] = "auto"
    tables: bool | Literal["auto"] = "auto"
    refit: bool = True
    gain: float = 0.9
    measured: bool = False
    limit: int = 128

    def check(self, graph: Graph, context: Context) -> None:
        given = [name for name in ("energy", "rank", "ratio") if getattr(self, name) is not None]
        if len(given) > 1:
            raise PassError(f"lowrank: {' and '.join(given)} exclude each other", code="MC0204", help="give one of them")
        check_limit("lowrank", self.limit)
        self._check_values()
        check_layers(self, graph, context, ("energy", "rank", "ratio", "max_error"), LowRank._check_values)
        if context.calibration is None:
            raise PassError("lowrank: ranks are chosen on calibration data, and there is none", code="MC0205",
                            help="pass calibration=[...] or example inputs")

    def _check_values(self) -> None:
        """Raise PassError for numbers out of range."""
        if self.energy is not None and not 0.0 < self.energy <= 1.0:
            raise PassError(f"lowrank: energy is {self.energy}", code="MC0204", help="use a share of 1, such as 0.99")
        if self.ratio is not None and not 0.0 < self.ratio <= 1.0:
            raise PassError(f"lowrank: ratio is {self.ratio}", code="MC0204", help="use a share of 1, such as 0.5")
        if self.rank is not None and self.rank < 1:
            raise PassError(f"lowrank: rank is {self.rank}", code="MC0204", help="use at least 1")

    def run(self, graph: Graph, context: Context) -> PassResult:
        assert context.calibration is not None
        mark_relevant(graph, context, self.limit)
        nodes = [n for n in graph.nodes if n.op.name in ("linear", "conv") and self._feasible(n, context)]
        tell_untouched("lowrank", graph, context, ("linear", "conv"), "low-rank form", "prune or quantize it instead")
        source = MomentSource(graph, context.calibration, _by_value(nodes), self.limit)
        chosen: dict[Node, Factors] = {}
        for node in _by_value(nodes):
            moments = source(node)
            if moments is None:
                context.missed("lowrank", node, "calibration data never reached it", "give data that uses it")
                continue
            factors = self._choose(node, moments, context)
            if factors is not None:
                chosen[node] = factors
        if self.measured:
            chosen = self._faster(graph, context, chosen)
        count = self._rewrite(graph, context, [(n, chosen[n]) for n in nodes if n in chosen])
        wanted = self.tables is True or (self.tables == "auto" and context.objective != "latency")
        tables = factor_tables(self, graph, context, table_nodes("lowrank", graph, context)) if wanted else 0
        return PassResult(count + tables > 0, NONE, {"layers": count, "tables": tables})

    def _rewrite(self, graph: Graph, context: Context, chosen: Sequence[tuple[Node, Factors]]) -> int:
        dense = graph.clone() if self.refit and chosen else None
        size, entries = constant_bytes(graph), len(graph.ledger)
        made = [factor_layer(graph, context, node, factors) for node, factors in chosen]
        done = [nodes for nodes in made if nodes]
        if done and dense is not None:
            fit_behind(graph, dense, context, done[0][0], self.limit)
            settle(graph, entries, size)
        return len(done)

    # which

    def _feasible(self, node: Node, context: Context) -> bool:
        if node.op.name == "conv" and self.conv == "none":
            return False
        if context.excluded("lowrank", node):
            return False
        reason = infeasible(node)
        if reason is not None:
            context.missed("lowrank", node, *reason)
        return reason is None and not tied("lowrank", node, context, "factorizing")

    def _choose(self, node: Node, moments: Moments, context: Context) -> Factors | None:
        decomposer = decomposer_of(node, moments)
        name, value = amount(self, node, context)
        found = [f for scheme in self._schemes(decomposer) if (f := _factors(decomposer, scheme, name, value))]
        if not found:
            context.missed("lowrank", node, "no rank is small enough and keeps enough", "lower energy, or raise ratio")
            return None
        best = min(found, key=lambda f: (f.operations, f.error) if name == "energy" else (f.error, f.operations))
        limit = float(context.option(node, "max_error", self.max_error))
        if best.error > limit:
            context.missed("lowrank", node, f"its output would change by {best.error:.1%}, more than {limit:.1%}",
                           "raise max_error, energy or ratio")
            return None
        if best.share > self.gain:
            context.missed("lowrank", node, f"rank {_ranks(best)} would leave {best.share:.0%} of its operations",
                           "lower energy, or raise gain")
            return None
        return best

    def _schemes(self, decomposer: Decomposer) -> Sequence[Scheme]:
        if decomposer.attrs is None or self.conv in ("auto", "none"):
            return decomposer.schemes
        return (self.conv,) if self.conv in decomposer.schemes else ("channel",)

    def _faster(self, graph: Graph, context: Context, chosen: Mapping[Node, Factors]) -> dict[Node, Factors]:
        """Those that the target runs faster than the layer they stand for."""
        from mcomp.ops.evaluate import bind_symbols
        from mcomp.plan.costs import CostTable

        assert context.calibration is not None
        batch = context.calibration.inputs(graph, context.calibration.batches[0])
        sizes = bind_symbols(graph, [tuple(x.shape) for x in batch])
        before = {node: extract([node]).graph for node in chosen}
        after = {node: _factored(piece, chosen[node]) for node, piece in before.items()}
        table = CostTable.load(context.target, context.threads)
        table.measure([*before.values(), *after.values()], sizes)
        kept = {}
        for node, factors in chosen.items():
            whole, parts = (table.microseconds(piece[node], sizes) for piece in (before, after))
            if parts < _FASTER * whole:
                kept[node] = factors
            else:
                reason = f"rank {_ranks(factors)} takes {parts:.1f} us, the whole layer {whole:.1f} us"
                context.missed("lowrank", node, reason, "lower energy, or use ratio")
        return kept

    # rewriting


def _factors(decomposer: Decomposer, scheme: Scheme, name: str, value: float) -> Factors | None:
    """The factors of a scheme that have a rank, leave a ratio of the operations, or keep an energy; None where none do."""
    if name == "rank":
        rank = int(value)
        inputs = (min(rank, decomposer.shape[1]),) if scheme == "tucker" else ()
        return decomposer.factors(scheme, (*inputs, min(rank, decomposer.full_rank(scheme))))
    if name == "ratio":
        return decomposer.within_operations(scheme, value)
    return decomposer.within_error(scheme, (1.0 - value) ** 0.5)


def factor_layer(graph: Graph, context: Context, node: Node, factors: Factors) -> list[Node]:
    """Put factors in the place of a layer, with a remark and an entry in the ledger; returns their nodes, none where no
    rewrite is allowed any more."""
    if not context.allow_rewrite("lowrank"):
        return []
    layer, name = node.layer, node.name
    size = constant_bytes(graph)
    detail = f"{factors.scheme}, rank {_ranks(factors)}, {factors.share:.0%} of the operations"
    context.remark("applied", "lowrank", node, detail)
    with graph.edit("lowrank", loc=node.loc) as editor:
        made = replace_layer(editor, node, factors)
    saved = size - constant_bytes(graph)
    context.record(graph, LedgerEntry("lowrank", layer, name, error=factors.error, bytes_saved=saved, detail=detail))
    return made


def infeasible(node: Node) -> tuple[str, str] | None:
    """Why a linear or conv cannot be factorized, and what would help; None when it can."""
    x, weight = node.operand(0), node.operand(1)
    if weight.weight is None:
        return "its weight is computed, not constant", "run fold before lowrank"
    if weight.tensor.encoding != DENSE or x.tensor.encoding != DENSE:
        which = weight if weight.tensor.encoding != DENSE else x
        return f"%{which.name} is {which.tensor.encoding} already", "run lowrank before quantize"
    if not weight.tensor.dtype.is_float:
        return f"its weight is {weight.tensor.dtype}", "cast it to a float type"
    if node.attrs.get("groups", 1) != 1:
        return f"it has {node.attrs['groups']} groups, each of few inputs", "prune it instead"
    if min(weight.tensor.static_shape[:2]) < 2:
        return "it has one input or output", "quantize it instead"
    if too_wide(node):
        return TOO_WIDE
    return None


def decomposer_of(node: Node, moments: Moments) -> Decomposer:
    """The factors of a feasible linear or conv."""
    shape = node.operand(1).tensor.static_shape
    attrs = dict(node.attrs) if node.op.name == "conv" else None
    return Decomposer(weight_matrix(node).reshape(shape), moments, attrs, centre=takes_shift(node))


def takes_shift(node: Node) -> bool:
    """Whether the bias of a linear or conv is absent or constant, so that a mean error can be added to it."""
    bias = node.maybe(2)
    return bias is None or bias.weight is not None


def replace_layer(editor: Editor, node: Node, factors: Factors) -> list[Node]:
    """Put factors in the place of a layer, and add their shift to its bias; returns their nodes."""
    loc = fused("lowrank", node.loc)
    old = node.operand(1)
    assert old.producer is not None
    label, value = old.producer.attrs["name"], node.operand(0)
    made, last = [], len(factors.weights) - 1
    for i, (weight, attrs) in enumerate(zip(factors.weights, factors.attrs, strict=True)):
        part = ("in", "core", "out")[i if i < last else 2]
        const = dense_const(editor, weight.numpy(), old.tensor, f"{label}.{part}",
                            loc=fused("lowrank", old.producer.loc), before=node)
        bias = shifted_bias(editor, node, factors.shift) if i == last else None
        made.append(editor.add(node.op, [value, const, bias], attrs or {}, loc=loc, before=node,
                               name=f"{node.name}_{part}"))
        value = made[-1].result
    consts = [v.producer for v in node.operands[1:] if v is not None and v.producer is not None and v.is_const]
    editor.replace_node(node, [value])
    for const_node in consts:
        if not const_node.result.uses:
            editor.erase(const_node)
    return made


def shifted_bias(editor: Editor, node: Node, shift: Tensor | None) -> Value | None:
    """The bias of a layer plus `shift` [N], as a new constant; the bias itself without a shift."""
    bias = node.maybe(2)
    if shift is None:
        return bias
    name, total = f"{node.name}.bias", shift.numpy()
    if bias is not None and bias.weight is not None and bias.producer is not None:
        name, total = bias.producer.attrs["name"], total + bias.weight.decode()
    return dense_const(editor, total, node.type, name, loc=fused("lowrank", node.loc), before=node)


def _factored(piece: Graph, factors: Factors) -> Graph:
    """A graph of one layer with factors in its place."""
    copy = piece.clone()
    node = next(n for n in copy.nodes if n.op.name in ("linear", "conv"))
    with copy.edit("lowrank") as editor:
        replace_layer(editor, node, factors)
    return copy


def _by_value(nodes: Sequence[Node]) -> list[Node]:
    """Nodes with those that read the same value one after another."""
    groups: dict[Value, list[Node]] = {}
    for node in nodes:
        groups.setdefault(node.operand(0), []).append(node)
    return [node for members in groups.values() for node in members]


def _ranks(factors: Factors) -> str:
    return "x".join(map(str, factors.ranks))

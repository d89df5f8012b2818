"""Residual branches: add(x, f(x)) becomes x where f(x) matters least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.ir import dims
from mcomp.ir.binding import assume_symbols
from mcomp.ir.graph import Graph, LedgerEntry, Node, Value
from mcomp.manager.context import Context
from mcomp.ops.base import Effect
from mcomp.ops.workload import PRODUCTS
from mcomp.passes.compress.encode import constant_bytes
from mcomp.passes.compress.fitting import fit_again, left_from, places_of
from mcomp.passes.compress.ledger import settle
from mcomp.passes.compress.reading import clean, watch
from mcomp.plan.quality import relative_error
from mcomp.rewrite.driver import drop_dead

if TYPE_CHECKING:
    from mcomp.passes.compress.prune import Prune


@dataclass(frozen=True, eq=False)
class Branch:
    """An addition of `stem` and what is computed from it, or from what it is computed from. `nodes`: what goes with the
    branch, in order. `flops`: operations of its products. `error`: the relative L2 change of the sum when the branch goes,
    on calibration data. `names`: those of `nodes`, constants left out."""

    add: Node
    stem: Value
    nodes: tuple[Node, ...]
    flops: int
    error: float = 0.0
    names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same for every run: the name of the sum."""
        return self.add.result.name

    @property
    def nbytes(self) -> int:
        """Bytes of the constants that go."""
        held = {v for n in self.nodes for v in n.operands if v is not None and v.is_const}
        return sum(v.weight.nbytes for v in held if v.weight is not None and set(v.users) <= set(self.nodes))


def branches(graph: Graph) -> list[Branch]:
    """All residual branches, in order, their errors not measured yet."""
    symbols = assume_symbols(graph, {})
    found = []
    for node in graph.nodes:
        branch = _branch(graph, node, symbols) if node.op.name == "add" else None
        if branch is not None:
            found.append(branch)
    return found


def _branch(graph: Graph, add: Node, symbols: dict[str, int]) -> Branch | None:
    best: Branch | None = None
    for stem, top in ((add.operand(0), add.operand(1)), (add.operand(1), add.operand(0))):
        if stem is top or stem.type != add.result.type or top.producer is None or top.users != (add,):
            continue
        cone = _only_for(graph, add, top)
        if _effectful(cone) or not _same_source(cone, stem):
            continue
        flops = sum(
            dims.evaluate(n.op.node_cost(n).flops, symbols) for n in cone if n.op.name in PRODUCTS
        )
        if flops and (best is None or flops > best.flops):
            best = Branch(add, stem, cone, flops, names=tuple(n.name for n in cone if n.op.name != "const"))
    return best


def _only_for(graph: Graph, add: Node, top: Value) -> tuple[Node, ...]:
    """The nodes that only this operand of `add` needs, in order."""
    needed: dict[Node, None] = {}
    queue = [top.producer]
    while queue:
        node = queue.pop()
        if node is None or node in needed:
            continue
        if node is not top.producer and any(u not in needed for v in node.results for u in v.users):
            continue
        needed[node] = None
        queue += [v.producer for v in node.operands if v is not None]
    return tuple(sorted(needed, key=graph.position))


def _same_source(cone: Sequence[Node], stem: Value) -> bool:
    """Whether a branch is computed from the stem, or from what the stem is computed from."""
    inside = set(cone)
    sources = {v for n in cone for v in n.operands if v is not None and not v.is_const and v.producer not in inside}
    seen, queue = {stem}, [stem]
    while queue:
        value = queue.pop()
        if value in sources:
            return True
        fresh = [v for v in value.producer.operands if v is not None and v not in seen] if value.producer else []
        seen.update(fresh)
        queue += fresh
    return False


def _effectful(nodes: Sequence[Node]) -> bool:
    return any(n.op.effect is not Effect.PURE for n in nodes)


def measured_branches(graph: Graph, context: Context, limit: int) -> list[Branch]:
    """The branches with their errors on calibration data."""
    import torch

    assert context.calibration is not None
    found = branches(graph)
    sums = {b.add.result: [0.0, 0.0] for b in found}
    stems: dict[Value, Any] = {b.stem: None for b in found}
    of = {b.add.result: b.stem for b in found}
    held: dict[Value, Any] = {}

    def take(value: Value, data: Any) -> None:
        if value in stems:
            held[value] = clean(data)
        if value in sums:
            total = clean(data)
            sums[value][0] += float((total - held[of[value]]).double().square().sum())
            sums[value][1] += float(total.double().square().sum())

    with torch.no_grad():
        for batch in context.calibration.batches[:limit]:
            watch(graph, context.calibration, batch, {**stems, **dict.fromkeys(sums)}, take)
            held.clear()
    return [
        replace(b, error=(change / whole) ** 0.5 if whole else float("inf"))
        for b in found for change, whole in (sums[b.add.result],)
    ]


def output_errors(graph: Graph, context: Context, found: Sequence[Branch], batches: int = 2) -> list[float]:
    """For each branch the relative L2 error of the model's outputs on a few calibration batches when only it goes."""
    import torch

    assert context.calibration is not None
    errors = []
    with torch.no_grad():
        expected = context.calibration.outputs(graph, limit=batches)
        for branch in found:
            trial = graph.clone()
            add = trial.value(branch.key).producer
            assert add is not None
            with trial.edit("probe") as editor:
                editor.replace(add.result, trial.value(branch.stem.name))
                drop_dead(editor, [add])
            errors.append(relative_error(context.calibration.outputs(trial, limit=batches), expected))
    return errors


def remove_branches(options: Prune, graph: Graph, context: Context) -> int:
    """Cut the branches that `choose_branches` gives, then fit what follows; returns how many."""
    dense, places = graph.clone(), places_of(graph)
    size, entries = constant_bytes(graph), len(graph.ledger)
    gone = choose_branches(options, graph, context)
    cut_branches(graph, context, gone)
    if options.refit and gone:
        first = min(places[name] for branch in gone for name in branch.names)
        fit_again(graph, dense, context, options, {}, left_from(graph, places, first))
        settle(graph, entries, size)
    return len(gone)


def choose_branches(options: Prune, graph: Graph, context: Context) -> list[Branch]:
    """The branches that cost least error (with `flops`: for the operations they take), or those that `widths` names
    (`add_7=0`)."""
    found = [b for b in measured_branches(graph, context, options.limit) if not context.excluded("prune", b.add)]
    if not found:
        context.missed("prune", graph.name, "no branch can go: nothing is added to what it is computed from",
                       "leave branches out of what")
    return [b for b in _chosen(options, graph, context, found) if context.allow_rewrite("prune")]


def cut_branches(graph: Graph, context: Context, chosen: Sequence[Branch]) -> None:
    """Remove branches of the graph, and fit nothing yet."""
    for branch in chosen:
        size = constant_bytes(graph)
        with graph.edit("prune", loc=branch.add.loc) as editor:
            editor.replace(branch.add.result, _stem(branch))
            drop_dead(editor, [branch.add])
        saved = size - constant_bytes(graph)
        detail = f"the branch is gone, and {branch.flops} operations with it"
        layer = next((n.layer for n in branch.nodes if n.op.name in PRODUCTS), branch.add.layer)
        context.record(graph, LedgerEntry("prune", layer, branch.key, branch.error, saved, detail=detail))
        context.remark("applied", "prune", layer, detail)


def _stem(branch: Branch) -> Value:
    """What stands for the sum: the stem, found again where its own sum has gone."""
    return next(v for v in branch.add.operands if v is not None and v.producer not in branch.nodes)


def _chosen(options: Prune, graph: Graph, context: Context, found: Sequence[Branch]) -> list[Branch]:
    if options.widths:
        return _named(options, context, found)
    errors = [b.error for b in found]
    if options.weighing == "output":
        errors = output_errors(graph, context, found)
    if options.flops is None:
        order = np.argsort(errors, kind="stable")
        count = round(options.ratio * len(found))
        if found and not count:
            context.missed("prune", graph.name, f"{options.ratio:.0%} of {len(found)} branches is none",
                           "raise ratio, or name branches in widths")
        return [found[i] for i in order[:count]]
    symbols = assume_symbols(graph, {})
    total = sum(dims.evaluate(n.op.node_cost(n).flops, symbols) for n in graph.nodes if n.op.name in PRODUCTS)
    left, chosen = float(total), []
    for i in np.argsort([e**2 / b.flops for e, b in zip(errors, found)], kind="stable"):
        if left <= options.flops * total:
            break
        chosen.append(found[i])
        left -= found[i].flops
    if left > options.flops * total:
        reason = f"{left:,.0f} operations stay, not {options.flops * total:,.0f}: no other branch can go"
        context.missed("prune", graph.name, reason, "raise flops, or widen what")
    return chosen


def _named(options: Prune, context: Context, found: Sequence[Branch]) -> list[Branch]:
    """The branches that `widths` names; remarks for names that are of none."""
    counts, keys = options.counts(), {b.key for b in found}
    for name, count in counts.items():
        if not count and name not in keys:
            context.missed("prune", name, "no branch that can go has this name", "name the addition that it goes into")
        elif count and not options.narrows:
            context.missed("prune", name, "nothing is narrowed where what is branches only", "add the kind of its units")
    return [b for b in found if counts.get(b.key) == 0]

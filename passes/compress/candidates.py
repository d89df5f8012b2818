"""What could be done to each layer, with its error and size: the planner's choices, as plain data.

    found = layer_candidates(graph, context)               # {node name: [Candidate, ...]}; the graph stays as it is
    piece(node, treatment)                                 # a graph to time
    apply(graph, context, {name: candidate.treatment})     # rewrites the chosen ones

A layer's decompositions are made once and shared by its candidates. Structured pruning changes several layers at once and
has curves of its own (`mcomp.passes.compress.curves`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mcomp.backend import backend_named
from mcomp.errors import PassError
from mcomp.ir import dims
from mcomp.ir.encoding import DENSE
from mcomp.ir.extract import extract
from mcomp.ir.graph import Graph, Node
from mcomp.ir.store import WeightStore
from mcomp.ir.types import TensorType
from mcomp.manager.context import Context
from mcomp.passes.compress.encode import levels_of
from mcomp.passes.compress.factors import Factors
from mcomp.passes.compress.feedback import round_weight
from mcomp.passes.compress.layer import activation_of, integers_for, round_trip
from mcomp.passes.compress.lowrank import decomposer_of, infeasible
from mcomp.passes.compress.moments import Moments, MomentSource, moment_bytes, weight_matrix
from mcomp.passes.compress.readers import MEMORY, sharers, too_wide
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.samples import Sample, collect, sample_key
from mcomp.passes.compress.sparsify import BlockOrder, Sparse, fitting_block
from mcomp.passes.compress.tables import (
    Table,
    TableDecomposer,
    TableFactors,
    row_usage,
    table_encodings,
    table_nodes,
)
from mcomp.passes.compress.treatment import (
    FLOAT,
    KEEP,
    Activations,
    Part,
    Precision,
    Treatment,
    apply,
    mode_of,
    part_type,
    piece,
)
from mcomp.plan.spread import Spread

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.ir.encoding import Affine

__all__ = ["Candidate", "KEEP", "Menu", "Treatment", "apply", "layer_candidates", "piece"]

_RULES = ("lowrank", "prune", "quantize")
_AT_ONCE = 24
"""Layers whose moments are held together."""


@dataclass(frozen=True)
class Candidate:
    """One treatment of one layer, named by its node. `error`: relative L2 change of the layer's output over the positions of
    the calibration data, the root of a sum of squares: squares of independent changes add up. `nbytes`: of the weights.
    `share`: multiplications left, of the dense layer's."""

    node: str
    layer: str
    treatment: Treatment
    error: float
    nbytes: int
    share: float


@dataclass(frozen=True)
class Menu:
    """Which treatments are tried. `shares`: operations left by factors (tables: elements left). `gone`: shares of blocks
    that go, for linears and pointwise convolutions. `blocks`: their sizes, of which the first that a weight can have is
    taken; empty: the target's. `precisions`: bits and activations of weights. `table_bits`: of the tables of embeddings."""

    shares: tuple[float, ...] = (0.25, 0.4, 0.6, 0.8)
    gone: tuple[float, ...] = (0.5, 0.75)
    blocks: tuple[tuple[int, int], ...] = ()
    precisions: tuple[Precision, ...] = (FLOAT, (8, "static"), (8, "none"), (4, "static"), (4, "none"))
    table_bits: tuple[int, ...] = (8, 4, 3, 2)


DEFAULT = Menu()


@dataclass(frozen=True)
class _Form:
    """A layer before its numbers are rounded."""

    treatment: Treatment
    parts: tuple[Part, ...]
    error: float
    share: float


def layer_candidates(
    graph: Graph, context: Context, nodes: Iterable[Node] | None = None, menu: Menu | Callable[[Node], Menu] = DEFAULT,
    limit: int = 128, spread: Spread | None = None,
) -> dict[str, list[Candidate]]:
    """Candidates of every linear, conv and embedding with a constant weight of floats (of `nodes` only, if given), by the
    name of the node, the untouched layer first. Rules that the user switched off for a layer give none; layers that no data
    reached are left out, so are those whose task fails, with a remark. `menu`: what is tried, of all layers or of each.
    `spread`: where the work of layers is done. Raises PassError without data."""
    import torch

    if context.calibration is None:
        raise PassError("errors of layers are measured on calibration data, and there is none", code="MC0205",
                        help="pass calibration=[...] or example inputs")
    blocks = backend_named(context.target).zero_blocks()

    def offered(node: Node) -> Menu:
        own = menu if isinstance(menu, Menu) else menu(node)
        return replace(own, blocks=own.blocks or blocks)

    mark_relevant(graph, context, limit)
    given = list(graph.nodes if nodes is None else nodes)
    chosen = [n for n in given if n.op.name in ("linear", "conv") and _is_plain(n)]
    samples = collect(graph, context.calibration, map(sample_key, chosen), limit)
    reached = [n for n in chosen if samples[sample_key(n)].whole]
    menus = {n: _allowed_menu(n, offered(n), context) for n in reached}
    source = MomentSource(graph, context.calibration, [n for n in reached if _takes_moments(n, menus[n])], limit)
    found: dict[str, list[Candidate]] = {}
    with torch.no_grad():
        for some in _portions(reached):
            tasks = [LayerTask(n, source(n), samples[sample_key(n)], menus[n]) for n in some]
            results, failures = (spread or Spread())(run_layer_task, tasks, "errors of layers")
            found.update((n.name, r) for n, r in zip(some, results) if r is not None)
            for failure in failures:
                context.missed("treat", some[failure.index], f"its candidates could not be computed: {failure.reason}",
                               "search again, or exclude it")
        tables = [t for t in table_nodes("quantize", graph, context) if not t.shared and set(t.nodes) & set(given)]
        for table, usage in zip(tables, row_usage(graph, context.calibration, tables, limit)):
            node = table.nodes[0]
            bits = context.option(node, "bits", None)
            own = offered(node) if bits is None else replace(offered(node), table_bits=(int(bits),))
            found[node.name] = _of_table(table, usage, own, allowed(node, context))
    return found


def _portions(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Layers in order, as many at a time as their moments fit into memory, and not too many."""
    portion: list[Node] = []
    for node in nodes:
        if portion and (len(portion) == _AT_ONCE or sum(map(moment_bytes, [*portion, node])) > MEMORY):
            yield portion
            portion = []
        portion.append(node)
    if portion:
        yield portion


def _takes_moments(node: Node, menu: Menu) -> bool:
    """Whether something is tried of a layer that takes second moments, and they fit into memory."""
    fine = any(bits is not None and bits < 8 for bits, _ in menu.precisions)
    return bool(menu.shares or menu.gone or fine) and not too_wide(node)


def _allowed_menu(node: Node, menu: Menu, context: Context) -> Menu:
    """What the user's options allow of a menu, and what leaves a shared weight shared: others than integers of 8 bits are
    made by what each of its readers reads."""
    rules, shared = allowed(node, context), bool(sharers(node))
    bits, activations = (context.option(node, name, None) for name in ("bits", "activations"))
    precisions = menu.precisions
    if bits is not None or activations not in (None, "auto"):
        bits = 8 if bits is None else int(bits)
        usual: Activations = "static" if bits == 8 else "none"
        precisions = (FLOAT, (bits, usual if activations in (None, "auto") else mode_of(node, activations)))
    if "quantize" not in rules:
        precisions = (FLOAT,)
    if shared:
        precisions = tuple(p for p in precisions if p[0] in (None, 8))
    return replace(
        menu, precisions=precisions, shares=menu.shares if "lowrank" in rules and not shared else (),
        gone=menu.gone if "prune" in rules and not shared else (),
    )


def allowed(node: Node, context: Context) -> frozenset[str]:
    """The rules (lowrank, prune, quantize) that the user did not switch off for a layer."""
    left = set(_RULES)
    for path in node.loc.paths or (node.layer,):
        if context.layer_options.excluded(path) is not None:
            return frozenset()
        options = context.layer_options.options(path)
        left -= {rule for rule in _RULES if options.get(rule) is False}
    return frozenset(left)


def _is_plain(node: Node) -> bool:
    weight, x = node.operand(1), node.operand(0)
    encodings = {weight.tensor.encoding, x.tensor.encoding}
    return weight.weight is not None and encodings == {DENSE} and weight.tensor.dtype.is_float


@dataclass(frozen=True)
class LayerTask:
    """A linear or conv with all that its candidates are computed from: moments (None: nothing on the menu takes any, or
    they do not fit) and a sample of its inputs, and what is allowed of the menu. Goes to other processes as one text with
    its weights."""

    node: Node
    moments: Moments | None
    sample: Sample
    menu: Menu

    def __reduce__(self) -> tuple[Any, ...]:
        from mcomp.ir.printer import graph_text

        part = extract([self.node]).graph
        weights = [part.store.get(n.attrs["digest"]) for n in part.nodes if n.op.name == "const"]
        data = (
            graph_text(part, digests=32), [(str(w.type), dict(w.parts)) for w in weights], self.node.name, self.moments,
            self.sample, self.menu,
        )
        return _layer_task_from, (pickle.dumps(data),)


def _layer_task_from(data: bytes) -> LayerTask:
    from mcomp.ir.parser import parse_graph, parse_type

    text, weights, name, *rest = pickle.loads(data)
    store = WeightStore()
    for type, parts in weights:
        store.add(cast(TensorType, parse_type(type)), parts)
    return LayerTask(next(n for n in parse_graph(text, store).nodes if n.name == name), *rest)


def run_layer_task(task: LayerTask) -> list[Candidate]:
    """The candidates of one layer, the untouched layer first."""
    import torch

    with torch.no_grad():
        return _of_layer(task.node, task.moments, task.sample, task.menu)


def _of_layer(node: Node, moments: Moments | None, sample: Sample, menu: Menu) -> list[Candidate]:
    rounding = _Rounding(node, moments, sample)
    found = [
        _rounded(rounding, form, precision)
        for form in _forms(node, moments, menu)
        for precision in menu.precisions
        if precision != FLOAT or form.treatment != KEEP
    ]
    whole = dims.evaluate(node.operand(1).tensor.nbytes, {})
    return [Candidate(node.name, node.layer, KEEP, 0.0, whole, 1.0), *found]


# forms: the numbers before they are rounded

def _forms(node: Node, moments: Moments | None, menu: Menu) -> list[_Form]:
    dense = Part(weight_matrix(node).reshape(node.operand(1).tensor.static_shape), node.attrs)
    forms = [_Form(KEEP, (dense,), 0.0, 1.0)]
    if moments is None:
        return forms
    if menu.shares and infeasible(node) is None:
        forms += [_factor_form(node, f) for f in decomposer_of(node, moments).choices(menu.shares)]
    if menu.gone:
        block = fitting_block(menu.blocks, node)
        if block is not None:
            order = BlockOrder(block, node, moments)
            forms += [_block_form(node, order.sparse(gone), block, gone) for gone in menu.gone]
    return forms


def _factor_form(node: Node, factors: Factors) -> _Form:
    parts = tuple(Part(w, a or node.attrs) for w, a in zip(factors.weights, factors.attrs, strict=True))
    return _Form(Treatment(factors.scheme, factors.ranks), parts, factors.error, factors.share)


def _block_form(node: Node, sparse: Sparse, block: tuple[int, int], gone: float) -> _Form:
    import torch

    type = node.operand(1).tensor.with_encoding(sparse.encoding)
    weight = torch.from_numpy(np.array(sparse.encoding.decode(sparse.parts, type), np.float64))
    ones = {**sparse.parts, "values": np.ones_like(sparse.parts["values"])}
    mask = torch.from_numpy(np.array(sparse.encoding.decode(ones, type) != 0))
    part = Part(weight, node.attrs, sparse.encoding, mask)
    return _Form(Treatment(block=block, gone=gone), (part,), sparse.error, 1.0 - gone)


# rounding

def _rounded(rounding: _Rounding, form: _Form, precision: Precision) -> Candidate:
    """A form with its weights, and what they are multiplied by, rounded."""
    node, (bits, activations) = rounding.node, precision
    error = form.error if bits is None else float(np.hypot(form.error, rounding.error(form, bits, activations)))
    total = sum(dims.evaluate(part_type(node, part, precision).nbytes, {}) for part in form.parts)
    treatment = replace(form.treatment, bits=bits, activations=activations)
    return Candidate(node.name, node.layer, treatment, error, total, form.share)


class _Rounding:
    """What rounding adds to the error of a layer's forms, measured on a sample of its inputs.

    Weights of 8 bits go to the nearest integer, others are rounded with error feedback where the moments of their inputs
    are known; what that gains is measured on the whole layer and taken to hold when blocks are gone too.
    """

    def __init__(self, node: Node, moments: Moments | None, sample: Sample) -> None:
        self.node, self.moments, self.sample = node, moments, sample
        self.whole = Part(weight_matrix(node).reshape(node.operand(1).tensor.static_shape), node.attrs)
        self.rows = sample.rows()
        self.energy = float(node.op.reference([self.rows, self.whole.weight.float(), None], node.attrs).square().sum())
        self._gains: dict[Precision, float] = {}
        self._rounded_inputs: dict[tuple[Treatment, Activations], float] = {}

    def error(self, form: _Form, bits: int, activations: Activations) -> float:
        """The relative L2 error that rounding adds to a form's output, its mean taken up by the bias."""
        blocks = form.treatment.block is not None
        weights = self._weights(form.parts, bits, activations, bits < 8 and not blocks)
        if blocks:
            weights *= self._gain(bits, activations)
        if activations == "none":
            return weights
        return float(np.hypot(weights, self._inputs(form, activations)))

    def _gain(self, bits: int, activations: Activations) -> float:
        """What feedback leaves of the error of rounding the whole layer's weights."""
        if bits == 8:
            return 1.0
        if (bits, activations) not in self._gains:
            plain, fed = (self._weights((self.whole,), bits, activations, feedback) for feedback in (False, True))
            self._gains[bits, activations] = min(1.0, fed / plain) if plain > 0 else 1.0
        return self._gains[bits, activations]

    def _weights(self, parts: tuple[Part, ...], bits: int, activations: Activations, feedback: bool) -> float:
        """The error from rounding weights alone, as they are stored beside such activations."""
        exact, rough = self.rows, self.rows
        for part in parts:
            exact = self.node.op.reference([exact, part.weight.float(), None], part.attrs)
            rough = self.node.op.reference([rough, self._coded(part, bits, activations, feedback), None], part.attrs)
        return self._relative(rough - exact)

    def _inputs(self, form: _Form, activations: Activations) -> float:
        """The error from rounding what is multiplied alone."""
        key = (form.treatment, activations)
        if key not in self._rounded_inputs:
            exact, rough = self.rows, self.rows
            for i, part in enumerate(form.parts):
                seen, weight = self.sample if i == 0 else _sampled(exact, self.sample), part.weight.float()
                rough = round_trip(rough, activation_of(seen, mode_of(self.node, activations)))
                exact, rough = (self.node.op.reference([x, weight, None], part.attrs) for x in (exact, rough))
            self._rounded_inputs[key] = self._relative(rough - exact)
        return self._rounded_inputs[key]

    def _relative(self, change: Tensor) -> float:
        channel = self.sample.channel % change.dim()
        change = change - change.mean([d for d in range(change.dim()) if d != channel], keepdim=True)
        return (float(change.square().sum()) / self.energy) ** 0.5 if self.energy > 0 else 0.0

    def _coded(self, part: Part, bits: int, activations: Activations, feedback: bool) -> Tensor:
        """The weight of a part after rounding."""
        groups = part.attrs.get("groups", 1)
        matrix = part.weight.reshape(groups, part.weight.shape[0] // groups, -1)
        affine = integers_for(bits, activations, self.node.op.name, part_type(self.node, part, FLOAT))
        mask = None if part.mask is None else part.mask.reshape(matrix.shape)
        known = None if self.moments is None else self.moments.gram
        gram = known if feedback and known is not None and known.shape[-1] == matrix.shape[-1] else None
        found = round_weight(matrix, gram, levels_of(affine), "nearest" if gram is None else "feedback", mask)
        return found.weight.reshape(part.weight.shape).float()


def _sampled(x: Tensor, like: Sample) -> Sample:
    sample = Sample(like.channel)
    sample.add(x, 1)
    return sample


# tables

def _of_table(table: Table, usage: Tensor, menu: Menu, rules: frozenset[str]) -> list[Candidate]:
    node, rows, like = table.nodes[0], table.rows(), table.weight.type
    forms: list[tuple[Treatment, Tensor, TableFactors | None]] = [(KEEP, rows, None)]
    if "lowrank" in rules:
        decomposer = TableDecomposer(rows, usage)
        ranks = dict.fromkeys(decomposer.rank_of(share) for share in menu.shares)
        forms += [(Treatment("table", (f.weight.shape[1],)), f.table, f) for f in map(decomposer.factors, ranks)]
    bits = menu.table_bits if "quantize" in rules else ()
    found = [Candidate(node.name, node.layer, KEEP, 0.0, table.weight.nbytes, 1.0)]
    for treatment, values, factors in forms:
        for count in (None, *bits):
            if count is None and factors is None:
                continue
            wide, size = _table_part(values, None if count is None else table_encodings(tuple(values.shape), count)[0], like)
            if factors is not None:
                type = TensorType(tuple(factors.weight.shape), like.dtype)
                affine = None if count is None else integers_for(count, "none", "linear", type)
                weight, more = _table_part(factors.weight, affine, like)
                wide = wide @ weight.T + factors.bias
                size += more + like.dtype.itemsize * len(factors.bias)
            lost, energy = (float((usage * x.square().sum(1)).sum()) for x in (wide - rows, rows))
            error = (lost / energy) ** 0.5 if energy > 0 else 0.0
            found.append(Candidate(node.name, node.layer, replace(treatment, bits=count), error, size, 1.0))
    return found


def _table_part(values: Tensor, affine: Affine | None, like: TensorType) -> tuple[Tensor, int]:
    """A matrix after rounding (None: as it is), and its bytes."""
    type = TensorType(tuple(values.shape), like.dtype)
    if affine is None:
        return values, dims.evaluate(type.nbytes, {})
    coded = round_weight(values[None], None, levels_of(affine)).weight[0]
    return coded, dims.evaluate(type.with_encoding(affine).nbytes, {})

"""The per-layer account of a compiled model: what was done, bytes, operations, predicted and measured time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcomp.backend import KernelInfo
from mcomp.errors import McompError
from mcomp.ir import dims
from mcomp.ir.graph import Graph, Node
from mcomp.ir.loc import Loc
from mcomp.ops.opaque import is_opaque
from mcomp.plan.profile import kernel_predictor
from mcomp.report.report import Report, Row
from mcomp.runtime.calibration import initial_states

if TYPE_CHECKING:
    from mcomp.plan.work import Version, Workshop

GONE = "(gone)"
"""The operators of a module of which nothing is left."""


@dataclass(frozen=True)
class Before:
    """What rows of a report are compared with, of one captured program: its path, the example arguments, bytes of weights
    and operations by layer, and the lossless version's microseconds by layer (empty where it was not timed)."""

    path: str
    leaves: list[Any]
    weights: dict[str, int]
    flops: dict[str, int]
    times: dict[str, float]


def befores_of(workshop: Workshop, lossless: Version, *, timed: bool) -> list[Before]:
    """What the reports of all versions need of the programs as captured. timed: whether also how long they take."""
    found = []
    for work in workshop.works:
        program, leaves = lossless.built.programs()[work.path], workshop.example_leaves(work)
        symbols, times = program.symbols(leaves), {}
        if timed:
            inputs = [*leaves, *initial_states(program.graph, leaves)]
            times = _by_layer(program.executable.kernels(symbols), program.executable.profile(inputs, symbols, repeats=10))
        found.append(Before(work.path, leaves, *weights_and_flops(work.program.graph, symbols), times))
    return found


def fill_report(
    report: Report, befores: Sequence[Before], chosen: Version, *, threads: int | None, timed: bool = True
) -> None:
    """Fill rows and totals, shares of generated code, ledger and remarks. Times are for the example arguments; none where it
    is not to be `timed`."""
    native = total = native_flops = total_flops = 0
    opaque: Counter[str] = Counter()
    in_torch: Counter[str] = Counter()
    report.total = Row("total", "", "")
    for before in befores:
        prefix = f"{before.path}." if before.path else ""
        program = chosen.built.programs()[before.path]
        symbols = program.symbols(before.leaves)
        inputs = [*before.leaves, *initial_states(program.graph, before.leaves)]
        kernels = program.executable.kernels(symbols)
        times = program.executable.profile(inputs, symbols, repeats=10) if timed else None
        rows = _rows(before, program.graph, kernels, times, symbols, chosen, report.target, threads)
        _add(report.total, rows, before, program.graph, symbols)
        for row in rows:
            row.layer = prefix + row.layer if row.layer else row.layer
        report.rows += rows
        for kernel in kernels:
            count = max(1, len(kernel.nodes))
            total += count
            total_flops += kernel.flops
            if kernel.native:
                native += count
                native_flops += kernel.flops
            else:
                in_torch.update(kernel.ops)
        opaque.update(n.op.name for n in program.graph.walk() if is_opaque(n))
        report.ledger += [vars(e) for e in program.graph.ledger]
        report.remarks += [
            {"kind": r.kind, "rule": r.rule, "layer": r.layer, "reason": r.reason, "remedy": r.remedy}
            for r in chosen.contexts[before.path].remarks
        ]
    report.native_nodes = native / total if total else 1.0
    report.native_flops = native_flops / total_flops if total_flops else 1.0
    report.opaque_nodes = dict(opaque)
    report.torch_nodes = {name: n for name, n in in_torch.items() if name not in opaque}


def _add(total: Row, rows: Sequence[Row], before: Before, after: Graph, symbols: dict[str, int]) -> None:
    """Add a graph to the totals."""
    weights, flops = weights_and_flops(after, symbols)
    total.weight_bytes_before += sum(before.weights.values())
    total.weight_bytes += sum(weights.values())
    total.flops_before += sum(before.flops.values())
    total.flops += sum(flops.values())
    for row in rows:
        if row.measured_us is not None:
            total.measured_us = (total.measured_us or 0.0) + row.measured_us
        if row.predicted_us is not None:
            total.predicted_us = (total.predicted_us or 0.0) + row.predicted_us
    if before.times:
        total.measured_before_us = (total.measured_before_us or 0.0) + sum(before.times.values())


def _by_layer(kernels: list[KernelInfo], times: list[float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for kernel, time in zip(kernels, times):
        layer = _layer_of(kernel)
        found[layer] = found.get(layer, 0.0) + time
    return found


def _layer_of(kernel: KernelInfo) -> str:
    return next((layer for layer in kernel.layers if layer), "")


def weights_and_flops(graph: Graph, symbols: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Weight bytes and operations by layer. A weight counts where it is used first."""
    weights: dict[str, int] = {}
    flops: dict[str, int] = {}
    counted: set[str] = set()
    for node in graph.nodes:
        if node.op.name == "const":
            continue
        layer = node.loc.layer
        for value in node.operands:
            weight = value.weight if value is not None else None
            if weight is not None and weight.digest not in counted:
                counted.add(weight.digest)
                weights[layer] = weights.get(layer, 0) + weight.nbytes
        flops[layer] = flops.get(layer, 0) + _value(node, symbols)
    return weights, flops


def _value(node: Node, symbols: dict[str, int]) -> int:
    try:
        return dims.evaluate(node.op.node_cost(node).flops, symbols)
    except (KeyError, McompError):
        return 0


def _rows(
    before: Before, after: Graph, kernels: list[KernelInfo], times: list[float] | None, symbols: dict[str, int],
    chosen: Version, target: str, threads: int | None,
) -> list[Row]:
    weights_before, flops_before, path = before.weights, before.flops, before.path
    weights, flops = weights_and_flops(after, symbols)
    done, why = _done(after), _why(chosen, path)
    predict = kernel_predictor(target, threads, all_weights=float(sum(weights.values())))
    rows: dict[str, Row] = {}
    for kernel, measured in zip(kernels, times if times is not None else [None] * len(kernels)):
        layer = _layer_of(kernel)
        row = rows.setdefault(layer, Row(layer=layer, ops="", done=""))
        row.ops = _joined(row.ops, [op for op in kernel.ops if op not in ("full", "const")])
        row.native = row.native and kernel.native
        if measured is not None:
            row.measured_us = (row.measured_us or 0.0) + measured
        predicted = predict(kernel)
        if predicted is not None:
            row.predicted_us = (row.predicted_us or 0.0) + predicted
    computed = _computed_in(kernels, path)
    for layer in (*flops_before, *flops, *weights_before):
        has = weights_before.get(layer) or weights.get(layer)
        if layer not in rows and has:
            alive = weights.get(layer) or flops.get(layer)
            rows[layer] = Row(layer=layer, ops=computed.get(layer, "(elsewhere)") if alive else GONE, done="")
    lossy = {entry.rule for entry in after.ledger}
    for layer, row in rows.items():
        row.weight_bytes_before, row.weight_bytes = weights_before.get(layer, 0), weights.get(layer, 0)
        row.flops_before, row.flops = flops_before.get(layer, 0), flops.get(layer, 0)
        row.measured_before_us = before.times.get(layer)
        rules = [r for r in done.get(layer, []) if row.ops != GONE or r not in lossy]
        row.done = ", ".join(rules) or "-"
        row.why = "; ".join(why.get(layer, []))
    order = [layer for layer in dict.fromkeys((*flops_before, *rows)) if layer in rows]
    return [rows[layer] for layer in order]


def _computed_in(kernels: list[KernelInfo], path: str) -> dict[str, str]:
    """By module, the one under whose name the kernel that computes it is listed, as it stands for operators."""
    prefix = f"{path}." if path else ""
    return {layer: f"(in {prefix}{_layer_of(kernel)})" for kernel in kernels for layer in kernel.layers if layer}


def _joined(text: str, more: list[str]) -> str:
    names = [n for n in text.split(" ") if n]
    names += [m for m in dict.fromkeys(more) if m not in names]
    return " ".join(names)


def _rules(loc: Loc) -> list[str]:
    if not loc.rule:
        return []
    return [loc.rule, *(r for part in loc.parts for r in _rules(part))]


def _done(graph: Graph) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for node in graph.nodes:
        for layer in node.loc.paths:
            found.setdefault(layer, {}).update(dict.fromkeys(_rules(node.loc)))
    return {layer: list(rules) for layer, rules in found.items()}


def _why(chosen: Version, path: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in chosen.graphs[path].ledger:
        text = f"{entry.rule}: error {entry.error:.2%}" + (f", {entry.detail}" if entry.detail else "")
        found.setdefault(entry.layer, []).append(text)
    for remark in chosen.contexts[path].remarks:
        approximate = remark.kind in ("missed", "note") and remark.layer
        if approximate and remark.rule in ("quantize", "prune", "lowrank", "distill"):
            found.setdefault(remark.layer, []).append(f"{remark.rule}: {remark.reason}")
    return found


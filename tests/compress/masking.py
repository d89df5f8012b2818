"""The dense graph with removed units set to zero wherever a product sums over them: what a pruned graph must equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcomp.ir import Graph, Value, verify
from mcomp.manager import Context
from mcomp.ops.evaluate import run_graph
from mcomp.passes.analysis import Coupling, CouplingAnalysis, Dimension, Removal
from mcomp.passes.analysis.coupling import tie_graph
from mcomp.passes.compress.narrow import narrow
from tests.numbers import compare


def coupling_of(graph: Graph, context: Context | None = None) -> Coupling:
    return (context or Context()).analyze(graph, CouplingAnalysis())


def masked(graph: Graph, removal: Removal) -> Graph:
    """A copy of the dense graph in which products see zeros in place of removed units."""
    copy, mapping = graph.clone_with_map()
    with copy.edit("mask") as editor:
        for c in tie_graph(graph).contractions:
            value = c.node.operand(c.operand)
            kept = removal.kept(value, c.axis)
            if kept is None:
                continue
            shape = [1] * value.tensor.rank
            shape[c.axis] = value.tensor.static_shape[c.axis] if value.tensor.is_static else int(value.tensor.shape[c.axis])
            mask = np.zeros(shape[c.axis], value.tensor.dtype.numpy)
            mask[kept] = 1
            twin = mapping[c.node.results[0]].producer
            assert twin is not None
            factor = editor.const(mask.reshape(shape), name="mask", before=twin)
            hidden = editor.add("mul", [twin.operand(c.operand), factor], before=twin).result
            editor.set_operand(twin, c.operand, hidden)
    verify(copy)
    return copy


def random_units(coupling: Coupling, rng: np.random.Generator, *, exact: bool = True) -> dict[Dimension, np.ndarray]:
    """Some of the units of every dimension, never all."""
    return {
        d: rng.choice(d.size, int(rng.integers(0, d.size)), replace=False)
        for d in coupling.dimensions if d.size > 1 and not (exact and d.note)
    }


def check_narrow(graph: Graph, inputs: list[Any], seed: int = 0, exact: bool = True) -> dict[Dimension, np.ndarray]:
    """Remove random units; the pruned graph must verify, be smaller, and equal the masked one. Returns what was removed."""
    coupling = coupling_of(graph)
    units = random_units(coupling, np.random.default_rng(seed), exact=exact)
    removal = coupling.removal(units)
    wanted = run_graph(masked(graph, removal), inputs)
    pruned = graph.clone()
    own = coupling_of(pruned)
    twin = own.removal({d: units[e] for d, e in zip(own.dimensions, coupling.dimensions) if e in units})
    with pruned.edit("narrow") as editor:
        narrow(pruned, editor, twin)
    verify(pruned)
    found = run_graph(pruned, inputs)
    for value, a, b in zip(graph.outputs, wanted, found):
        assert a.shape == b.shape
        if exact:
            compare(a, b, "rounding", f"%{value.name}")
    return units


def weights_of(graph: Graph) -> int:
    """Elements of all constants."""
    return sum(int(np.prod(n.type.static_shape)) for n in graph.nodes if n.op.name == "const")


def value_named(graph: Graph, name: str) -> Value:
    return graph.value(name)

"""Clean-ups on random graphs: the same numbers, nothing left to do, every prefix of the rewrites right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mcomp.errors import BackendError
from mcomp.ir import Graph, Node, graph_text, parse_graph, verify
from mcomp.manager import Context, PassManager
from mcomp.manager.defaults import CLEANUP
from mcomp.ops.evaluate import run_graph
from tests.numbers import compare, random_inputs
from tests.strategies import graphs, inputs_for

EXACT = (
    "dce", "cse", "fold{affine=false,numbers=false}", "simplify{exact=true}", "fuse", "fuse{max_size=3}",
    "fixpoint(simplify{exact=true},fold{affine=false,numbers=false},cse,dce),fuse",
)
_quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _run(graph: Graph, pipeline: str, context: Context | None = None) -> Graph:
    after = graph.clone()
    PassManager(pipeline).run(after, context)
    verify(after)
    return after


def _run_or_reject(graph: Graph, inputs: list[Any]) -> list[Any]:
    """The results; an example whose symbolic sizes do not fit at run time is no example."""
    try:
        return run_graph(graph, inputs)
    except BackendError:
        assume(False)
        raise


def _check(graph: Graph, after: Graph, effect: str) -> None:
    for batch, seed in ((3, 0), (1, 1)):
        inputs = inputs_for(graph, batch, seed)
        wanted = _run_or_reject(graph, inputs)
        found = run_graph(after, inputs)
        for value, a, b in zip(graph.outputs, wanted, found):
            compare(a, b, effect, f"%{value.name} for B = {batch}")


@pytest.mark.parametrize("pipeline", EXACT)
@_quick
@given(graph=graphs())
def test_exact_passes_keep_every_bit(pipeline: str, graph: Graph) -> None:
    _check(graph, _run(graph, pipeline), "exact")


@_quick
@given(graph=graphs(), seed=st.integers(0, 9))
def test_exact_passes_keep_nan_infinities_and_signed_zeros(graph: Graph, seed: int) -> None:
    assume(not any(_casts_to_integers(n) for n in graph.nodes))
    after = _run(graph, EXACT[-1])
    inputs = random_inputs(graph, seed, special=True)
    for value, a, b in zip(graph.outputs, _run_or_reject(graph, inputs), run_graph(after, inputs)):
        compare(a, b, "exact", f"%{value.name}")


def _casts_to_integers(node: Node) -> bool:
    """What NaN and infinities become as integers is not defined."""
    return node.op.name == "cast" and node.operand(0).tensor.dtype.is_float and node.type.dtype.is_int


@_quick
@given(graph=graphs(max_steps=16))
def test_the_whole_clean_up_rounds_at_most(graph: Graph) -> None:
    _check(graph, _run(graph, CLEANUP + ",fuse"), "rounding")


@_quick
@given(graph=graphs(max_steps=16))
def test_a_second_run_finds_nothing(graph: Graph) -> None:
    once = _run(graph, CLEANUP + ",fuse")
    twice = _run(once, CLEANUP + ",fuse")
    assert graph_text(twice) == graph_text(once)


@_quick
@given(graph=graphs(), limit=st.integers(0, 6))
def test_any_number_of_rewrites_leaves_a_right_graph(graph: Graph, limit: int) -> None:
    context = Context()
    context.rewrite_limit = limit
    after = _run(graph, EXACT[-1], context)
    assert context.rewrites <= limit
    _check(graph, after, "exact")


@_quick
@given(graph=graphs())
def test_cleaned_and_fused_graphs_print_and_parse(graph: Graph) -> None:
    after = _run(graph, CLEANUP + ",fuse")
    text = graph_text(after, digests=32)
    assert graph_text(parse_graph(text, after.store), digests=32) == text

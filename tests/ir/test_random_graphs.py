"""Random graphs: text both ways, clones, the verifier, running."""

from __future__ import annotations

import torch
from hypothesis import given, settings

from mcomp.ir import Graph, dtypes, graph_text, parse_graph, verify
from mcomp.ops.evaluate import run_graph
from tests.strategies import graphs, inputs_for

_SETTINGS = settings(max_examples=30, deadline=None)


@_SETTINGS
@given(graphs())
def test_printing_then_parsing_gives_the_same_text(graph: Graph) -> None:
    verify(graph)
    text = graph_text(graph, digests=32)
    again = parse_graph(text, graph.store)
    verify(again)
    assert graph_text(again, digests=32) == text
    assert [n.loc for n in again.nodes] == [n.loc for n in graph.nodes]


@_SETTINGS
@given(graphs())
def test_a_clone_is_equal_and_independent(graph: Graph) -> None:
    text = str(graph)
    copy = graph.clone()
    verify(copy)
    assert str(copy) == text
    with copy.edit("change") as e:
        node = e.add("neg", [copy.inputs[0]])
    copy.set_outputs([node.result])
    verify(copy)
    assert str(graph) == text
    verify(graph)


@_SETTINGS
@given(graphs())
def test_results_have_the_types_of_the_graph(graph: Graph) -> None:
    for batch in (1, 3):
        outputs = run_graph(graph, inputs_for(graph, batch))
        assert [o.dtype for o in outputs] == [dtypes.to_torch(v.tensor.dtype) for v in graph.outputs]


@settings(max_examples=15, deadline=None)
@given(graphs(max_steps=6))
def test_a_parsed_graph_computes_the_same(graph: Graph) -> None:
    again = parse_graph(graph_text(graph, digests=32), graph.store)
    inputs = inputs_for(graph, 2)
    for a, b in zip(run_graph(graph, inputs), run_graph(again, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)

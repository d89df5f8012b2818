"""The editor: what it does to uses, names and order, and that a failed edit leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.errors import IRError
from mcomp.ir import Editor, Graph, Loc, Node, TensorType, parse_graph, verify
from mcomp.ir.dtypes import f32
from tests.strategies import graphs


def _chain() -> Graph:
    return parse_graph("""graph @g(%x: f32[2], %z: f32[2]) -> (f32[2]) {
  %a = neg %x : f32[2]
  %b = add %a, %a : f32[2]
  %c = mul %b, %z : f32[2]
  return %c
}""")


def _node(graph: Graph, name: str) -> Node:
    node = graph.value(name).producer
    assert node is not None
    return node


def _state(graph: Graph) -> object:
    """All that an edit may change."""
    uses = {v.name: frozenset((n.name, i) for n, i in v.uses) for n in graph.nodes for v in n.results}
    return (
        str(graph), [n.name for n in graph.reversed_nodes()], uses, list(graph.input_specs), list(graph.output_specs),
        sorted(graph._names), len(graph.journal),
    )


def test_adding_infers_types_and_fills_in_attributes() -> None:
    graph = _chain()
    with graph.edit() as e:
        node = e.add("gelu", [graph.value("c")], name="act", loc=Loc("mlp.act"))
    assert node.attrs == {"approximate": "none"}
    assert (node.name, node.type, node.layer) == ("act", TensorType((2,), f32), "mlp.act")
    with pytest.raises(TypeError):
        node.attrs["approximate"] = "tanh"  # type: ignore[index]
    verify(graph)


def test_names_stay_unique() -> None:
    graph = _chain()
    with graph.edit() as e:
        names = [e.add("neg", [graph.value("x")], name="a").name for _ in range(3)]
    assert names == ["a_1", "a_2", "a_3"]


def test_replacing_keeps_the_name_and_moves_all_uses() -> None:
    graph = _chain()
    old = graph.value("b")
    with graph.edit("double") as e:
        two = e.const(np.full((), 2, np.float32), name="two", before=old.producer)
        new = e.add("mul", [graph.value("a"), two], before=old.producer)
        e.replace_node(_node(graph, "b"), [new.result])
    verify(graph)
    assert new.result.name == "b"
    assert _node(graph, "c").operands[0] is not old
    assert [n.op.name for n in graph.nodes] == ["neg", "const", "mul", "mul"]
    (entry,) = graph.journal
    assert (entry.number, entry.label, entry.removed) == (1, "double", ("b",))
    assert set(entry.added) == {"two", "b"}


def test_replacing_an_output_keeps_the_graph_whole() -> None:
    graph = _chain()
    with graph.edit() as e:
        node = e.add("relu", [graph.value("c")])
        e.replace(graph.value("c"), node.result)
    verify(graph)
    assert graph.outputs == (node.result,)
    assert node.operands[0] is not node.result


def test_erasing_what_is_used_is_an_error_and_changes_nothing() -> None:
    graph = _chain()
    before = _state(graph)
    with pytest.raises(IRError, match="%a is still used by add"), graph.edit() as e:
        e.erase(_node(graph, "a"))
    assert _state(graph) == before


def test_values_of_other_graphs_are_refused() -> None:
    graph, other = _chain(), _chain()
    with pytest.raises(IRError, match="belongs to another graph"), graph.edit() as e:
        e.add("neg", [other.value("x")])


def test_nodes_may_be_erased_and_added_while_iterating() -> None:
    graph = _chain()
    visited = []
    for node in graph.nodes:
        visited.append(node.op.name)
        if node.op.name == "add":
            with graph.edit() as e:
                new = e.add("sub", list(node.operands), before=node)
                e.replace_node(node, [new.result])
    assert visited == ["neg", "add", "mul"]
    verify(graph)


def test_moving_and_inlining() -> None:
    graph = parse_graph("""graph @g(%x: f32[2]) -> (f32[2]) {
  %a = neg %x : f32[2]
  %b = abs %x : f32[2]
  %c = add %a, %b : f32[2]
  return %c
}""")
    with graph.edit() as e:
        e.move(_node(graph, "b"), _node(graph, "a"))
    assert [n.name for n in graph.nodes] == ["b", "a", "c"]
    with graph.edit() as e:
        (inlined,) = e.inline(_chain(), [graph.value("a"), graph.value("b")], before=_node(graph, "c"))
        e.set_operand(_node(graph, "c"), 0, inlined)
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["abs", "neg", "neg", "add", "mul", "add"]


def test_an_edit_inside_an_edit_joins_it() -> None:
    graph = _chain()
    before = _state(graph)
    with pytest.raises(RuntimeError), graph.edit("outer") as outer:
        outer.add("neg", [graph.value("x")])
        with graph.edit("inner") as inner:
            assert inner is outer
            inner.add("abs", [graph.value("x")])
        raise RuntimeError
    assert _state(graph) == before


def test_the_version_counts_edits_and_their_undoing() -> None:
    graph = _chain()
    versions = [graph.version]
    with graph.edit() as e:
        e.add("neg", [graph.value("x")])
    versions.append(graph.version)
    with pytest.raises(RuntimeError), graph.edit() as e:
        e.add("neg", [graph.value("x")])
        raise RuntimeError
    versions.append(graph.version)
    assert versions == sorted(set(versions))


_Change = Callable[[Editor, Graph, Callable[[int], int]], None]


def _add(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    values = [*graph.inputs, *(v for n in graph.nodes for v in n.results)]
    e.add("neg" if values[pick(len(values))].tensor.dtype.kind != "bool" else "logical_not", [values[pick(len(values))]])


def _replace(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    nodes = [n for n in graph.nodes if len(n.results) == 1]
    if nodes:
        node = nodes[pick(len(nodes))]
        copy = e.add(node.op, node.operands, node.attrs, before=node, types=[node.result.type])
        e.replace_node(node, [copy.result])


def _erase(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    for node in graph.reversed_nodes():
        if not any(v.uses for v in node.results):
            e.erase(node)


def _rename(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    e.rename(graph.inputs[pick(len(graph.inputs))], "renamed")


def _retype(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    value = graph.inputs[pick(len(graph.inputs))]
    e.set_type(value, value.tensor.with_shape((7,)))
    e.set_loc(next(iter(graph.nodes), graph.returns), Loc("elsewhere"))


def _outputs(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    graph.set_outputs([graph.inputs[pick(len(graph.inputs))]] * 2)


def _input(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    e.add("neg", [graph.add_input("late", TensorType((2,), f32))])


def _move(e: Editor, graph: Graph, pick: Callable[[int], int]) -> None:
    nodes = list(graph.nodes)
    if len(nodes) > 1:
        e.move(nodes[-1], nodes[0])


_CHANGES: list[_Change] = [_add, _replace, _erase, _rename, _retype, _outputs, _input, _move]


@settings(deadline=None, max_examples=60)
@given(
    graphs(max_steps=6), st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_a_failed_edit_leaves_no_trace(graph: Graph, changes: list[_Change], random: object) -> None:
    before = _state(graph)
    with pytest.raises(KeyboardInterrupt), graph.edit("doomed") as e:
        for change in changes:
            try:
                change(e, graph, lambda n: random.randrange(n))  # type: ignore[attr-defined]
            except IRError:
                continue
        raise KeyboardInterrupt
    assert _state(graph) == before
    verify(graph)
    with graph.edit("after") as e:
        e.add("neg", [graph.value("x")])
    verify(graph)

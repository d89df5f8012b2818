"""The driver: fixpoint, one journalled edit per application, remarks, exclusion, the gate of bisecting, atomicity."""

from __future__ import annotations

import pytest

from mcomp.errors import IRError
from mcomp.ir import Editor, Graph, Value, parse_graph, verify
from mcomp.manager import Context, PassEffect
from mcomp.rewrite import Match, Miss, apply_rules, op, rule, var

x = var("x")


@rule("drop_double", op("neg", op("neg", x)))
def drop_double(match: Match, editor: Editor) -> Value:
    return match["x"]


@rule("exp_once", op("exp", op("exp", x)), effect=PassEffect.ROUNDING,
      check=lambda m: Miss("x is not bounded", "clamp it") if m["x"].producer is None else None)
def exp_once(match: Match, editor: Editor) -> Value:
    return match.add(editor, "exp", [match["x"]])


@rule("private_abs", op("abs", op("tanh", x)), private=True)
def private_abs(match: Match, editor: Editor) -> Value:
    return match.add(editor, "tanh", [match["x"]])


def chain(name: str, length: int) -> Graph:
    lines = [f"  %v{i + 1} = {name} %v{i} : f32[4]  loc(layer.{i})" for i in range(length)]
    text = "\n".join(["graph @g(%v0: f32[4]) -> (f32[4]) {", *lines, f"  return %v{length}", "}"])
    return parse_graph(text)


def test_applies_to_a_fixpoint() -> None:
    graph = chain("neg", 7)
    outcome = apply_rules([drop_double], graph, Context(), "test")
    verify(graph)
    assert outcome.applied == {"drop_double": 3}
    assert [n.op.name for n in graph.nodes] == ["neg"]


def test_each_application_is_one_numbered_edit_with_its_place() -> None:
    graph = chain("neg", 4)
    apply_rules([drop_double], graph, Context(), "test")
    assert [(r.number, r.label) for r in graph.journal] == [(1, "drop_double"), (2, "drop_double")]
    assert graph.journal[0].removed == ("v2", "v1")
    assert graph.journal[0].loc.paths == ("layer.0", "layer.1")


def test_new_nodes_know_what_they_replace_and_keep_the_name() -> None:
    graph = chain("tanh", 2)
    with graph.edit("abs") as editor:
        end = editor.add("abs", [graph.outputs[0]], name="y").result
    graph.set_outputs([end])
    apply_rules([private_abs], graph, Context(), "test")
    node = graph.outputs[0].producer
    assert node is not None and node.op.name == "tanh" and node.name == "y"
    assert str(node.loc) == "private_abs[layer.1]"


def test_a_miss_leaves_a_remark_and_the_graph() -> None:
    graph = chain("exp", 2)
    context = Context()
    version = graph.version
    assert not apply_rules([exp_once], graph, context, "test").changed
    assert graph.version == version
    (remark,) = context.remarks
    assert (remark.kind, remark.rule, remark.layer) == ("missed", "test.exp_once", "layer.1")
    assert (remark.reason, remark.remedy) == ("x is not bounded", "clamp it")


def test_a_private_match_must_not_be_seen_outside() -> None:
    graph = chain("tanh", 1)
    with graph.edit("abs") as editor:
        end = editor.add("abs", [graph.outputs[0]]).result
    graph.set_outputs([end, graph.value("v1")])
    context = Context()
    assert not apply_rules([private_abs], graph, context, "test").changed
    assert "%v1 is also used by return" in context.remarks[0].reason


def test_rules_that_round_respect_exclude() -> None:
    graph = chain("exp", 3)
    context = Context(exclude=["layer.2"])
    assert not apply_rules([exp_once], graph, context, "test").changed
    assert [r.kind for r in context.remarks if r.layer == "layer.1"] == ["note"] or context.remarks
    graph = chain("exp", 3)
    assert apply_rules([exp_once], graph, Context(layers={"layer.0": {"test": False}}), "test").changed
    graph = chain("exp", 3)
    assert not apply_rules([exp_once], graph, Context(layers={"layer.*": {"test": False}}), "test").changed


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 9])
def test_the_gate_lets_the_first_rewrites_through(limit: int) -> None:
    graph = chain("neg", 7)
    context = Context()
    context.rewrite_limit = limit
    outcome = apply_rules([drop_double], graph, context, "test")
    verify(graph)
    assert outcome.applied.get("drop_double", 0) == min(limit, 3) == context.rewrites == len(graph.journal)
    assert context.last_rewrite == ("test.drop_double" if limit else "")


def test_a_rewrite_that_fails_leaves_the_graph_as_it_was() -> None:
    @rule("broken", op("neg", op("neg", x)))
    def broken(match: Match, editor: Editor) -> Value:
        match.add(editor, "exp", [match["x"]])
        return match.add(editor, "reshape", [match["x"]], {"shape": (2, 2)})

    graph = chain("neg", 2)
    before = str(graph)
    with pytest.raises(IRError, match="broken"):
        apply_rules([broken], graph, Context(), "test")
    assert str(graph) == before
    verify(graph)


def test_a_size_that_is_open_is_not_replaced_by_a_number() -> None:
    @rule("narrows", op("add", x, var("rest")))
    def narrows(match: Match, editor: Editor) -> Value:
        return match.add(editor, "neg", [match["x"]])

    graph = parse_graph("""
graph @g[B in 1..](%p: f32[1, 4], %y: f32[B, 4]) -> (f32[B, 4]) {
  %s = add %p, %y : f32[B, 4]
  return %s
}
""")
    before = str(graph)
    with pytest.raises(IRError, match=r"narrows replaces %s: f32\[B, 4\] by a f32\[1, 4\]"):
        apply_rules([narrows], graph, Context(), "test")
    assert str(graph) == before

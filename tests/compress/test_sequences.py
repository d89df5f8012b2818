"""Attention and recurrent layers as levels of the planner: what is offered, what it takes, and what it makes."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcomp
from mcomp.ir import Graph, Node, verify
from mcomp.ir.encoding import DENSE
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.offers import LayersAndWidths, survey
from mcomp.plan.memory import Memory
from mcomp.plan.offers import Choice, Menu
from mcomp.plan.quality import relative_error
from mcomp.plan.spread import Spread
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, mixed
from tests.compress.networks import cleaned


class Reader(nn.Module):
    """An LSTM, attention over its states, a GRU, and a linear: f32[B, 12, 16] to f32[B, 12, 6]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.qkv = nn.Linear(48, 96)
        self.gru = nn.GRU(32, 24, batch_first=True)
        self.head = nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lstm(x)[0]
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(3 * q, k, v).transpose(1, 2).reshape(*x.shape[:2], 32)
        return self.head(self.gru(x)[0])


def data() -> torch.Tensor:
    return mixed(24, 12, 16)


@functools.cache
def _graph() -> Graph:
    return cleaned(Reader(), (data(),))


def context() -> Context:
    return Context(calibration=Calibration([[data()]]))


@functools.cache
def catalog() -> LayersAndWidths:
    return survey(_graph().clone(), context(), Menu(fast=True, small=True), Spread(), Memory())


def node_of(graph: Graph, kind: str) -> Node:
    return next(n for n in graph.nodes if n.op.name == kind)


def level(choice: Choice, kind: str, name: str) -> Choice:
    """The choice, with another level for the layer of a kind."""
    key = node_of(_graph(), kind).name
    group = next(i for i, g in enumerate(catalog().groups) if g.key == key)
    found = next(i for i, option in enumerate(catalog().groups[group].options) if option.name == name)
    return (*choice[:group], found, *choice[group + 1 :])


def made(choice: Choice) -> Graph:
    graph = _graph().clone()
    PassManager(catalog().pipeline(choice)).run(graph, context())
    verify(graph)
    return graph


def untouched() -> Choice:
    return (0,) * len(catalog().groups)


def test_what_is_offered() -> None:
    names = {g.key: [o.name for o in g.options] for g in catalog().groups}
    for kind, levels in (("lstm", ["float", "int8 dynamic", "int8"]), ("gru", ["float", "int8 dynamic", "int8"]),
                         ("attention", ["float", "int8 static"])):
        assert names[node_of(_graph(), kind).name] == levels
    assert catalog().pipeline(catalog().plain) == "quantize"


@pytest.mark.parametrize(("kind", "name"), [("lstm", "int8 dynamic"), ("lstm", "int8"), ("gru", "int8 dynamic"),
                                            ("gru", "int8"), ("attention", "int8 static")])
def test_a_level_makes_what_it_says_and_nothing_else(kind: str, name: str) -> None:
    choice = level(untouched(), kind, name)
    graph = made(choice)
    encoded = {n.op.name for n in graph.nodes if any(v is not None and v.tensor.encoding != DENSE for v in n.operands)}
    assert encoded == {kind}
    node = node_of(graph, kind)
    if kind == "attention":
        assert [v.producer.op.name for v in node.operands[:3] if v is not None and v.producer] == ["quantize"] * 3
    else:
        assert node.attrs["dynamic"] is (name == "int8 dynamic")
    expected = next(o.error for g, at in zip(catalog().groups, choice) for o in (g.options[at],) if at)
    error = relative_error([run_graph(graph, [data()])], [run_graph(_graph(), [data()])])
    assert 0.0 < error == pytest.approx(expected**0.5, rel=0.3)


def test_the_rest_stays_as_chosen_when_one_is_left_in_float() -> None:
    for kind in ("lstm", "gru", "attention"):
        graph = made(level(catalog().plain, kind, "float"))
        found = {n.op.name: any(v is not None and v.tensor.encoding != DENSE for v in n.operands) for n in graph.nodes
                 if n.op.name in ("lstm", "gru", "attention", "linear")}
        assert found == {name: name != kind for name in found} and len(found) == 4


def test_bytes_are_those_that_the_catalog_says() -> None:
    for choice in (untouched(), catalog().plain, level(catalog().plain, "lstm", "int8"),
                   level(catalog().plain, "gru", "float")):
        graph, found = made(choice), catalog()
        real = sum(n.result.weight.nbytes for n in graph.nodes
                   if n.op.name == "const" and n.type.rank > 1 and n.result.weight)
        promised = sum(found.nbytes(i, choice) for i in range(len(found.touching)))
        assert real == pytest.approx(promised, rel=0.02)


def test_pieces_hold_what_the_layer_will() -> None:
    found = catalog()
    for kind, name in (("lstm", "float"), ("lstm", "int8 dynamic"), ("gru", "int8"), ("attention", "int8 static")):
        choice = level(untouched(), kind, name)
        at = next(i for i, layer in enumerate(found.layers) if layer.node.op.name == kind)
        (piece,) = found.pieces(at, choice)
        verify(piece)
        node = node_of(piece, kind)
        assert any(v is not None and v.tensor.encoding != DENSE for v in node.operands) is (name != "float")
        assert [n.op.name for n in piece.nodes].count("quantize") == (3 if kind == "attention" else 0)
        assert found.operations(at, choice)[0] == name and found.operations(at, choice)[1] > 0


def test_layers_may_ask_for_float_activations() -> None:
    asked = Context(calibration=Calibration([[data()]]), layers={"lstm": {"activations": "none"}}, exclude=["gru"])
    found = survey(_graph().clone(), asked, Menu(), Spread(), Memory())
    names = {g.key: [o.name for o in g.options] for g in found.groups}
    assert names[node_of(_graph(), "lstm").name] == ["float", "int8"]
    assert node_of(_graph(), "gru").name not in names


@pytest.mark.parametrize(("kind", "text", "reason"), [
    ("attention", "int4", "operands are integers of 8 bits"), ("lstm", "int4", "no kernel for 4-bit"),
    ("attention", "int8 dynamic", "operands are integers of 8 bits"),
])
def test_what_they_cannot_have_leaves_a_remark(kind: str, text: str, reason: str) -> None:
    graph, seen, _ = compressed(_graph(), f'treat{{choices=["{node_of(_graph(), kind).name}={text}"]}}', [[data()]])
    assert not graph.ledger
    assert [r.kind for r in seen.remarks if reason in r.reason and r.remedy] == ["missed"]


def test_a_plan_leaves_the_layer_that_errs_most_in_float() -> None:
    """An LSTM whose weights amplify small errors; the budget is met by everything else in integers."""
    model = Reader().eval()
    with torch.no_grad():
        for weight in model.lstm.parameters():
            weight *= 6.0
    options = {"calibration": [(data()[:8],)], "objective": "size", "target": "reference", "progress": False}
    names = {kind: node_of(cleaned(model, (data(),)), kind).name for kind in ("lstm", "gru", "attention")}
    int8 = mcomp.optimize(model, (data()[:4],), pipeline="quantize", **options).report().stages[-1]  # type: ignore[arg-type]
    without = mcomp.optimize(
        model, (data()[:4],), pipeline=f"quantize{{leave=[{names['lstm']}]}}", **options,  # type: ignore[arg-type]
    ).report().stages[-1]
    assert without.error is not None and int8.error is not None and 1.3 * without.error < int8.error
    fast = mcomp.optimize(model, (data()[:4],), max_error=(without.error * int8.error) ** 0.5, **options)  # type: ignore[arg-type]
    report = fast.report()
    assert report.within_budget and report.kept.weight_bytes <= without.weight_bytes

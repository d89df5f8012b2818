"""Candidates: what they say of a layer is what their treatment does to it."""

import pytest
import torch

from mcomp.backend import backend_named
from mcomp.errors import PassError
from mcomp.ir import Graph, parse_graph, verify
from mcomp.manager import Context, parse_pipeline
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.candidates import DEFAULT, KEEP, Candidate, Menu, Treatment, apply, layer_candidates, piece
from mcomp.passes.compress.treatment import gives_bytes
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, conv, layers, mixed, mlp

TABLE = """
graph @g[B in 1..](%i: i64[B, 5]) -> (f32[B, 5, 64]) {
  %t = const @words.weight#seed=1 : f32[200, 64]  loc(words)
  %y = embedding %t, %i : f32[B, 5, 64]  loc(words)
  return %y
}"""


def image(count: int = 12) -> torch.Tensor:
    return mixed(count, 8, 8, 12).permute(0, 3, 1, 2).contiguous()


def table_ids() -> torch.Tensor:
    return torch.randint(0, 200, (64, 5), generator=torch.Generator().manual_seed(0))


CASES = {
    "linear": (mlp(outputs=64), mixed(300, 64)), "conv": (conv(outputs=24), image()),
    "depthwise": (conv(outputs=12, groups=12), image()), "table": (parse_graph(TABLE, generate=True), table_ids()),
}


def context(x: torch.Tensor, **options: object) -> Context:
    return Context(calibration=Calibration([[x]]), **options)  # type: ignore[arg-type]


def first(name: str, menu: Menu = DEFAULT) -> tuple[Graph, torch.Tensor, list[Candidate]]:
    graph, x = CASES[name]
    found = layer_candidates(graph, context(x), menu=menu)
    return graph, x, next(iter(found.values()))


def weights(graph: Graph) -> int:
    """Bytes of matrices and tables."""
    return sum(n.result.weight.nbytes for n in graph.nodes if n.op.name == "const" and n.type.rank > 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", CASES)
def test_every_candidate_says_what_its_treatment_does(name: str) -> None:
    """Bytes exactly, the error nearly, on the graph with this layer alone changed."""
    graph, x, candidates = first(name)
    others = weights(graph) - candidates[0].nbytes
    node = candidates[0].node
    assert candidates[0].treatment == KEEP and candidates[0].error == 0
    assert len({c.treatment for c in candidates}) == len(candidates) > 3
    exact = run_graph(graph, [x])
    for candidate in candidates[1:]:
        copy = graph.clone()
        apply(copy, context(x), {node: candidate.treatment})
        verify(copy)
        bias = candidate.nbytes if candidate.treatment.scheme != "table" else candidate.nbytes - 4 * 64
        assert weights(copy) - others == bias, candidate
        assert sum(e.bytes_saved for e in copy.ledger) > 0
        if name != "linear":
            error = relative_error([run_graph(copy, [x])], [exact])
            assert 0.5 * error < candidate.error < 1.6 * error + 2e-3, (candidate, error)
        else:
            ledger = sum(e.error**2 for e in copy.ledger) ** 0.5
            assert 0.5 * ledger < candidate.error < 2 * ledger, (candidate, ledger)


@pytest.mark.parametrize("name", ["linear", "conv", "depthwise"])
def test_pieces_are_shaped_as_what_the_treatment_leaves(name: str) -> None:
    graph, x, candidates = first(name)
    node = next(n for n in layers(graph) if n.name == candidates[0].node)
    for candidate in candidates:
        small = piece(node, candidate.treatment)
        verify(small)
        copy = graph.clone()
        apply(copy, context(x), {node.name: candidate.treatment})
        count = len(layers(copy)) - len(layers(graph)) + 1
        real = [n.operand(1).tensor for n in layers(copy)[:count]]
        found = [n.operand(1).tensor for n in layers(small)]
        assert [(t.shape, t.encoding) for t in found] == [(t.shape, t.encoding) for t in real]
        assert run_graph(small, [x[:2]])[0].shape == node.op.reference([x[:2], torch.zeros(
            node.operand(1).tensor.static_shape), None], node.attrs).shape


RESIDUAL = """graph @g[B in 1..](%x: f32[B, 8, 6, 6]) -> (f32[B, 8, 6, 6], f32[B, 4]) {
  %a = const @a#seed=1 : f32[8, 8, 1, 1]
  %b = const @b#seed=2 : f32[8, 8, 1, 1]
  %c = const @c#seed=3 : f32[8, 8, 1, 1]
  %f = const @f#seed=4 : f32[4, 8]
  %h = conv %x, %a {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 8, 6, 6]
  %r = relu %h : f32[B, 8, 6, 6]
  %i = conv %r, %b {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 8, 6, 6]
  %s = add %i, %r : f32[B, 8, 6, 6]
  %p = mean %s {axes=[2, 3], keepdim=false} : f32[B, 8]
  %y = linear %p, %f : f32[B, 4]
  %z = conv %r, %c {stride=[1,1], padding=[[0,0],[0,0]], dilation=[1,1], groups=1} : f32[B, 8, 6, 6]
  return %z, %y
}"""


def test_layers_before_products_give_bytes() -> None:
    graph = parse_graph(RESIDUAL, generate=True)
    assert [(n.name, gives_bytes(n)) for n in layers(graph)] == [("h", True), ("i", True), ("y", False), ("z", False)]
    static = Treatment(bits=8, activations="static")
    for node in layers(graph):
        ops = [n.op.name for n in piece(node, static).nodes if n.op.name != "const"]
        behind = ["quantize", "decode"] if gives_bytes(node) else []
        assert ops == ["quantize", node.op.name, *behind]
    other = [n.op.name for n in piece(layers(graph)[0], Treatment(bits=8)).nodes if n.op.name != "const"]
    assert other == ["conv"]


def test_more_of_a_layer_left_means_less_error() -> None:
    _, _, candidates = first("linear", Menu(blocks=((32, 4),)))

    def errors(**wanted: object) -> list[float]:
        some = [c for c in candidates if all(getattr(c.treatment, k) == v for k, v in wanted.items())]
        return [c.error for c in sorted(some, key=lambda c: c.share)]

    for chosen in ({"scheme": "channel", "bits": None}, {"block": (32, 4), "bits": None}, {"scheme": "channel", "bits": 8,
                                                                                          "activations": "static"}):
        assert len(errors(**chosen)) >= 2 and errors(**chosen) == sorted(errors(**chosen), reverse=True)
    eight, four = (errors(scheme=None, block=None, bits=b, activations="none")[0] for b in (8, 4))
    assert eight < four


def test_blocks_are_the_first_of_the_target_that_a_weight_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    target = backend_named("cpu")
    assert target.zero_blocks()[-1] == (32, 4)

    def blocks() -> set[tuple[int, int]]:
        return {c.treatment.block for c in first("linear")[2] if c.treatment.block is not None}

    monkeypatch.setattr(target, "zero_blocks", lambda: ((32, 7), (16, 8), (32, 4)))
    assert blocks() == {(16, 8)}
    monkeypatch.setattr(target, "zero_blocks", lambda: ((32, 7),))
    assert not blocks()


def test_layers_and_rules_that_users_exclude() -> None:
    graph, x = CASES["linear"]
    found = layer_candidates(graph, context(x, exclude=["fc1"], layers={"fc2": {"quantize": False, "prune": False}}))
    assert [c.treatment for c in found["h"]] == [KEEP]
    assert {(c.treatment.bits, c.treatment.block) for c in found["y"]} == {(None, None)} and len(found["y"]) > 1


def test_a_plan_for_several_layers() -> None:
    graph, x = CASES["linear"]
    found = layer_candidates(graph, context(x), menu=Menu(shares=(0.5,), gone=(0.5,), precisions=((8, "static"),)))
    plan = {"h": next(c.treatment for c in found["h"] if c.treatment.scheme), "y": Treatment(block=(32, 4), gone=0.5, bits=8,
                                                                                         activations="static")}
    copy = graph.clone()
    apply(copy, context(x), plan)
    verify(copy)
    assert [e.rule for e in copy.ledger] == ["lowrank", "prune", "quantize", "quantize", "quantize"]
    whole = {n: next(c for c in found[n] if c.treatment == t) for n, t in plan.items()}
    assert weights(copy) == sum(c.nbytes for c in whole.values())
    again = graph.clone()
    apply(again, context(x), plan)
    assert str(again) == str(copy)


def test_a_plan_as_text() -> None:
    graph, x = CASES["linear"]
    pipeline = 'treat{choices=["h=channel 16, int8 static","y=blocks 32x4 without 0.5, int4"]}'
    assert str(parse_pipeline(pipeline)[0]) == pipeline
    copy, _, _ = compressed(graph, pipeline, [[x]])
    assert [e.rule for e in copy.ledger] == ["lowrank", "prune", "quantize", "quantize", "quantize"]
    direct = graph.clone()
    apply(direct, context(x), {"h": Treatment("channel", (16,), bits=8, activations="static"),
                               "y": Treatment(block=(32, 4), gone=0.5, bits=4)})
    assert str(direct) == str(copy)
    _, remarks, error = compressed(graph, 'treat{choices=["nowhere=int8"]}', [[x]])
    assert error == 0 and "no layer of this name" in remarks.remarks[0].reason


@pytest.mark.parametrize("treatment", [
    KEEP, Treatment("tucker", (8, 12)), Treatment("table", (96,), bits=4), Treatment(block=(16, 4), gone=0.75),
    Treatment("channel", (4,), bits=8, activations="dynamic"), Treatment(bits=4, activations="static"),
])
def test_treatments_as_text(treatment: Treatment) -> None:
    assert Treatment.parse(str(treatment)) == treatment


@pytest.mark.parametrize("text", [
    "int5", "channel", "tucker 8", "channel 8x8", "channel 8, blocks 32x4 without 0.5", "channel 0", "",
])
def test_texts_that_are_no_treatment(text: str) -> None:
    with pytest.raises(ValueError, match=r"no treatment|cannot be had"):
        Treatment.parse(text)
    with pytest.raises(PassError, match="MC0204"):
        compressed(CASES["linear"][0], f'treat{{choices=["h={text}"]}}', [[CASES["linear"][1]]])


def test_layers_that_cannot_be_treated_so_say_why() -> None:
    graph, x = CASES["depthwise"]
    copy, found, error = compressed(graph, 'treat{choices=["y=channel 4"]}', [[x]])
    assert error == 0 and "groups" in found.remarks[0].reason
    copy, found, error = compressed(graph, 'treat{choices=["y=blocks 4x4 without 0.5"]}', [[x]])
    assert error == 0 and found.remarks[0].reason == "conv has no block-sparse form with a kernel of 3x3"
    copy, found, error = compressed(graph, 'treat{choices=["y=int8"]}', [[x]], exclude=["c"])
    assert error == 0 and not copy.ledger


def test_without_data_there_is_an_error() -> None:
    with pytest.raises(PassError, match="MC0205"):
        layer_candidates(mlp(), Context())

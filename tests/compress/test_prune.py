"""prune: what goes, what that costs, how the rest is fitted, refusals, text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mcomp.errors import PassError
from mcomp.ir import NM, BlockSparse, Graph, graph_text, parse_graph, verify
from mcomp.ir.dtypes import DTYPES, to_torch
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.passes.analysis import CouplingAnalysis, Operations
from mcomp.passes.compress import curves, prune
from mcomp.passes.compress.branches import branches
from mcomp.passes.compress.curves import prune_curves
from mcomp.passes.compress.fitting import fit_again
from mcomp.passes.compress.moments import collect_moments
from mcomp.passes.compress.prune import Prune
from mcomp.passes.compress.relevance import mark_relevant
from mcomp.passes.compress.surgeon import Reader, refit_errors, surgeon_order
from mcomp.plan.quality import relative_error
from mcomp.runtime.calibration import Calibration
from tests.compress.masking import weights_of
from tests.compress.networks import network

MLP = """
graph @mlp[B in 1..](%x: f32[B, 16]) -> (f32[B, 8]) {
  %w = const @fc1.weight#seed=1 : f32[64, 16]  loc(fc1)
  %b = const @fc1.bias#seed=2 : f32[64]  loc(fc1)
  %h = linear %x, %w, %b : f32[B, 64]  loc(fc1)
  %r = relu %h : f32[B, 64]  loc(act)
  %v = const @fc2.weight#seed=3 : f32[32, 64]  loc(fc2)
  %g = linear %r, %v : f32[B, 32]  loc(fc2)
  %s = relu %g : f32[B, 32]  loc(act)
  %u = const @fc3.weight#seed=4 : f32[8, 32]  loc(fc3)
  %y = linear %s, %u : f32[B, 8]  loc(fc3)
  return %y
}
"""


def inputs(count: int = 512, width: int = 16, rank: int = 6) -> torch.Tensor:
    """Rows near a subspace, so that units can stand for each other."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(rank, width, generator=generator)
    return torch.randn(count, rank, generator=generator) @ basis + 0.05 * torch.randn(count, width, generator=generator)


def pruned(graph: Graph, pipeline: str, batch: list[Any], **options: Any) -> tuple[Graph, Context, float]:
    """The graph after the pipeline, its context, and the relative error of its outputs."""
    context = Context(calibration=Calibration([batch]), **options)
    expected = run_graph(graph, batch)
    after = graph.clone()
    PassManager(pipeline).run(after, context)
    verify(after)
    assert graph_text(parse_graph(graph_text(after), after.store)) == graph_text(after)
    return after, context, relative_error([run_graph(after, batch)], [expected])


def mlp() -> Graph:
    return parse_graph(MLP, generate=True)


def widths(graph: Graph) -> list[int]:
    return [int(graph.value(name).tensor.shape[1]) for name in ("h", "g")]


@pytest.mark.parametrize("score", ["obs", "activation", "magnitude", "taylor"])
def test_a_share_of_every_dimension_goes(score: str) -> None:
    graph, context, error = pruned(mlp(), f"prune{{ratio=0.25,score={score}}}", [inputs()])
    assert widths(graph) == [48, 24] and 0 < error < 0.5
    assert [e.layer for e in graph.ledger] == ["fc1", "fc2"]
    assert all(0 < e.error < 1 and e.bytes_saved > 0 for e in graph.ledger)
    assert sum(r.kind == "applied" for r in context.remarks) == 2
    products = [n for n in graph.nodes if n.op.name == "linear"]
    assert [(n.loc.rule, n.layer) for n in products] == [("prune", "fc1"), ("prune", "fc2"), ("prune", "fc3")]


def test_refits_and_better_scores_lose_less() -> None:
    errors = {
        text: pruned(mlp(), f"prune{{ratio=0.5,{text}}}", [inputs()])[2]
        for text in ("score=obs", "score=obs,refit=false", "score=magnitude", "score=magnitude,refit=false")
    }
    assert errors["score=obs"] < 0.8 * errors["score=obs,refit=false"]
    assert errors["score=obs"] < 0.9 * errors["score=magnitude"] < errors["score=magnitude,refit=false"]


def test_few_samples_do_not_spoil_the_rest() -> None:
    """Fitted on fewer rows than a layer has inputs: still closer to the dense model on others than unfitted."""
    few, many = inputs(48, rank=16), inputs(1024, rank=16)[48:]
    expected = run_graph(mlp(), [many])
    errors = {}
    for text in ("damping=none", "damping=0.000001", "refit=false"):
        graph, _, _ = pruned(mlp(), f"prune{{ratio=0.25,{text}}}", [few])
        errors[text] = relative_error([run_graph(graph, [many])], [expected])
    assert errors["damping=none"] < min(errors.values()) + 1e-9
    assert errors["damping=none"] < 0.95 * errors["refit=false"]


def test_curves_of_one_graph_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other widths of the same graph and data need no second moments again, and what goes is what went without."""
    runs: list[int] = []

    def counted(*given: Any) -> Any:
        runs.append(1)
        return collect_moments(*given)

    monkeypatch.setattr(curves, "collect_moments", counted)
    data = Calibration([[inputs()]])
    texts = [str(pruned_on(data, counts)) for counts in ({"fc1": 48}, {"fc1": 32, "fc2": 16}, {"fc1": 32, "fc2": 16})]
    assert runs == [1, 1]
    assert texts[1] == texts[2] == str(pruned_on(Calibration(data.batches), {"fc1": 32, "fc2": 16}))
    pruned_on(data, {"fc1": 48}, "limit=1,")
    assert len(runs) == 4


def pruned_on(data: Calibration, counts: dict[str, int], options: str = "") -> Graph:
    """The MLP with so many units."""
    graph, widths = mlp(), ",".join(f'"{name}.weight:0={count}"' for name, count in counts.items())
    PassManager(f"prune{{{options}widths=[{widths}]}}").run(graph, Context(calibration=data))
    return graph


POOLED = """
graph @pooled[B in 1..](%x: f32[B, 10, 16], %keep: f32[B, 10, 1]) -> (f32[B, 8]) {
  %w = const @fc1.weight#seed=1 : f32[64, 16]  loc(fc1)
  %h = linear %x, %w : f32[B, 10, 64]  loc(fc1)
  %r = relu %h : f32[B, 10, 64]  loc(act)
  %v = const @fc2.weight#seed=3 : f32[8, 64]  loc(fc2)
  %g = linear %r, %v : f32[B, 10, 8]  loc(fc2)
  %m = mul %g, %keep : f32[B, 10, 8]
  %y = sum %m {axes = [1]} : f32[B, 8]
  return %y
}
"""


def test_what_is_masked_out_teaches_nothing() -> None:
    """Nine of ten tokens are padding, far from what counts."""
    graph = parse_graph(POOLED, generate=True)
    x, keep = inputs(640).reshape(64, 10, 16), torch.zeros(64, 10, 1)
    keep[:, 0] = 1
    x[:, 1:] = 5 * torch.randn(64, 9, 16, generator=torch.Generator().manual_seed(2))
    calibration = Calibration([[x[:32], keep[:32]], [x[32:], keep[32:]]])
    context = Context(calibration=calibration)
    mark_relevant(graph, context, 8)
    assert calibration.relevant is not None and set(calibration.relevant) == {(0, 320), (1, 320)}
    assert torch.equal(calibration.relevant[0, 320], keep[:32].reshape(-1) == 1)
    alone, plain = Calibration(calibration.batches), Calibration(calibration.batches)
    for pipeline, data in (("quantize{relevant=true,limit=8}", alone), ("quantize", plain)):
        PassManager(pipeline).run(graph.clone(), Context(calibration=data))
    assert alone.relevant is not None and set(alone.relevant) == set(calibration.relevant) and plain.relevant is None
    partly = Calibration(calibration.batches)
    for limit, marked in ((1, {(0, 320)}), (8, {(0, 320), (1, 320)})):
        mark_relevant(graph, Context(calibration=partly), limit)
        assert partly.relevant is not None and set(partly.relevant) == marked
    assert all(torch.equal(mark, calibration.relevant[key]) for key, mark in partly.relevant.items())
    expected = run_graph(graph, [x, keep])
    errors = []
    for relevant in (calibration.relevant, {}):
        after, other = graph.clone(), Calibration(calibration.batches)
        other.relevant = relevant
        PassManager("prune{ratio=0.5}").run(after, Context(calibration=other))
        errors.append(relative_error([run_graph(after, [x, keep])], [expected]))
    assert errors[0] < 0.7 * errors[1]


def test_where_everything_counts_nothing_is_marked() -> None:
    graph, batch = network("resnet-a")
    calibration = Calibration([batch])
    mark_relevant(graph, Context(calibration=calibration), 8)
    assert calibration.relevant == {}


def test_the_ledger_tells_what_a_layer_loses() -> None:
    """One dimension, no relu behind it: the layer's error is the model's."""
    text = MLP.replace("%s = relu %g : f32[B, 32]", "%s = neg %g : f32[B, 32]")
    graph, _, error = pruned(parse_graph(text, generate=True), "prune{widths=[\"fc2.weight:0=16\"]}", [inputs()])
    (entry,) = graph.ledger
    assert widths(graph) == [64, 16]
    assert 0.5 * entry.error <= error <= 2 * entry.error + 1e-6


@pytest.mark.parametrize("share", [0.9, 0.73, 0.5])
def test_operations_reach_their_target(share: float) -> None:
    graph, batch = network("resnet-a")
    coupling = Context().analyze(graph, CouplingAnalysis())
    whole = Operations(graph, coupling).total()
    after, _, error = pruned(graph, f"prune{{flops={share}}}", batch)
    left = Operations(after, Context().analyze(after, CouplingAnalysis())).total()
    assert 0.8 * share * whole < left <= share * whole
    assert 0 < error < 1


def test_rounds_reach_the_same_target() -> None:
    graph, context, error = pruned(mlp(), "prune{flops=0.5,rounds=3}", [inputs()])
    whole, left = (Operations(g, Context().analyze(g, CouplingAnalysis())).total() for g in (mlp(), graph))
    assert 0.4 * whole < left <= 0.5 * whole and 0 < error < 0.5
    assert len({e.layer for e in graph.ledger}) < len(graph.ledger)
    assert not [r for r in context.remarks if "nothing more" in r.reason]


def test_an_unreachable_target_is_remarked() -> None:
    _, context, _ = pruned(mlp(), "prune{flops=0.01,least=0.5}", [inputs()])
    assert any("nothing more can go" in r.reason for r in context.remarks)


@pytest.mark.parametrize(("name", "what"), [
    ("resnet-a", "stream"), ("mobile", "channels"), ("mobile", "stream"), ("dense", "channels"), ("next", "ffn"),
    ("gated", "heads"), ("gated", "ffn"), ("resnet-projected", "channels"),
])
def test_networks_shrink(name: str, what: str) -> None:
    graph, batch = network(name)
    after, context, error = pruned(graph, f"prune{{ratio=0.3,what={what}}}", batch)
    assert weights_of(after) < weights_of(graph) and 0 < error < 1
    assert after.ledger and not [r for r in context.remarks if "cannot be cut" in r.reason]


def test_weights_by_what_they_do_to_the_output() -> None:
    """A layer whose output hardly counts loses more."""
    graph = parse_graph("""
graph @two[B in 1..](%x: f32[B, 16]) -> (f32[B, 8]) {
  %w = const @a.weight#seed=1 : f32[64, 16]  loc(a)
  %i = linear %x, %w : f32[B, 64]  loc(a)
  %h = relu %i : f32[B, 64]  loc(a)
  %v = const @b.weight#seed=2 : f32[8, 64]  loc(b)
  %p = linear %h, %v : f32[B, 8]  loc(b)
  %s = full {value = 0.01, shape = [], dtype = !f32} : f32[]
  %q = mul %p, %s : f32[B, 8]
  %w2 = const @c.weight#seed=3 : f32[64, 16]  loc(c)
  %j = linear %x, %w2 : f32[B, 64]  loc(c)
  %k = relu %j : f32[B, 64]  loc(c)
  %v2 = const @d.weight#seed=4 : f32[8, 64]  loc(d)
  %z = linear %k, %v2 : f32[B, 8]  loc(d)
  %y = add %q, %z : f32[B, 8]
  return %y
}
""", generate=True)
    after, _, error = pruned(graph, "prune{flops=0.6}", [inputs()])
    assert int(after.value("i").tensor.shape[1]) < 16 < int(after.value("j").tensor.shape[1])
    assert error < pruned(graph, "prune{flops=0.6,weighing=layer}", [inputs()])[2]


# choosing


def test_removing_one_unit_by_another_is_free() -> None:
    """Two units that always agree: one of them goes first, for nothing."""
    x = torch.randn(400, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 4] = 2 * x[:, 1]
    weight = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reader = Reader(weight, x.T @ x / 400, torch.arange(6)[:, None])
    order = surgeon_order([reader], 6, 5)
    assert order.units[0] in (1, 4) and order.errors[1] < 1e-2 * order.errors[2]
    assert np.all(np.diff(order.errors) >= 0)


@pytest.mark.parametrize("step", [1, 3])
def test_errors_are_those_of_the_best_refit(step: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, mix, weight = (torch.randn(n, 12, dtype=torch.float64, generator=generator) for n in (300, 12, 5))
    x = x @ mix
    gram = x.T @ x / 300
    units = torch.arange(12).reshape(6, 2)
    reader = Reader(weight, gram, units)
    order = surgeon_order([reader], 6, 4, step)
    assert np.allclose(refit_errors([reader], order.units, range(5))[::4], order.errors[[0, 4]])
    kept = [int(i) for u in range(6) if u not in order.units for i in units[u]]
    best = torch.linalg.lstsq(x[:, kept], x @ weight.T).solution
    square = float((x @ weight.T - x[:, kept] @ best).square().sum() / 300)
    assert order.errors[4] == pytest.approx(square, rel=0.05)


def test_curves_are_plain_data_and_leave_the_graph_alone() -> None:
    graph = mlp()
    text = str(graph)
    context = Context(calibration=Calibration([[inputs()]]))
    curves = prune_curves(graph, context)
    assert str(graph) == text and [c.key for c in curves] == ["fc1.weight:0", "fc2.weight:0"]
    for curve in curves:
        assert sorted(curve.order) == sorted(set(curve.order)) and len(curve.errors) == len(curve.order) + 1
        assert curve.errors[0] == 0 and np.all(np.diff(curve.errors) >= 0) and curve.errors[-1] < 1.5


@pytest.mark.parametrize("rows", [24, 48, 100])
def test_units_are_not_free_where_rows_are_few(rows: int) -> None:
    """Fewer rows than units could be fitted without error by some of these: what is foretold is what other data shows."""
    graph, data = mlp(), inputs(1500)
    calibration = Calibration([[data[: rows // 2]], [data[rows // 2 : rows]]])
    curve = prune_curves(graph, Context(calibration=calibration), what=("ffn",), weighing="output")[0]
    assert curve.key == "fc1.weight:0"
    for gone in (16, 32, 48):
        small = graph.clone()
        options = Prune(what="ffn", widths=(f"{curve.key}={curve.size - gone}",))
        PassManager([options]).run(small, Context(calibration=calibration))
        error = relative_error([run_graph(small, [data[500:]])], [run_graph(graph, [data[500:]])])
        assert 0.45 * error < curve.errors[gone] ** 0.5 < 1.2 * error


# branches, blocks, pairs


def test_branches_of_a_residual_network() -> None:
    graph, batch = network("resnet-a")
    found = branches(graph)
    assert found and all(b.flops > 0 for b in found)
    after, _, error = pruned(graph, "prune{what=branches,ratio=0.5}", batch)
    assert len([n for n in after.nodes if n.op.name == "conv"]) < len([n for n in graph.nodes if n.op.name == "conv"])
    assert 0 < error < 1.5 and len(after.ledger) == round(0.5 * len(found))


def test_a_branch_by_name() -> None:
    graph, batch = network("resnet-a")
    key = branches(graph)[-1].key
    after, _, error = pruned(graph, f'prune{{what=branches,widths=["{key}=0"]}}', batch)
    assert len(after.ledger) == 1 and 0 < error < 1.5
    assert len([n for n in after.nodes if n.op.name == "conv"]) == len([n for n in graph.nodes if n.op.name == "conv"]) - 2


def test_branches_and_widths_by_name_go_together_and_the_rest_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, batch = network("resnet-a")
    context = Context(calibration=Calibration([batch]))
    gone = branches(graph)[0]
    inside = {n.attrs["name"] for n in gone.nodes if n.op.name == "const"}
    curves = prune_curves(graph, context, what=("channels",))
    within = next(c for c in curves if c.key.rpartition(":")[0] in inside)
    curve = next(c for c in reversed(curves) if c.key.rpartition(":")[0] not in inside)
    texts = f'"{gone.key}=0","{curve.key}={curve.size // 2}"'
    fits: list[list[str]] = []

    def counted(*args: Any, **options: Any) -> Any:
        fits.append([n.name for n in list(args[0].nodes)[args[5] :] if n.op.name == "conv"])
        return fit_again(*args, **options)

    monkeypatch.setattr(prune, "fit_again", counted)
    after, _, error = pruned(graph, f"prune{{what=[branches,channels],widths=[{texts}],weighing=layer}}", batch)
    start = min(graph.position(n) for n in gone.nodes if n.op.name == "conv")
    left = {n.name for n in after.nodes}
    assert fits == [[n.name for n in list(graph.nodes)[start:] if n.op.name == "conv" and n.name in left]]
    assert len(after.ledger) == 2
    _, _, apart = pruned(
        graph, f"prune{{what=channels,widths=[{texts}],weighing=layer}},prune{{what=branches,widths=[{texts}]}}", batch
    )
    assert 0 < error < 1.5 * apart
    _, _, unfitted = pruned(graph, f"prune{{what=[branches,channels],widths=[{texts}],refit=false}}", batch)
    assert error < unfitted and len(fits) == 2
    both = f'"{within.key}={within.size // 2}",{texts}'
    same, told, _ = pruned(graph, f"prune{{what=[branches,channels],widths=[{both}],weighing=layer}}", batch)
    assert len(same.ledger) == 2
    assert any("is gone as a whole" in r.reason for r in told.remarks)


TWO_BRANCHES = """
graph @two[B in 1..](%x: f32[B, 16]) -> (f32[B, 16]) {
  %w = const @long.weight#seed=1 : f32[64, 16]  loc(long)
  %h = linear %x, %w : f32[B, 64]  loc(long)
  %r = relu %h : f32[B, 64]  loc(act)
  %v = const @last.weight#seed=2 : f32[16, 64]  loc(last)
  %a = linear %r, %v : f32[B, 16]  loc(last)
  %u = const @short.weight#seed=3 : f32[16, 16]  loc(short)
  %b = linear %x, %u : f32[B, 16]  loc(short)
  %s = add %a, %b : f32[B, 16]
  %y = add %s, %x : f32[B, 16]
  return %y
}
"""


def test_what_is_added_after_a_branch_that_is_gone_stays() -> None:
    """The short layer is then added to the identity at once: that is not what its dense result was added to first."""
    graph, batch = parse_graph(TWO_BRANCHES, generate=True), [inputs()]
    fitted = pruned(graph, 'prune{what=branches,widths=["s=0"]}', batch)[2]
    unfitted = pruned(graph, 'prune{what=branches,widths=["s=0"],refit=false}', batch)[2]
    assert 0 < fitted <= 1.001 * unfitted


def test_branches_of_a_transformer_go_with_their_weights() -> None:
    graph, batch = network("gated")
    after, _, _ = pruned(graph, "prune{what=branches,ratio=0.9}", batch)
    assert not [n for n in after.nodes if n.op.name == "attention"]
    verify(after)


def test_blocks_are_stored_and_refitted() -> None:
    graph, _, error = pruned(mlp(), "prune{what=blocks,ratio=0.5,block=[8,4]}", [inputs()])
    encoding = graph.value("v").tensor.encoding
    assert isinstance(encoding, BlockSparse) and encoding.count == 32
    assert 0 < error < 0.5 and len(graph.ledger) == 3


def test_blocks_that_do_not_tile_are_refused() -> None:
    graph, context, _ = pruned(mlp(), "prune{what=blocks,ratio=0.5,block=[16,4]}", [inputs()])
    assert [r.layer for r in context.remarks if r.kind == "missed"] == ["fc3"]
    assert len(graph.ledger) == 2


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_two_of_four(dtype: str) -> None:
    given = parse_graph(MLP.replace("f32", dtype), generate=True)
    graph, _, error = pruned(given, "prune{what=nm}", [inputs().to(to_torch(DTYPES[dtype]))])
    assert graph.value("w").tensor == given.value("w").tensor.with_encoding(NM(2, 4)) and 0 < error < 0.4
    assert (graph.value("w").weight.decode().reshape(64, -1, 4) != 0).sum(-1).max() <= 2


# refusals


def test_excluded_layers_keep_their_units() -> None:
    graph, context, _ = pruned(mlp(), "prune{ratio=0.25}", [inputs()], exclude=["fc1"])
    assert widths(graph) == [64, 24]
    assert any("excluded" in r.reason for r in context.remarks)


def test_per_layer_ratio() -> None:
    graph, _, _ = pruned(mlp(), "prune{ratio=0.25}", [inputs()], layers={"fc1": {"ratio": 0.5}})
    assert widths(graph) == [32, 24]


def test_what_cannot_shrink_is_told() -> None:
    _, context, _ = pruned(mlp(), "prune", [inputs()])
    assert any(r.kind == "missed" and r.layer == "fc3" and "the model returns it" in r.reason for r in context.remarks)


def test_bisecting_stops_it() -> None:
    graph = mlp()
    context = Context(calibration=Calibration([[inputs()]]))
    context.rewrite_limit = 1
    PassManager("prune{ratio=0.25}").run(graph, context)
    assert widths(graph) == [48, 32]


@pytest.mark.parametrize(("text", "message"), [
    ("prune{what=rows}", "what is rows"), ("prune{ratio=1}", "ratio is 1"), ("prune{flops=0}", "flops is 0"),
    ("prune{granularity=0}", "granularity is 0"), ("prune{n=5}", "5 of 4"),
])
def test_wrong_options(text: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        PassManager(text).run(mlp(), Context(calibration=Calibration([[inputs(8)]])))


def test_calibration_is_needed() -> None:
    with pytest.raises(PassError, match="calibration"):
        PassManager("prune").run(mlp(), Context())


def test_the_text_form_comes_back() -> None:
    item = Prune(flops=0.73, what=("channels", "heads"), widths=("fc1.weight:0=8",))
    assert PassManager(item.text()).steps == (item,)


def test_the_same_seed_gives_the_same_graph() -> None:
    texts = {str(pruned(mlp(), "prune{flops=0.5}", [inputs()])[0]) for _ in range(2)}
    assert len(texts) == 1


def test_quantized_after_pruning() -> None:
    graph, _, error = pruned(mlp(), "prune{ratio=0.25},quantize", [inputs()])
    assert 0 < error < 0.3 and [e.rule for e in graph.ledger] == ["prune"] * 2 + ["quantize"] * 3

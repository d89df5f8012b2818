"""lowrank: factors are exact at full rank, best below it, and kept where they are less work."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mcomp.errors import PassError
from mcomp.ir import Affine, Graph, dtypes, parse_graph
from mcomp.manager import Context, PassManager
from mcomp.ops.evaluate import run_graph
from mcomp.passes.compress.algebra import whiten
from mcomp.passes.compress.encode import stored_floats
from mcomp.passes.compress.factors import Decomposer, rank_step
from mcomp.passes.compress.lowrank import decomposer_of
from mcomp.passes.compress.moments import Moments, collect_moments, weight_matrix
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, conv, layers, mixed, mlp, random
from tests.cpu.backend_harness import needs_compiler

CONVS = {
    "plain": conv(),
    "strided": conv(stride="2, 2", padding="[1, 0], [0, 1]", out="4, 4"),
    "dilated": conv(kernel="3, 2", stride="1, 2", dilation="2, 1", padding="[0, 0], [0, 0]", out="4, 4"),
    "pointwise": conv(kernel="1, 1", padding="[0, 0], [0, 0]"),
    "line": conv(kernel="3", stride="1", padding="[1, 1]", dilation="1", size="8", out="8"),
}


def images(graph: object, count: int = 6) -> torch.Tensor:
    shape = [d if isinstance(d, int) else count for d in layers(graph)[0].operand(0).tensor.shape]  # type: ignore[arg-type]
    return mixed(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def decomposed(name: str) -> tuple[Decomposer, Moments]:
    graph = CONVS[name]
    (node,) = layers(graph)
    moments = collect_moments(graph, Calibration([[images(graph)]]), [node])[node]
    return decomposer_of(node, moments), moments


@pytest.mark.parametrize("name", CONVS)
def test_full_rank_is_exact_up_to_rounding(name: str) -> None:
    decomposer, _ = decomposed(name)
    for scheme in decomposer.schemes:
        full = decomposer.full_rank(scheme)
        ranks = (decomposer.shape[1], full) if scheme == "tucker" else (full,)
        factors = decomposer.factors(scheme, ranks)
        torch.testing.assert_close(factors.weight, decomposer.matrix, rtol=1e-6, atol=1e-6)
        assert factors.error < 1e-6


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("scheme", ["channel", "spatial", "tucker"])
def test_the_graph_gives_what_the_factors_multiply_to(name: str, scheme: str) -> None:
    """The rewritten graph's error is the one that was predicted from second moments, bias corrected."""
    graph = CONVS[name]
    x = images(graph)
    found, context, _ = compressed(graph, f"lowrank{{rank=6,conv={scheme},max_error=1e9,gain=1e9}}", [[x]])
    (entry,) = found.ledger
    assert [r.kind for r in context.remarks] == ["applied"]
    bias = layers(graph)[0].operand(2).weight
    assert bias is not None
    exact, rough = (run_graph(g, [x])[0].double() for g in (graph, found))
    whole = exact - torch.from_numpy(bias.decode().copy()).double().reshape(-1, *(1,) * (x.dim() - 2))
    assert entry.error == pytest.approx(float((rough - exact).norm() / whole.norm()), rel=1e-3)
    assert float((rough - exact).mean((0, *range(2, x.dim()))).abs().max()) < 1e-4
    assert found.value("y").producer is not None


def test_linear_factors_are_the_best_there_are() -> None:
    """The truncated singular value decomposition of W C^(1/2), by Eckart and Young."""
    rows = mixed(400, 20, rank=10).double()
    weight = random(30, 20, seed=5).double()
    moments = Moments((rows.T @ rows / 400)[None], rows.mean(0)[None], 400)
    root, _ = whiten(moments.gram[0])
    singular = torch.linalg.svdvals(weight @ root)
    for rank in (1, 4, 12):
        factors = Decomposer(weight, moments, centre=False).factors("channel", (rank,))
        best = float((singular[rank:].square().sum() / singular.square().sum()).sqrt())
        assert factors.error == pytest.approx(best, rel=1e-6)
        centred = Decomposer(weight, moments).factors("channel", (rank,))
        assert centred.error <= factors.error


@pytest.mark.parametrize("name", ["plain", "strided", "line"])
def test_more_rank_or_work_means_less_error(name: str) -> None:
    decomposer, _ = decomposed(name)
    for scheme in decomposer.schemes:
        found = [decomposer.within_operations(scheme, share) for share in (0.4, 0.6, 0.8)]
        errors = [f.error for f in found if f is not None]
        assert len(errors) >= 2 and errors == sorted(errors, reverse=True)
        assert all(f.share <= share for f, share in zip(found, (0.4, 0.6, 0.8)) if f is not None)
        for limit in (0.5, 0.2, 0.05):
            within = decomposer.within_error(scheme, limit)
            if within is not None:
                assert within.error <= limit * (1 + 1e-9)
    cheap = decomposer.choices((0.3, 0.6))
    assert cheap and all(f.share <= 0.6 for f in cheap)


def test_spatial_and_tucker_beat_what_ignores_the_inputs() -> None:
    decomposer, moments = decomposed("plain")
    (node,) = layers(CONVS["plain"])
    blind = Decomposer(
        weight_matrix(node).reshape(decomposer.shape),
        Moments(torch.eye(moments.gram.shape[-1]).double()[None], torch.zeros_like(moments.mean), 1), decomposer.attrs,
    )
    for scheme, ranks in (("spatial", (8,)), ("tucker", (8, 8)), ("channel", (8,))):
        seeing, unseeing = (d.factors(scheme, ranks) for d in (decomposer, blind))  # type: ignore[arg-type]
        assert seeing.error < 0.9 * moments.error(unseeing.weight[None] - decomposer.matrix, decomposer.matrix[None])


def test_ranks_by_energy_ratio_and_number() -> None:
    batches = [[mixed(200, 64, seed=i)] for i in range(2)]
    graph, _, error = compressed(mlp(), "lowrank{energy=0.995}", batches)
    assert [e.layer for e in graph.ledger] == ["fc1", "fc2"]
    assert all(0 < e.error <= 0.005**0.5 and e.bytes_saved > 0 for e in graph.ledger) and error < 0.2
    graph, _, _ = compressed(mlp(), "lowrank{ratio=0.5,max_error=1.0}", batches)
    assert [e.layer for e in graph.ledger] == ["fc1", "fc2"]
    assert all(n.operand(1).tensor.static_shape[0] % 16 == 0 for n in layers(graph))
    graph, _, _ = compressed(mlp(), "lowrank{rank=5,max_error=1.0}", batches, layers={"fc2": {"rank": 7}})
    assert [n.type.static_shape[1:] if n.type.is_static else n.type.shape[1] for n in layers(graph)] == [5, 96, 7, 48]


def test_bytes_saved_are_what_the_weights_lost() -> None:
    before = mlp()
    graph, _, _ = compressed(before, "lowrank{rank=8,max_error=1.0}", [[mixed(200, 64)]])

    def size(g: Graph) -> int:
        return sum(v.weight.nbytes for n in layers(g) for v in n.operands[1:] if v is not None and v.weight is not None)

    assert size(before) - size(graph) == sum(e.bytes_saved for e in graph.ledger)


def test_factors_are_quantized_as_any_linear() -> None:
    graph, _, error = compressed(mlp(), "lowrank{rank=16,max_error=1.0},quantize{bits=8}", [[mixed(200, 64)]])
    assert len(layers(graph)) == 4
    assert all(isinstance(n.operand(1).tensor.encoding, Affine) for n in layers(graph))
    _, _, alone = compressed(mlp(), "lowrank{rank=16,max_error=1.0}", [[mixed(200, 64)]])
    assert error < alone + 0.03


def test_half_precision_stays() -> None:
    graph = parse_graph("""
    graph @g[B in 1..](%x: f16[B, 64]) -> (f16[B, 64]) {
      %w = const @fc.weight#seed=1 : f16[64, 64]  loc(fc)
      %y = linear %x, %w : f16[B, 64]  loc(fc)
      return %y
    }""", generate=True)
    found, _, error = compressed(graph, "lowrank{rank=8,max_error=1.0}", [[mixed(100, 64).half()]])
    assert [n.operand(1).tensor.dtype for n in layers(found)] == [dtypes.f16] * 2
    assert 0 < error < 1
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    np.testing.assert_array_equal(dtypes.bf16_to_f32(stored_floats(values, dtypes.bf16)), values)


@pytest.mark.parametrize(("pipeline", "reason"), [
    ("lowrank{ratio=0.45}", "more than 25.0%"), ("lowrank{energy=1.0}", "of its operations"),
    ("lowrank{ratio=0.001}", "no rank is small enough"),
])
def test_layers_stay_whole_with_a_reason(pipeline: str, reason: str) -> None:
    graph, context, error = compressed(mlp(), pipeline, [[random(200, 64)]])
    assert error == 0 and not graph.ledger
    assert [r.layer for r in context.remarks if r.kind == "missed" and reason in r.reason and r.remedy] == ["fc1", "fc2"]


def test_layers_that_cannot_be_factorized_and_excluded_ones() -> None:
    batches = [[images(conv(groups=4))]]
    graph, context, _ = compressed(conv(groups=4), "lowrank{rank=2,max_error=1.0}", batches)
    assert not graph.ledger and "groups" in context.remarks[0].reason
    graph, context, _ = compressed(mlp(), "lowrank{rank=8,max_error=1.0}", [[mixed(100, 64)]], exclude=["fc1"])
    assert [e.layer for e in graph.ledger] == ["fc2"]
    graph, context, _ = compressed(mlp(), "quantize,lowrank{rank=8,max_error=1.0}", [[mixed(100, 64)]])
    assert all(e.rule == "quantize" for e in graph.ledger)
    assert any("run lowrank before quantize" in r.remedy for r in context.remarks)


def test_a_bias_that_is_computed_keeps_the_plain_moments() -> None:
    graph = parse_graph("""
    graph @g[B in 1..](%x: f32[B, 64], %c: f32[64]) -> (f32[B, 64]) {
      %w = const @fc.weight#seed=1 : f32[64, 64]  loc(fc)
      %b = neg %c : f32[64]
      %y = linear %x, %w, %b : f32[B, 64]  loc(fc)
      return %y
    }""", generate=True)
    found, _, _ = compressed(graph, "lowrank{rank=8,max_error=1.0}", [[mixed(100, 64), random(64)]])
    assert layers(found)[1].operand(2) is found.value("b")


@pytest.mark.parametrize("pipeline", [
    "lowrank{energy=2.0}", "lowrank{ratio=0.0}", "lowrank{rank=0}", "lowrank{rank=4,ratio=0.5}",
])
def test_options_out_of_range(pipeline: str) -> None:
    with pytest.raises(PassError):
        PassManager(pipeline).run(mlp(), Context(calibration=Calibration([[random(4, 64)]])))


def test_without_data_there_is_an_error() -> None:
    with pytest.raises(PassError, match="MC0205"):
        PassManager("lowrank").run(mlp(), Context())


def test_steps_of_ranks() -> None:
    assert [rank_step(n) for n in (4, 16, 64, 512)] == [1, 4, 8, 16]


def test_layers_that_are_not_measured_faster_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times come from the cost table; here from one in which thinner products cost as they are."""
    from mcomp.plan import costs

    def measure(self: costs.CostTable, pieces: list[object], sizes: object) -> int:
        for piece in pieces:
            linears = layers(piece)  # type: ignore[arg-type]
            narrow = linears[0].type.shape[-1] == 8
            self.times[costs.piece_key(piece, sizes)] = 1.0 if narrow else 3.0 if len(linears) > 1 else 2.0  # type: ignore[arg-type]
        return len(pieces)

    monkeypatch.setattr(costs.CostTable, "load", lambda target, threads: costs.CostTable(target, threads, None))  # type: ignore[arg-type]
    monkeypatch.setattr(costs.CostTable, "measure", measure)
    graph, context, _ = compressed(
        mlp(), "lowrank{rank=8,max_error=1.0,measured=true}", [[mixed(100, 64)]], layers={"fc2": {"rank": 16}},
    )
    assert [e.layer for e in graph.ledger] == ["fc1"]
    assert any(r.layer == "fc2" and "takes 3.0 us, the whole layer 2.0 us" in r.reason for r in context.remarks)


def test_layers_behind_are_fitted_to_what_they_gave() -> None:
    """fc2, whose full rank would be more work, stays whole and makes up for some of what fc1 lost."""
    batches = [[random(400, 64, seed=i) * torch.linspace(2.0, 0.1, 64)] for i in range(4)]
    errors = []
    for refit in ("false", "true"):
        pipeline = f"lowrank{{rank=16,max_error=1.0,refit={refit}}}"
        graph, _, error = compressed(mlp(), pipeline, batches, layers={"fc2": {"rank": 48}})
        assert [e.layer for e in graph.ledger] == ["fc1"]
        errors.append(error)
    assert errors[1] < 0.985 * errors[0]
    graph, _, error = compressed(mlp(), "lowrank{rank=16,max_error=1.0}", batches, exclude=["fc2"])
    assert error == pytest.approx(errors[0], rel=1e-3)


@needs_compiler
def test_layers_are_kept_whole_by_the_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A thirty-second of the work is faster; factors of full rank, twice the work, are not."""
    from mcomp.plan import costs

    monkeypatch.setattr(costs, "cache_directory", lambda: tmp_path)
    graph, context, _ = compressed(
        mlp(512, 512, 512), "lowrank{rank=8,max_error=9.0,gain=9.0,measured=true,refit=false}", [[mixed(256, 512)]],
        layers={"fc2": {"rank": 512}}, threads=1,
    )
    assert [e.layer for e in graph.ledger] == ["fc1"]
    told = [r for r in context.remarks if r.kind == "missed" and "the whole layer" in r.reason]
    assert [r.layer for r in told] == ["fc2"] and all(r.remedy for r in told)
    times = [float(word) for word in told[0].reason.split() if word.replace(".", "").isdigit() and "." in word]
    assert len(times) == 2 and times[0] > times[1] > 0

"""What a budget buys: int8 where it fits, float where it does not, and a report that says so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import mcomp
from mcomp.ir import Graph
from mcomp.manager import Context, Pass, PassEffect, PassResult
from mcomp.report import Report
from tests.api.models import Wide, batches, wide

X = batches(1)[0][0]


def optimize(**options: Any) -> mcomp.CompiledModel:
    return mcomp.optimize(wide(), (X,), **{"target": "reference", "objective": "size", "calibration": batches(), **options})


def error_of(fast: Any, model: Wide) -> float:
    with torch.no_grad():
        expected = torch.cat([model(x) for x, in batches()])
        found = torch.cat([fast(x) for x, in batches()])
    return float((found - expected).norm() / expected.norm())


def encodings(fast: mcomp.CompiledModel) -> dict[str, str]:
    """The weights' encodings, by their names in the graph."""
    assert isinstance(fast.ir, Graph)
    return {
        n.attrs["name"]: str(n.result.tensor.encoding) for n in fast.ir.nodes
        if n.op.name == "const" and n.attrs["name"].endswith("weight")
    }


@pytest.fixture(scope="module")
def int8() -> mcomp.CompiledModel:
    return optimize(max_error=0.05)


def test_max_error_is_kept_and_measured(int8: mcomp.CompiledModel) -> None:
    report = int8.report()
    assert report.within_budget is True
    assert report.kept.error == pytest.approx(error_of(int8, wide()), rel=1e-3)
    assert 0 < report.kept.error <= 0.05
    assert report.kept.weight_bytes < 0.4 * report.original.weight_bytes
    assert all("affine" in e or "i8" in e for e in encodings(int8).values())


def test_the_report_tells_what_was_done_and_why(int8: mcomp.CompiledModel) -> None:
    rows = {r.layer: r for r in int8.report().rows}
    for layer in ("body", "head"):
        assert "quantize" in rows[layer].done
        assert "error" in rows[layer].why
        assert 0 < rows[layer].weight_bytes < rows[layer].weight_bytes_before
        assert rows[layer].measured_us is not None
        assert rows[layer].measured_before_us is not None
    text = str(int8.report())
    for word in ("budget: output error at most 0.05: met", "kept", "body", "head", "lossless"):
        assert word in text


def test_excluded_layers_stay_as_they_are() -> None:
    fast = optimize(max_error=0.05, exclude=["head"])
    kept = encodings(fast)
    assert "affine" in kept["body.weight"]
    assert kept["head.weight"] == "dense"
    row = next(r for r in fast.report().rows if r.layer == "head")
    assert 'excluded by "head"' in row.why


def test_layers_switch_a_pass_off() -> None:
    fast = optimize(pipeline="quantize{bits=8}", layers={"body": {"quantize": False}})
    kept = encodings(fast)
    assert "i8" not in kept["body.weight"]
    assert "i8" in kept["head.weight"]


def test_a_budget_that_cannot_be_met_gives_the_lossless_model_and_says_so() -> None:
    fast = optimize(max_error=0.0)
    report = fast.report()
    assert report.kept.name == "lossless"
    torch.testing.assert_close(fast(X), wide()(X))
    verdicts = {s.name: s.verdict for s in report.stages}
    assert "over budget: output error" in verdicts["int8"]
    assert "no compressed version" in str(report)


def test_layers_go_back_to_float_until_the_budget_holds() -> None:
    both = optimize(pipeline="quantize{bits=8}").report()
    errors = {e["layer"]: e["error"] for e in both.ledger}
    worst, best = sorted(errors, key=errors.__getitem__, reverse=True)
    one = optimize(pipeline="quantize{bits=8}", exclude=[worst]).report().kept.error
    assert one is not None
    assert both.kept.error is not None
    assert one < both.kept.error
    only_int8 = {"layers": {"*": {"prune": False, "lowrank": False}}, "target": "reference"}
    fast = optimize(max_error=(one + both.kept.error) / 2, **only_int8)
    report = fast.report()
    assert report.within_budget is True
    assert report.kept.name.startswith("plan")
    assert report.kept.weight_bytes < report.original.weight_bytes
    kept = encodings(fast)
    assert [kept[f"{layer}.weight"].startswith("affine<i8") for layer in (best, worst)].count(True) == 1
    left = next(layer for layer in (best, worst) if kept[f"{layer}.weight"] == "dense")
    assert "too much of the budget" in next(r for r in report.rows if r.layer == left).why


def test_without_the_planner_each_version_is_judged_by_its_own_score() -> None:
    """Layers go back to float, and the pipeline says which: it makes the same model again."""
    both = optimize(pipeline="quantize{bits=8}", calibration=None)
    errors = {e["layer"]: e["error"] for e in both.report().ledger}
    worst = max(errors, key=errors.__getitem__)
    one = optimize(pipeline="quantize{bits=8}", calibration=None, exclude=[worst])
    lost, less = error_of(both, wide()), error_of(one, wide())
    assert less < lost
    fast = optimize(
        calibration=None, evaluate=lambda model: 1 - error_of(model, wide()), max_drop=(lost + less) / 2,
    )
    report = fast.report()
    assert report.within_budget is True
    assert "1 of 2 layers in float" in report.kept.name and "leave=" in report.pipeline
    assert report.kept.quality == pytest.approx(1 - less, abs=1e-6)
    assert str(optimize(calibration=None, pipeline=report.pipeline).ir) == str(fast.ir)


def test_max_drop_with_a_number() -> None:
    calls: list[float] = []

    def evaluate(model: Any) -> float:
        calls.append(1 - error_of(model, wide()))
        return calls[-1]

    report = optimize(evaluate=evaluate, max_drop=0.05).report()
    assert report.within_budget is True
    assert report.original.quality == 1.0
    assert report.original.quality - report.kept.quality <= 0.05
    names = [e["model"] for e in report.evaluations]
    assert names[:2] == ["original", "int8"] and len(names) == len(set(names)) == len(calls) <= 9
    assert [e["result"] for e in report.evaluations] == calls
    assert report.kept.quality == calls[names.index(report.kept.name)]


@pytest.mark.parametrize(("drop", "fits"), [(0.1, True), (0.02, False)])
def test_per_sample_scores_are_judged_by_their_confidence_interval(drop: float, fits: bool) -> None:
    """The mean drop is 0.01; 95 % confidence puts it below about 0.06."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.3, 100)

    def evaluate(model: Any) -> np.ndarray:
        exact = error_of(model, wide()) < 1e-5
        return np.ones(100) if exact else np.ones(100) - 0.01 - (noise - noise.mean())

    report = optimize(evaluate=evaluate, max_drop=drop).report()
    assert (report.kept.name != "lossless") is fits
    if not fits:
        assert "95 % sure" in next(s.verdict for s in report.stages if s.name == "int8")


def test_a_tensor_of_scores_counts_as_scores() -> None:
    report = optimize(evaluate=lambda m: torch.ones(10, dtype=torch.bfloat16), max_drop=0.0).report()
    assert report.kept.weight_bytes < report.original.weight_bytes / 3
    assert "failed" not in " ".join(report.notes)


def test_evaluate_without_a_budget_only_reports() -> None:
    report = optimize(evaluate=lambda m: 0.5, calibration=None).report()
    assert report.kept.name == "lossless"
    assert (report.original.quality, report.kept.quality) == (0.5, 0.5)
    assert report.within_budget is None


def test_a_pipeline_is_run_as_asked_and_judged() -> None:
    report = optimize(pipeline="quantize{bits=8}", max_error=1e-9).report()
    assert report.kept.name == "as asked"
    assert report.within_budget is False
    assert "the budget could not be met" in str(report)


def test_a_time_limit_still_gives_a_model() -> None:
    fast = optimize(max_error=0.05, time_limit=0.0)
    assert fast(X).shape == (8, 8)


def test_options_without_a_use_are_told() -> None:
    student = torch.nn.Linear(64, 8)
    notes = optimize(time_limit=60, students={"": student}).report().notes
    assert any("time_limit, students did nothing: without a budget" in note for note in notes)
    notes = optimize(pipeline="quantize{bits=8}", time_limit=60, students={"body": student}).report().notes
    assert any("the student of body was not used" in n and "distill{region=body,student=given}" in n for n in notes)
    notes = optimize(pipeline="distill{student=given,steps=1,max_error=10}", students={"": student}).report().notes
    assert not any("not used" in note for note in notes)
    assert not any("did nothing" in note for note in optimize().report().notes)


@dataclass(frozen=True)
class Halve(Pass):
    """Multiply every output by a factor."""

    name = "test-halve"
    effect = PassEffect.APPROXIMATE
    factor: float = 0.5

    def run(self, graph: Graph, context: Context) -> PassResult:
        (value,) = graph.outputs
        with graph.edit(self.name) as edit:
            number = edit.add("full", attrs={"value": self.factor, "shape": [], "dtype": value.tensor.dtype}).result
            product = edit.add("mul", [value, number])
            edit.replace(value, product.result)
            edit.set_operand(product, 0, value)
        return PassResult(True)


def test_a_pass_of_ones_own_goes_into_the_pipeline() -> None:
    fast = optimize(pipeline=[Halve(0.25), "dce"])
    torch.testing.assert_close(fast(X), wide()(X) * 0.25)
    assert fast.report().pipeline == "test-halve{factor=0.25},dce"


def test_the_frontier_holds_what_was_kept_and_what_nothing_beats(int8: mcomp.CompiledModel) -> None:
    kept = int8.report().kept.name
    front = {v.name: v for v in int8.frontier}
    assert kept in front
    for a in front.values():
        for b in front.values():
            values = zip((a.error, a.latency_ms, a.weight_bytes), (b.error, b.latency_ms, b.weight_bytes))
            assert a is b or b.name == kept or not all(x <= y for x, y in values)


def test_what_a_terminal_shows_is_short(int8: mcomp.CompiledModel) -> None:
    kept = int8.report().kept
    assert repr(int8.report()) == f"<Report of Wide for reference, {kept.name} kept: print it, or see to_json()>"
    shown = repr([v for v in int8.frontier if v.name == kept.name])
    assert len(shown) < 120 and shown.count("\n") == 0
    for word in (f"[<Version {kept.name!r}: error 0.0", " ms, ", " KB, within the budget>]"):
        assert word in shown
    assert repr(Report()) == "<Report of a model: print it, or see to_json()>"


def test_versions_are_picked_by_name_too(int8: mcomp.CompiledModel) -> None:
    for version in int8.frontier:
        assert int8.pick(version.name).report().kept.name == version.name
    for wrong in ("int9", 3, None):
        with pytest.raises(mcomp.errors.CallError, match=rf"{wrong!r} is no version.*\n.*{int8.frontier[0].name!r}"):
            int8.pick(wrong)
    with pytest.raises(mcomp.errors.CallError, match="the front is empty"):
        int8.session().pick("int8")


def test_the_same_seed_gives_the_same_model() -> None:
    first, second = (optimize(pipeline="quantize{bits=8}", seed=3) for _ in range(2))
    assert str(first.ir) == str(second.ir)
    assert torch.equal(first(X), second(X))


class Halves(torch.nn.Module):
    """Depends on the parity of its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] % 2 else x.reshape(2, -1, x.shape[1]).sum(0)


def test_batches_of_a_size_that_the_model_ties_down_say_what_did_it() -> None:
    with pytest.raises(mcomp.errors.BudgetError, match=r"batch 0.*\n.*help: axis 0 of x.*fixed at 4.*dynamic="):
        mcomp.optimize(Halves().eval(), (torch.ones(4, 3),), calibration=[(torch.ones(3, 3),)], max_error=0.1,
                       target="reference")

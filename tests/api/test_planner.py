"""The planner through the front door: all techniques together, a model in any case, and the same one again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mcomp
from mcomp.ir import Graph
from mcomp.manager import Context, Instrument, Pass
from mcomp.passes.compress import given as students_given
from mcomp.passes.compress import offers
from mcomp.passes.compress.distill import Distill
from mcomp.plan import training
from mcomp.plan.planner import Planner
from mcomp.report import Report


class Mlp(nn.Module):
    """Inputs on a few directions, so that units can go: f32[B, 32] -> f32[B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(32, 96)
        self.mid = nn.Linear(96, 96)
        self.head = nn.Linear(96, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mid(torch.relu(self.up(x)))))


def model() -> Mlp:
    torch.manual_seed(0)
    return Mlp().eval()


def inputs(count: int = 24) -> list[tuple[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(5, 32, generator=generator)
    return [(torch.randn(16, 5, generator=generator) @ basis,) for _ in range(count)]


def agreement(dense: Mlp) -> Any:
    """Share of inputs on which the largest output is the dense model's, by sample."""
    x = torch.cat([x for x, in inputs()])
    with torch.no_grad():
        expected = dense(x).argmax(-1)

    def evaluate(model: Any) -> Any:
        with torch.no_grad():
            return (model(x).argmax(-1) == expected).float()

    return evaluate


def optimize(**options: Any) -> mcomp.CompiledModel:
    given: dict[str, Any] = {"target": "reference", "objective": "size", "calibration": inputs(), "progress": False}
    return mcomp.optimize(model(), inputs()[0], **{**given, **options})


@pytest.fixture(scope="module")
def planned() -> mcomp.CompiledModel:
    return optimize(max_error=0.1)


def test_the_plan_beats_every_single_technique_within_the_same_budget(planned: mcomp.CompiledModel) -> None:
    report = planned.report()
    assert report.within_budget is True
    assert report.kept.error is not None and report.kept.error <= 0.1
    for pipeline in ("quantize{bits=8}", "quantize{bits=4}", "prune{ratio=0.5,what=[ffn]}", "lowrank{energy=0.99}"):
        single = optimize(pipeline=pipeline, max_error=0.1).report()
        assert single.within_budget is False or single.kept.weight_bytes > report.kept.weight_bytes, pipeline
    assert "failed" not in " ".join(report.notes)


def test_several_techniques_are_in_one_plan(planned: mcomp.CompiledModel) -> None:
    assert {"prune", "quantize"} <= {entry["rule"] for entry in planned.report().ledger}


def test_the_pipeline_of_the_report_gives_the_same_model(planned: mcomp.CompiledModel) -> None:
    again = optimize(pipeline=planned.report().pipeline)
    assert str(again.ir) == str(planned.ir)
    assert torch.equal(again(*inputs()[3]), planned(*inputs()[3]))


def test_the_same_seed_gives_the_same_plan(planned: mcomp.CompiledModel) -> None:
    assert optimize(max_error=0.1).report().pipeline == planned.report().pipeline


def test_any_point_of_the_front_can_be_picked_and_saved(planned: mcomp.CompiledModel, tmp_path: Path) -> None:
    assert len(planned.frontier) > 2
    x = inputs()[2][0]
    for version in planned.frontier:
        picked = planned.pick(version)
        picked.save(tmp_path / "picked.mcomp")
        loaded = mcomp.load(tmp_path / "picked.mcomp")
        torch.testing.assert_close(torch.as_tensor(loaded(x)), picked(x))
        assert picked.report().kept.name == version.name
        assert picked.report().pipeline == version.pipeline
    assert len({v.weight_bytes for v in planned.frontier}) > 2


def test_a_looser_budget_gives_a_smaller_model(planned: mcomp.CompiledModel) -> None:
    tight = optimize(max_error=0.02).report()
    assert tight.within_budget is True
    assert tight.kept.weight_bytes > planned.report().kept.weight_bytes


def test_an_executor_of_processes_gives_the_same_plan(planned: mcomp.CompiledModel) -> None:
    with ProcessPoolExecutor(1) as pool:
        spread = optimize(max_error=0.1, executor=pool)
    assert spread.report().pipeline == planned.report().pipeline


def test_trials_see_a_part_of_the_data_and_versions_all_of_it() -> None:
    found: set[tuple[str, int]] = set()

    class Seen(Instrument):
        def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
            assert context.calibration is not None
            found.add((item.name, len(context.calibration)))

    report = optimize(max_error=0.1, calibration=inputs(40), instruments=[Seen()]).report()
    assert report.within_budget is True
    assert {("prune", 32), ("prune", 40)} <= found
    assert {count for _, count in found} == {32, 40}


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(mcomp.errors.PassError, match="executor is int"):
        optimize(max_error=0.1, executor=3)


# the best so far, whatever happens

def test_an_evaluate_that_fails_twice_in_a_row_gives_the_best_so_far() -> None:
    good, calls = agreement(model()), []

    def evaluate(given: Any) -> Any:
        calls.append(given)
        if len(calls) > 3:
            raise RuntimeError("the disk is full")
        return good(given)

    report = optimize(evaluate=evaluate, max_drop=0.2).report()
    assert len(calls) == 5
    assert report.kept.name != "lossless"
    assert report.within_budget is True
    assert "the search ended early: evaluate raised RuntimeError" in " ".join(report.notes)
    assert "the disk is full" in " ".join(report.notes)


@pytest.mark.parametrize(("failure", "verdict"), [
    (float("nan"), "over budget: evaluate gave NaN or infinity"),
    (ValueError("one class only"), "not judged: evaluate raised ValueError"),
    (None, "not judged: evaluate returned NoneType"),
])
def test_an_evaluate_that_fails_on_one_version_costs_that_version(failure: Any, verdict: str) -> None:
    """It is over budget, and the search goes on below it."""
    good, calls = agreement(model()), []

    def evaluate(given: Any) -> Any:
        calls.append(given)
        if len(calls) in (3, 5):
            if isinstance(failure, Exception):
                raise failure
            return failure
        return good(given)

    report = optimize(evaluate=evaluate, max_drop=0.2).report()
    assert len(calls) > 5
    assert "ended early" not in " ".join(report.notes)
    failed = [s for s in report.stages if s.verdict.startswith(verdict)]
    assert len(failed) == 2 and not any(s.kept or s.quality is not None for s in failed)
    assert report.within_budget is True and report.kept.name.startswith("plan")


def test_ctrl_c_gives_the_best_so_far() -> None:
    good, calls = agreement(model()), []

    def evaluate(given: Any) -> Any:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return good(given)

    report = optimize(evaluate=evaluate, max_drop=0.2).report()
    assert report.kept.name != "lossless"
    assert "interrupted" in " ".join(report.notes)


@pytest.mark.parametrize("kept", [False, True])
def test_ctrl_c_while_training_keeps_what_was_learned(kept: bool, tmp_path: Path) -> None:
    """On disk, however, there is no score of a model that the same call would train further."""

    def interrupt() -> None:
        import _thread

        time.sleep(0.3)
        _thread.interrupt_main()

    def evaluate(given: Any) -> Any:
        return good(given)

    good = agreement(model())
    named, begun = threading.Event(), threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs in the background

    def said(self: Any, text: str) -> None:
        if text.startswith("trained 1: running"):  # before, short trainings tell the pace
            named.set()
        if named.is_set() and text.startswith("training: held-out") and not begun.is_set():
            begun.set()
            threading.Thread(target=interrupt).start()

    from mcomp.plan.progress import Progress

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Progress, "step", said)
            resume = tmp_path if kept else None
            report = optimize(evaluate=evaluate, max_drop=0.2, time_limit=20.0, resume=resume).report()
    finally:
        signal.signal(signal.SIGINT, before)
    assert begun.is_set()
    assert any(s.name == "trained 1" for s in report.stages)
    assert "interrupted" in " ".join(report.notes)
    assert report.within_budget is True
    if kept:
        scores = json.loads((tmp_path / "search.json").read_text())["records"]["scores"]
        assert len(scores) == len(report.evaluations) - 1
        assert not any("distill" in pipeline for pipeline in scores)


def test_a_planner_that_fails_costs_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Planner) -> None:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(Planner, "_bisect", fail)
    report = optimize(max_error=0.1).report()
    assert report.kept.name.startswith("int8")
    (note,) = [n for n in report.notes if "the planner failed (ZeroDivisionError: no luck" in n]
    assert "mcomp/plan/planner.py, _search, line " in note and "fault of mcomp: please report it" in note
    (fault,) = report.faults
    assert fault.splitlines()[-2].startswith("api/test_planner.py, fail, line ")
    assert fault.splitlines()[-2].endswith('raise ZeroDivisionError("no luck")')
    assert Report.from_json(report.to_json()).faults == report.faults


# time

def test_a_time_limit_is_kept_and_training_pays() -> None:
    begin = time.monotonic()
    report = optimize(max_error=0.1, time_limit=20.0).report()
    assert time.monotonic() - begin < 60.0
    assert report.within_budget is True
    without = optimize(max_error=0.1).report()
    assert report.kept.weight_bytes <= without.kept.weight_bytes
    if any(s.name.startswith("trained") and s.kept for s in report.stages):  # how far training comes, the machine decides
        assert "distill{" in report.pipeline and report.kept.weight_bytes < without.kept.weight_bytes


# going on

_CALLS_BEFORE_THE_KILL = 3


def search_until_killed(folder: str) -> None:
    """A search whose process the system kills in a call of evaluate."""
    good, calls = agreement(model()), []

    def evaluate(given: Any) -> Any:
        calls.append(given)
        if len(calls) > _CALLS_BEFORE_THE_KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        return good(given)

    optimize(evaluate=evaluate, max_drop=0.2, resume=folder)


def test_a_search_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    good, calls = agreement(model()), []
    folder = tmp_path / "search"
    code = f"from tests.api.test_planner import search_until_killed as run; run({str(folder)!r})"
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL

    def counted(given: Any) -> Any:
        calls.append(given)
        return good(given)

    resumed = optimize(evaluate=counted, max_drop=0.2, resume=folder).report()
    fresh = optimize(evaluate=good, max_drop=0.2).report()
    assert resumed.pipeline == fresh.pipeline
    assert [e["result"] for e in resumed.evaluations] == [e["result"] for e in fresh.evaluations]
    assert len(calls) == len(fresh.evaluations) - _CALLS_BEFORE_THE_KILL
    calls.clear()
    again = optimize(evaluate=counted, max_drop=0.2, resume=folder).report()
    assert not calls
    assert again.pipeline == fresh.pipeline
    assert again.ledger == resumed.ledger


def test_a_folder_of_another_search_is_not_used(tmp_path: Path) -> None:
    optimize(max_error=0.1, resume=tmp_path)
    with pytest.warns(UserWarning, match="another search"):
        report = optimize(max_error=0.05, resume=tmp_path).report()
    assert report.within_budget is True
    kept = {path: path.read_text() for path in tmp_path.rglob("search.json")}
    assert len(kept) == 2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*another search")
        for limit in (0.1, 0.05):
            optimize(max_error=limit, resume=tmp_path)
    assert {path: path.read_text() for path in tmp_path.rglob("search.json")} == kept


def test_the_same_text_with_another_student_is_another_search(tmp_path: Path) -> None:
    def student(scale: float) -> nn.Module:
        torch.manual_seed(3)
        made = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4))
        with torch.no_grad():
            made[2].weight.mul_(scale)
        return made

    def taught(scale: float) -> mcomp.CompiledModel:
        return optimize(pipeline=[Distill(student=student(scale), steps=1, rate=1e-6, max_error=1e6)], resume=tmp_path)

    first = taught(1.0)
    with pytest.warns(UserWarning, match="another search"):
        second = taught(100.0)
    assert first.report().pipeline == second.report().pipeline
    assert not torch.allclose(first(*inputs()[0]), second(*inputs()[0]))
    assert torch.equal(taught(1.0)(*inputs()[0]), first(*inputs()[0]))


def test_a_damaged_folder_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text("{")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert optimize(max_error=0.1, resume=tmp_path).report().within_budget is True


# what limits it

def test_without_calibration_data_only_int8_is_tried_and_the_report_says_so() -> None:
    report = optimize(max_error=0.1, calibration=None).report()
    assert "calibration data" in " ".join(report.notes)
    assert "prune" not in report.pipeline


def test_the_report_says_what_binds(planned: mcomp.CompiledModel) -> None:
    assert "most of the error comes from" in " ".join(planned.report().notes)


def test_generated_code_and_measured_times() -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    fast = mcomp.optimize(small, inputs()[0], calibration=inputs(), max_error=0.1, threads=1, progress=False)
    report = fast.report()
    assert report.within_budget is True
    assert report.native_nodes == 1.0
    assert isinstance(fast.ir, Graph)
    assert report.kept.weight_bytes < 0.4 * report.original.weight_bytes


class _ThreeHundredSteps:
    """A pace that no clock tells."""

    spent = 0.0

    def steps_in(self, seconds: float) -> int:
        return 300


@pytest.mark.parametrize("several", [False, True])
def test_students_that_were_given_are_tried_before_anything_smaller_is(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(students_given, "pace_of", lambda train, seconds: _ThreeHundredSteps())
    monkeypatch.setattr(training, "LEAST_SECONDS", float("inf"))  # nothing else is trained, so that hours are enough time
    torch.manual_seed(0)
    basis = torch.randn(3, 32)
    teacher = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    student, narrow = (nn.Sequential(nn.Linear(32, n), nn.ReLU(), nn.Linear(n, 4)) for n in (16, 2))
    batches = [(torch.randn(32, 3) @ basis,) for _ in range(24)]
    x = torch.cat([b[0] for b in batches[:8]])
    expected = teacher(x).argmax(-1)

    def evaluate(given: Any) -> float:
        return float((given(x).argmax(-1) == expected).float().mean())

    small = mcomp.optimize(
        teacher, batches[0], calibration=batches, evaluate=evaluate, max_drop=0.15, objective="size", target="reference",
        progress=False, time_limit=7200.0, students={"": [student, narrow] if several else student},
    )
    report = small.report()
    names = [f"student of the model{end}" for end in ([", given 0", ", given 1"] if several else [""])]
    assert [s.name for s in report.stages if "student" in s.name] == names
    assert not any("was not tried" in note for note in report.notes)
    tried = next(s for s in report.stages if s.name == names[0])
    assert tried.kept or tried.verdict.startswith("within budget")
    assert tried.weight_bytes < report.original.weight_bytes / 100
    assert report.within_budget and report.kept.weight_bytes <= tried.weight_bytes
    assert report.evaluations[2]["model"] == tried.name


def test_a_student_that_is_not_tried_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "tried_students", lambda own, context, spread: ([("", 0, 2.25, 10)], []))
    monkeypatch.setattr(training, "LEAST_SECONDS", float("inf"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    batches = [(torch.randn(16, 16),) for _ in range(4)]
    report = mcomp.optimize(
        model, batches[0], calibration=batches, max_error=0.1, objective="size", target="reference", progress=False,
        time_limit=7200.0, students={"": nn.Linear(16, 4)},
    ).report()
    assert any("student of the model was not tried: after a short training" in n and "150% off" in n for n in report.notes)

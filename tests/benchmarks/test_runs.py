"""Whole runs of the benchmarks with stand-ins for their worker processes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cost, cpu, frontier, machine, models, picture, shapes, table, timing
from benchmarks.case import Case, Samples
from benchmarks.peers import artifact
from benchmarks.remote import WorkerFailed
from benchmarks.results import Results
from benchmarks.worker import Job, Prepared, Tried, Turn


class Stand:
    """Worker processes that answer at once; `jobs` and `asked` tell what was wanted of them. `fail` may raise for a job
    and a command."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.asked: list[tuple[str, str, tuple[Any, ...]]] = []
        self.fail: Callable[[Job, str], None] = lambda job, command: None

    def remote(self, job: Job) -> Process:
        return Process(self, job)


class Process:
    """As `Remote`."""

    def __init__(self, stand: Stand, job: Job) -> None:
        self.stand, self.job = stand, job
        stand.jobs.append(job)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    close = __exit__

    def __call__(self, command: str, *arguments: Any) -> Any:
        self.stand.asked.append((self.job.peer, command, arguments))
        self.stand.fail(self.job, command)
        answers: dict[str, Any] = {
            "prepare": Prepared("best", 1.0, 100, {}, (Tried("other", 1.0, 2.0), Tried("best", 1.0, 1.0)), {}),
            "score": 90.0, "also": {}, "outputs": np.ones((2, 1)), "turn_at": 1.0,
            "turn": Turn(timing.Burst(1.0, 10), 0.0),
        }
        return answers[command]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    found = Stand()
    for module in (cpu, shapes):
        monkeypatch.setattr(module, "Remote", found.remote)
        monkeypatch.setattr(module, "SETTLE_S", 0.0, raising=False)
    for peer in ("eager", "inductor", "onnxruntime", "openvino", "mcomp"):
        monkeypatch.setattr(cpu.peers.module(peer), "missing", lambda: None)
    return found


def test_other_sizes_get_the_setting_that_was_best_at_the_first(stand: Stand, tmp_path: Path) -> None:
    def fail(job: Job, command: str) -> None:
        if command == "turn_at" and job.peer == "openvino" and not job.setting:
            raise WorkerFailed("cannot be reshaped")

    stand.fail = fail
    results = shapes.run_model("mlp_small", models.Options(), 1, 1, 0.0, tmp_path)
    prepared = [(job.peer, job.quick, job.setting) for job in stand.jobs]
    assert prepared[:3] == [("eager", False, ""), ("openvino", False, ""), ("mcomp", False, "")]
    assert set(prepared[3:]) == {("openvino", False, "best")}
    assert [given for peer, command, (given, *_) in stand.asked if command == "prepare"][:3] == [None, 90.0, 90.0]
    assert [len(entry.tried) for entry in results[0].entries if entry.peer == "mcomp"] == [2]
    assert {len(entry.tried) for result in results[1:] for entry in result.entries if entry.peer == "mcomp"} == {0}


def _died(peer: str, command: str, count: int = 1) -> Callable[[Job, str], None]:
    """A peer's worker dies at the count-th of these commands, and stays dead."""
    seen: list[str] = []

    def fail(job: Job, asked: str) -> None:
        if (job.peer, asked) == (peer, command):
            seen.append(asked)
            if len(seen) >= count:
                raise WorkerFailed("worker died with exit code -9")

    return fail


CPU = ["--models", "mlp_small", "--peers", "openvino", "--rounds", "3"]


def test_a_worker_that_dies_in_a_round_loses_its_own_entry_only(stand: Stand, tmp_path: Path) -> None:
    stand.fail = _died("mcomp", "turn", 3)
    assert cpu.main([*CPU, "--json", str(tmp_path / "r.json")]) == 1
    case = Results.read(tmp_path / "r.json").cases[0]
    found = {entry.name: len(entry.rounds_ms) for entry in case.entries}
    assert found == {"eager": 3, "openvino fp32": 3, "openvino int8": 3}
    assert case.skipped == {f"mcomp {variant}": "worker died with exit code -9" for variant in ("fp32", "int8")}


def test_each_case_has_a_date_and_a_commit(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "revision", lambda: "abc123")
    monkeypatch.setattr(machine, "today", lambda: "2026-01-31")
    for main, words in ((cpu.main, CPU), (shapes.main, ["--models", "mlp_small", "--rounds", "1"])):
        main([*words, "--json", str(tmp_path / f"{main.__module__}.json")])
        cases = Results.read(tmp_path / f"{main.__module__}.json").cases
        assert {(case.commit, case.date) for case in cases} == {("abc123", "2026-01-31")}


def test_titles_count_what_is_judged(stand: Stand, tmp_path: Path) -> None:
    pairs = Samples((np.zeros((6, 2), np.float32),), np.zeros(3))
    case = Case("x", "X", 1, ("x",), list, (np.zeros((1, 2)),), pairs, test=pairs, metric=lambda outputs, labels: 1.0)
    plan = cpu.Plan((("eager", "fp32"),), models.Options(), 1, 1, 0.1, False)
    result = cpu.run_case(plan, case, tmp_path, True)
    assert table.case_sheet(result).title == "X, batch 1, 3 test samples"


def test_a_dead_eager_leaves_the_others_their_times(stand: Stand, tmp_path: Path) -> None:
    stand.fail = _died("eager", "turn")
    assert cpu.main([*CPU, "--json", str(tmp_path / "r.json")]) == 1
    case = Results.read(tmp_path / "r.json").cases[0]
    assert "eager fp32" in case.skipped
    assert [entry.quality for entry in case.entries] == [90.0] * 4


def test_results_are_written_after_each_runner_and_each_round(stand: Stand, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    seen: list[tuple[str, list[int]]] = []

    def look(job: Job, command: str) -> None:
        if job.peer == "openvino" and command in ("prepare", "turn"):
            entries = Results.read(output).cases[0].entries
            seen.append((command, [len(entry.rounds_ms) for entry in entries]))

    stand.fail = look
    assert cpu.main([*CPU, "--ours", "", "--json", str(output)]) == 0
    assert seen == [
        ("prepare", [0]), ("prepare", [0, 0]),
        *[("turn", [0, 0, 0])] * 2, *[("turn", [1, 1, 1])] * 2, *[("turn", [2, 2, 2])] * 2,
    ]


@pytest.mark.parametrize("command", ["prepare", "turn_at"])
def test_a_worker_that_dies_at_a_size_loses_its_own_entry_only(stand: Stand, tmp_path: Path, command: str) -> None:
    stand.fail = _died("mcomp", command, 1 if command == "prepare" else 4)
    output = tmp_path / "r.json"
    assert shapes.main(["--models", "mlp_small", "--rounds", "2", "--json", str(output)]) == 1
    cases = Results.read(output).cases
    assert len(cases) == 5
    assert "mcomp int8" in {what for case in cases for what in case.skipped}
    assert all([len(entry.rounds_ms) for entry in case.entries if entry.peer != "mcomp"] == [2, 2] for case in cases)


FRONTIER = ["--models", "tiny", "--no-picture", "--rounds", "2"]


@pytest.fixture
def tiny(stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Words for `frontier.main`: a model with two single techniques, of which the first fails, as the search does."""
    load = models.load

    def single(name: str, pipeline: str, *rest: Any) -> tuple[list[str], dict[str, Any]]:
        if name == "bad":
            raise KeyError("bad")
        path = artifact.place(tmp_path, "mlp_small", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1234")
        return [name], {"pipeline": pipeline, "seconds": 1.5}

    def planned(*given: Any) -> None:
        raise ValueError("no plan")

    beside = {"luck": lambda: 50.0, "bad luck": lambda: [1.0][1]}
    case = dataclasses.replace(load("mlp_small", models.Options()), beside=beside)
    monkeypatch.setattr(models, "load", lambda name, options: case)
    monkeypatch.setattr(frontier, "single", single)
    monkeypatch.setattr(frontier, "planned", planned)
    monkeypatch.setattr(frontier, "GOALS", {"tiny": frontier.Goal("tiny", singles={"bad": "x", "good": "y"})})
    return [*FRONTIER, "--data", str(tmp_path), "--kept", str(tmp_path), "--json", str(tmp_path / "r.json")]


def test_one_technique_that_fails_is_told_and_the_others_go_on(tiny: list[str], tmp_path: Path) -> None:
    assert frontier.main(tiny) == 1
    case = Results.read(tmp_path / "r.json").cases[0]
    assert [entry.name for entry in case.entries] == ["eager", "mcomp int8", "mcomp good"]
    assert case.entries[2].details["pipeline"].startswith("y,")
    assert [len(entry.rounds_ms) for entry in case.entries] == [2, 2, 2]
    assert case.entries[0].also == {"luck": 50.0}
    assert case.skipped == {
        "artifact plan": "ValueError: no plan", "artifact bad": "KeyError: 'bad'",
        "bad luck": "IndexError: list index out of range",
    }


def test_trained_techniques_are_asked_for(tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    goal = frontier.Goal("tiny", singles={"narrow": "prune{flops=0.5}"}, minutes=2)
    monkeypatch.setattr(frontier, "GOALS", {"tiny": goal})
    for words, more in (([], []), (["--with-trained-singles"], ["mcomp narrow, distill"]),
                        (["--with-trained-singles", "--time-limit", "0"], [])):
        frontier.main([*tiny, *words])
        entries = Results.read(tmp_path / "r.json").cases[0].entries
        assert [entry.name for entry in entries] == ["eager", "mcomp int8", "mcomp narrow", *more]
        assert all("seconds=120" in entry.details["pipeline"] for entry in entries[3:])


def test_what_a_search_made_is_written_before_anything_is_timed(tiny: list[str], stand: Stand, tmp_path: Path) -> None:
    seen: list[list[tuple[str, int | None]]] = []

    def look(job: Job, command: str) -> None:
        if command == "prepare":
            case = Results.read(tmp_path / "r.json").cases[0]
            seen.append([(entry.name, entry.size_bytes) for entry in case.entries])

    stand.fail = look
    frontier.main(tiny)
    made = [("mcomp int8", 4), ("mcomp good", 4)]
    assert seen == [made, [("eager", 100), *made], [("eager", 100), ("mcomp int8", 100), made[1]]]


def test_a_model_that_fails_is_told_and_leaves_no_picture(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "load", lambda name, options: [][0])
    assert frontier.main([word for word in tiny if word != "--no-picture"]) == 1
    assert Results.read(tmp_path / "r.json").skipped == {"tiny": "IndexError: list index out of range"}
    assert [path.name for path in tmp_path.glob("*.png")] == []


def test_a_missing_peer_is_told(tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frontier.peers.module("openvino"), "missing", lambda: "not installed: openvino")
    assert frontier.main([*tiny, "--peers", "openvino"]) == 1
    assert Results.read(tmp_path / "r.json").skipped == {"openvino": "not installed: openvino"}


def test_nothing_is_drawn_of_no_quality(tmp_path: Path) -> None:
    assert picture.draw(Results("x", machine.describe(1), 1, 0.1, False), tmp_path / "x.png") is None


def test_rows_of_the_cost_model_are_written_as_they_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(name: str, variant: str, options: models.Options, threads: int) -> cost.Row:
        if variant == "int8":
            assert '"model": "mlp_small"' in (tmp_path / "c.json").read_text()
            raise models.Unavailable("no more")
        return cost.Row(name, variant, 3, 1.0, 1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(cost, "measure", measure)
    assert cost.main(["--models", "mlp_small", "--json", str(tmp_path / "c.json")]) == 1


def test_models_of_other_runs_stay_in_the_file(stand: Stand, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    for main, words in ((cpu.main, ["--peers", ""]), (shapes.main, [])):
        output.unlink(missing_ok=True)
        for name in ("mlp_small", "mlp_large"):
            assert main([*words, "--models", name, "--rounds", "1", "--json", str(output)]) == 0
        found = Results.read(output)
        assert {case.case for case in found.cases} == {"mlp_small", "mlp_large"}
        assert "mlp_large" in found.command
        assert all("mlp_small" in case.command for case in found.cases if case.case == "mlp_small")


def test_a_quick_run_writes_no_file_unasked(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cpu.main([*CPU, "--quick"]) == 0
    assert list(tmp_path.rglob("*.json")) == []
    assert cpu.main(CPU) == 0
    assert [path.name for path in tmp_path.rglob("*.json")] == ["cpu.json"]


@pytest.mark.parametrize(("words", "place"), [
    ([], "benchmarks/results/gpu.json"), (["--rounds", "5"], "benchmarks/results/gpu.json"),
    (["--models", "bert"], "build/gpu.json"), (["--small"], "build/gpu.json"), (["--only", "x"], "build/gpu.json"),
    (["--only", "x", "--json", "y.json"], "y.json"),
])
def test_a_part_of_the_gpu_benchmark_has_a_file_of_its_own(
    words: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from benchmarks.gpu.__main__ import main

    asked: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcomp.backend.backend_named", lambda name: SimpleNamespace(available=lambda: None))
    stand_in = SimpleNamespace(run=lambda options: asked.append(options.json) or 0)
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.run", stand_in)
    assert main(words) == 0
    assert asked == [place]

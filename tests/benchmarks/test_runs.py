"""Whole runs of the benchmarks with stand-ins for their worker processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cpu, models, shapes, timing
from benchmarks.remote import WorkerFailed
from benchmarks.worker import Job, Prepared, Tried, Turn


class Stand:
    """Worker processes that answer at once; `jobs` and `asked` tell what was wanted of them. `fail` may raise for a job and a
    command."""

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

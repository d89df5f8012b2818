"""How a worker chooses among the settings of a runtime, with stand-ins for the runtime and its time."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import machine, models, peers, table, timing, worker
from benchmarks.peers.base import Candidate
from benchmarks.results import CaseResult, Entry
from benchmarks.worker import BURSTS, REST_S, Job, Worker


class Stand:
    """A runtime whose settings take what `times` says, one number a burst, the last one again and again."""

    VARIANTS = ("int8",)

    def __init__(self, times: dict[str, list[float]]) -> None:
        self.times = times
        self.events: list[str] = []
        self.alive: set[str] = set()

    def versions(self) -> dict[str, str]:
        return {}

    def candidates(self, variant: str, setup: object) -> list[Candidate]:
        return [Candidate(name, partial(Made, self, name)) for name in self.times]

    def measure(self, call: Callable[[], Any], seconds: float) -> timing.Burst:
        name = call()
        self.events.append(name)
        if not self.times[name]:
            raise RuntimeError("no time")
        return timing.Burst(self.times[name].pop(0) if len(self.times[name]) > 1 else self.times[name][0], 1)


class Made:
    """A runner of the stand-in."""

    size_bytes = None
    details: dict[str, Any] = {}

    def __init__(self, stand: Stand, name: str) -> None:
        self.stand, self.name = stand, name
        stand.events.append(f"make {name}")
        stand.alive.add(name)

    def __del__(self) -> None:
        self.stand.alive.discard(self.name)

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        return np.zeros((1, 1), np.float32)

    def bind(self, *inputs: np.ndarray) -> Callable[[], object]:
        return lambda name=self.name: name  # type: ignore[misc]

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


Prepare = Callable[[dict[str, list[float]]], tuple[Worker, Stand]]


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prepare:
    def make(times: dict[str, list[float]]) -> tuple[Worker, Stand]:
        stand = Stand(times)
        monkeypatch.setitem(sys.modules, "stand_in", stand)  # type: ignore[arg-type]
        monkeypatch.setitem(peers.PEERS, "stand_in", "stand_in")
        monkeypatch.setattr(worker.timing, "measure", stand.measure)
        monkeypatch.setattr(worker.time, "sleep", lambda seconds: stand.events.append(f"rest {seconds:g}"))
        monkeypatch.setattr(machine, "available_memory", lambda: 1.0)
        return Worker(Job("mlp_small", "stand_in", "int8", models.Options(), 1, tmp_path, False)), stand

    return make


def test_candidates_are_timed_in_turns_after_a_rest(standing: Prepare) -> None:
    one, stand = standing({"a": [1.0], "b": [2.0]})
    prepared = one.prepare(None, 0.1)
    assert stand.events[:3] == ["make a", "make b", f"rest {REST_S:g}"]
    bursts = [event for event in stand.events if event in ("a", "b")]
    assert [sorted(bursts[i : i + 2]) for i in range(0, len(bursts), 2)] == [["a", "b"]] * BURSTS
    assert REST_S >= 1.0
    assert BURSTS >= 3
    assert (prepared.chosen, [tried.milliseconds for tried in prepared.tried]) == ("a", [1.0, 2.0])
    assert stand.alive == {"a"}


def test_one_slow_burst_does_not_decide(standing: Prepare) -> None:
    one, _ = standing({"a": [9.0, 1.0], "b": [2.0]})
    assert one.prepare(None, 0.1).chosen == "a"


def test_where_memory_is_short_only_the_best_so_far_is_kept(standing: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    one, stand = standing({"a": [2.0], "b": [3.0], "c": [1.0]})
    held: list[set[str]] = []

    def short() -> float:
        held.append(set(stand.alive))
        return 0.1

    monkeypatch.setattr(machine, "available_memory", short)
    assert one.prepare(None, 0.1).chosen == "c"
    assert held == [{"a"}, {"a", "b"}, {"a", "c"}]
    assert stand.alive == {"c"}


def test_a_candidate_that_fails_when_timed_is_told_and_not_taken(standing: Prepare) -> None:
    one, _ = standing({"a": [], "b": [2.0]})
    prepared = one.prepare(None, 0.1)
    assert prepared.chosen == "b"
    assert prepared.tried[0].error == "RuntimeError: no time"
    alone, _ = standing({"a": []})
    with pytest.raises(ValueError, match="a: RuntimeError: no time"):
        alone.prepare(None, 0.1)


def test_a_choice_that_the_rounds_do_not_bear_out_is_told() -> None:
    tried = [{"name": "a", "milliseconds": 9.0, "error": None}, {"name": "b", "milliseconds": 5.0, "error": None}]
    chosen = {"fp32": "a", "int8": "b"}
    entries = [Entry("openvino", v, c, 1.0, None, {}, tried, rounds_ms=[4.0, 4.1, 4.2]) for v, c in chosen.items()]
    assert table.doubts(CaseResult("net", "A net", 1, "", 0, entries)) == [
        "net: openvino fp32 took 9 ms when its setting was chosen, 4.1 ms in the rounds."
    ]


def test_memory_is_a_share() -> None:
    assert 0.0 < machine.available_memory() <= 1.0


def test_a_worker_can_be_told_which_setting_to_make(standing: Prepare) -> None:
    one, stand = standing({"a": [1.0], "b": [2.0]})
    one.job = dataclasses.replace(one.job, setting="b")
    assert one.prepare(None, 0.1).chosen == "b"
    assert "make a" not in stand.events

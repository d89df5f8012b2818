"""How many threads there are for a model where nobody says: the same everywhere."""

import os
from pathlib import Path
from typing import Any

import pytest

from mcomp import threads
from mcomp.plan.costs import CostTable
from mcomp.threads import available_threads
from tests.cpu.backend_harness import needs_compiler
from tests.runtime.build import model

Groups = Any


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Makes this process one of eight cores in a control group with these limits, by group."""
    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)

    def make(own: str, limits: dict[str, str]) -> None:
        (tmp_path / "own").write_text(f"3:cpu:/elsewhere\n0::{own}\n")
        for name, text in limits.items():
            group = tmp_path / "groups" / name
            group.mkdir(parents=True, exist_ok=True)
            (group / "cpu.max").write_text(text + "\n")

    return make


@pytest.mark.parametrize(("own", "limits", "count"), [
    ("/", {}, 8),
    ("/", {"": "max 100000"}, 8),
    ("/", {"": "200000 100000"}, 2),
    ("/", {"": "250000 100000"}, 2),
    ("/", {"": "50000 100000"}, 1),
    ("/", {"": "1600000 100000"}, 8),
    ("/a/b", {"a/b": "max 100000", "a": "300000 100000"}, 3),
    ("/a/b", {"a/b": "150000 50000", "a": "600000 100000"}, 3),
    ("/a/b", {"c": "100000 100000"}, 8),
    ("/", {"": "nonsense"}, 8),
])
def test_no_more_than_the_control_group_has_time_for(
    groups: Groups, own: str, limits: dict[str, str], count: int
) -> None:
    groups(own, limits)
    assert available_threads() == count


def test_no_more_than_the_process_may_be_scheduled_on(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    groups("/", {"": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert available_threads() == 1


def test_systems_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_OWN", tmp_path / "none")
    assert available_threads() >= 1


@needs_compiler
def test_models_and_measured_times_are_for_as_many(groups: Groups, tmp_path: Path) -> None:
    groups("/", {"": "300000 100000"})
    executable: Any = model(target="cpu").only_program("read").executable
    assert executable.threads == 3
    assert CostTable.load("cpu", None, tmp_path).path == CostTable.load("cpu", 3, tmp_path).path

"""Spreading: results in order, and a failing task, or a dying worker, costs its own task only."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from mcomp.plan.spread import Spread


def square(x: int) -> int:
    if x < 0:
        raise ValueError("negative")
    return x * x


def square_or_die(x: int) -> int:
    if x == 3:
        os._exit(1)
    return x * x


@pytest.fixture(params=["here", "threads", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | None]:
    if request.param == "here":
        yield None
        return
    with (ThreadPoolExecutor if request.param == "threads" else ProcessPoolExecutor)(2) as pool:
        yield pool


def test_results_come_in_order(executor: Executor | None) -> None:
    results, failures = Spread(executor)(square, list(range(7)))
    assert results == [x * x for x in range(7)]
    assert not failures


def test_a_task_that_raises_costs_itself_only(executor: Executor | None) -> None:
    results, failures = Spread(executor)(square, [1, -1, 2])
    assert results == [1, None, 4]
    assert [(f.index, f.reason) for f in failures] == [(1, "ValueError: negative")]


def test_a_worker_that_dies_costs_its_own_task_only() -> None:
    with ProcessPoolExecutor(2) as pool:
        results, failures = Spread(pool)(square_or_die, list(range(6)))
    assert results == [0, 1, 4, None, 16, 25]
    assert [(f.index, f.reason) for f in failures] == [(3, "its worker died")]


def test_a_broken_pool_is_worked_around() -> None:
    with ProcessPoolExecutor(1) as pool:
        Spread(pool)(square_or_die, [3])
        results, failures = Spread(pool)(square, [2, 3])
    assert results == [4, 9]
    assert not failures


def test_progress_is_said(executor: Executor | None) -> None:
    said: list[str] = []
    Spread(executor, said.append)(square, [1, 2], "layers")
    assert said == ["layers: 0 of 2", "layers: 1 of 2"]

"""The profile of a device for the cost model: measured with the backend's own kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mcomp.backend import backend_named
from mcomp.backends.triton.backend import lower_graph
from mcomp.backends.triton.device import Interpreter
from mcomp.backends.triton.executor import TritonExecutable
from mcomp.backends.triton.manifest import entries
from mcomp.backends.triton.profile import measure
from mcomp.backends.triton.program import chip_of
from mcomp.manager import PassManager
from mcomp.plan.profile import kernel_predictor
from tests.triton.harness import compiled, graph_of, needs_triton
from tests.triton.test_target import TEXT

pytestmark = needs_triton


class Clock(Interpreter):
    """An interpreter whose every kernel takes a quarter of a millisecond."""

    def milliseconds(self, work: object) -> float:
        work()  # type: ignore[operator]
        return 0.25


def test_rates_are_work_over_time() -> None:
    profile = measure(Clock(), 1, width=32, working_sets=(1 << 12, 1 << 14))
    assert {kind for kind, _ in profile.rates} == {"f32", "f16", "bf16", "i8", "scalar"}
    assert profile.rate("f16") == pytest.approx(2 * 32**3 / 0.25e-3)
    assert profile.bytes_per_second(1 << 12) == pytest.approx((1 << 12) / 0.25e-3)
    assert profile.overhead_us == pytest.approx(250.0)


@pytest.mark.parametrize(("arch", "kinds"), [(80, set()), (89, {"f8e4m3"}), (90, {"f8e4m3"})])
def test_chips_that_multiply_fp8_have_a_rate_for_it(arch: int, kinds: set[str]) -> None:
    """What is not measured counts as f32, of which fp8 would be many times the peak."""
    device = Clock()
    device.chip = chip_of(arch)
    profile = measure(device, 1, width=32, working_sets=(1 << 12,))
    assert {kind for kind, _ in profile.rates} == {"f32", "f16", "bf16", "i8", "scalar"} | kinds
    graph = next(e for e in entries() if e.id == "linear_f8-f8e4m3-static").graph()
    PassManager("fuse").run(graph)
    launch = lower_graph(graph, None).launches()[-1]
    assert launch.work.compute == "f8e4m3"
    assert profile.rate(launch.work.compute) == pytest.approx(2 * 32**3 / 0.25e-3)


def test_kernels_are_timed_by_the_device() -> None:
    """Not by the host's clock; configurations are measured before, and not in it."""
    device = Clock()
    device.turns = 4
    graph = graph_of(TEXT)
    executable = TritonExecutable(lower_graph(graph, None), device)
    timed: list[int] = []

    def milliseconds(work: Callable[[], None]) -> float:
        timed.append(1)
        work()
        return 0.25

    device.milliseconds = milliseconds  # type: ignore[method-assign]
    times = executable.profile([torch.ones(3, 32)], {"B": 3}, repeats=10)
    assert times == [250.0] * len(executable.kernels({"B": 3}))
    assert len(timed) == 3 * len(times)


def test_the_planner_predicts_with_it() -> None:
    profile = measure(Clock(), 1, width=32, working_sets=(1 << 12,))
    predict = kernel_predictor("cuda", profile=profile)
    small, large = (compiled(graph_of(TEXT)).kernels({"B": b})[0] for b in (1, 4096))
    assert (small.compute, large.flops) == ("f32", 4096 * (2 * 32 * 16 + 16))
    assert 250.0 < predict(small) < predict(large)


def test_the_interpreter_is_no_device_to_measure() -> None:
    """Its times say nothing about a GPU."""
    backend = backend_named("cuda")
    assert backend.measure_profile(1) is None
    assert backend.machine() == "interpreter"

"""The profile of a device for the cost model: measured with the backend's own kernels."""

from __future__ import annotations

import pytest

from mcomp.backend import backend_named
from mcomp.backends.triton.device import Interpreter
from mcomp.backends.triton.profile import measure
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

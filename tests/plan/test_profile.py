"""The device profile: measured, kept, read again, repaired."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcomp.backend import Backend, CompileOptions, Executable, KernelInfo, register_backend
from mcomp.errors import BackendError
from mcomp.ir import Graph
from mcomp.manager.context import Context
from mcomp.plan.measure_numpy import numpy_profile
from mcomp.plan.profile import DeviceProfile, device_profile, kernel_predictor, measure_profile

_PROFILE = DeviceProfile(
    "chip", 2, (("f32", 1e11), ("i8", 4e11), ("scalar", 1e10)), ((1 << 15, 1e11), (1 << 25, 1e10)), 1.5
)


class _Counting(Backend):
    """Measures nothing, and counts how often it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def pipeline(self) -> str:
        return ""

    def compile(self, graph: Graph, options: CompileOptions, context: Context | None = None) -> Executable:
        raise NotImplementedError

    def measure_profile(self, threads: int) -> DeviceProfile | None:
        self.asked.append(threads)
        return _PROFILE


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> _Counting:
    from mcomp import backend
    from mcomp.plugins import load_plugins

    load_plugins()
    monkeypatch.setattr(backend, "_BACKENDS", dict(backend._BACKENDS))
    made = _Counting()
    register_backend(made)
    return made


def test_measured_once_per_number_of_threads(counting: _Counting, tmp_path: Path) -> None:
    assert device_profile("counting", 2, directory=tmp_path) == _PROFILE
    assert device_profile("counting:variant", 2, directory=tmp_path) == _PROFILE
    assert counting.asked == [2]
    device_profile("counting", 1, directory=tmp_path)
    device_profile("counting", 2, directory=tmp_path, refresh=True)
    assert counting.asked == [2, 1, 2]
    assert not list(tmp_path.glob("*.tmp"))


def test_measured_with_the_threads_that_models_get(
    counting: _Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcomp.plan.profile.available_threads", lambda: 5)
    device_profile("counting", directory=tmp_path)
    assert counting.asked == [5]


def test_other_kernels_are_measured_anew(counting: _Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device_profile("counting", 2, directory=tmp_path)
    monkeypatch.setattr(counting, "revision", lambda: "other kernels", raising=False)
    device_profile("counting", 2, directory=tmp_path)
    assert counting.asked == [2, 2]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"device": "x"}', None], ids=["empty", "cut", "list", "incomplete", "negative"]
)
def test_a_damaged_file_is_measured_again(counting: _Counting, tmp_path: Path, content: str | None) -> None:
    device_profile("counting", 2, directory=tmp_path)
    (path,) = tmp_path.glob("*.json")
    if content is None:
        data = json.loads(path.read_text())
        data["rates"][0][1] = -1.0
        content = json.dumps(data)
    path.write_text(content)
    with pytest.warns(UserWarning, match="is damaged .*measuring again"):
        assert device_profile("counting", 2, directory=tmp_path) == _PROFILE
    assert counting.asked == [2, 2]
    assert device_profile("counting", 2, directory=tmp_path) == _PROFILE
    assert counting.asked == [2, 2]


def test_a_cache_that_cannot_be_written_is_a_warning(counting: _Counting, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be"):
        assert device_profile("counting", 2, directory=tmp_path / "file") == _PROFILE


def test_an_unknown_target() -> None:
    with pytest.raises(BackendError, match="there is no target moon"):
        device_profile("moon")


def test_numpy_measures_where_the_backend_does_not() -> None:
    from mcomp.backend import backend_named

    profile = measure_profile(backend_named("reference"), 1)
    assert profile.threads == 1
    assert profile.rate("f32") == profile.rate("i8") > 0
    sizes = [s for s, _ in profile.bandwidth]
    assert sizes == sorted(sizes)
    assert numpy_profile("name", 3).device == "name"


def test_bandwidth_and_rates() -> None:
    assert _PROFILE.bytes_per_second(10) == 1e11
    assert _PROFILE.bytes_per_second(1 << 15) == 1e11
    assert _PROFILE.bytes_per_second((1 << 15) + 1) == 1e10
    assert _PROFILE.bytes_per_second(1 << 30) == 1e10
    assert _PROFILE.rate("bf16") == _PROFILE.rate("f32")


@pytest.mark.parametrize(
    "change",
    [{"rates": (("f32", 1.0),)}, {"bandwidth": ()}, {"overhead_us": -1.0}, {"rates": (("f32", 0.0), ("scalar", 1.0))}],
)
def test_a_profile_without_sense(change: dict[str, object]) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"profile needs|must be positive"):
        replace(_PROFILE, **change)


def test_predicting_kernels() -> None:
    predict = kernel_predictor(profile=_PROFILE)
    product = KernelInfo("k", ("linear", "relu"), (), True, 2 * 10**9, 1000, 1000)
    assert predict(product) == pytest.approx(2 * 10**9 / 1e11 * 1e6 + 1.5)
    integers = KernelInfo("k", ("linear",), (), True, 2 * 10**9, 1000, 1000, compute="i8")
    assert predict(integers) == pytest.approx(2 * 10**9 / 4e11 * 1e6 + 1.5)
    streaming = KernelInfo("k", ("add",), (), True, 1000, 10**8, 10**8)
    assert predict(streaming) == pytest.approx(2 * 10**8 / 1e10 * 1e6 + 1.5)
    weights = KernelInfo("k", ("linear",), (), True, 1000, 20_000, 0, weights=20_000)
    assert predict(weights) == pytest.approx(20_000 / 1e11 * 1e6 + 1.5)
    assert kernel_predictor(profile=_PROFILE, all_weights=1e9)(weights) == pytest.approx(20_000 / 1e10 * 1e6 + 1.5)

"""The GPU benchmark without a GPU: in Triton's interpreter, and on clocks that the tests drive."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import kernels, report, run, timing
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.kernels import products
from benchmarks.gpu.report import Row
from benchmarks.gpu.runners import Runner
from mcomp.backend import KernelInfo
from mcomp.plan.profile import DeviceProfile
from tests.triton.harness import needs_triton

pytestmark = needs_triton
PROFILE = DeviceProfile("made up", 1, (("f32", 1e12), ("f16", 4e12), ("i8", 8e12), ("scalar", 5e11)), ((1 << 40, 1e9),), 1.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[Any, float]:
    """Milliseconds by what is called; a quarter for what is not in it. Everything is called once for each time."""
    given: dict[Any, float] = {}

    def milliseconds(call: Callable[[], object], repeats: int) -> float:
        call()
        return given.get(call, 0.25)

    monkeypatch.setattr(timing, "milliseconds", milliseconds)
    return given


def _options(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"small": True, "only": "", "rounds": 3, **changes})


def test_one_network_and_the_products_in_the_interpreter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "gpu.json"
    code = main(["--interpret", "--small", "--no-kernels", "--models", "bert", "--json", str(target)])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert report.NO_FIGURES in told.out and not target.exists()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in told.out.splitlines() if line.startswith("| ")][1:]
    ours = [cells for cells in rows if cells[0] == "BERT-base"]
    assert [cells[2] for cells in ours] == [f"mcomp {kind}" for kind, *_ in run.variants(run.SMALL_GROUP)]
    names = [cells[0].rsplit(" ", 1)[0] for cells in rows if cells[0] != "BERT-base"]
    assert names == [p.name for p in products(small=True)]
    for cells in rows:
        assert cells[3] == cells[4] == cells[5] == "-" and 0.0 <= float(cells[6]) < 0.2, cells


def test_products_are_timed_beside_the_library(clock: dict[Any, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library lacks here has the reason in its row; the rest has all figures."""
    def lacking(m: int, n: int, k: int, device: str) -> Any:
        raise RuntimeError("no such kernel")

    listed = [p for p in products(small=True) if p.name in ("fp16", "int4 matrix-vector")]
    listed.append(kernels.Product(**{**vars(listed[0]), "name": "lacking", "library": lacking}))
    monkeypatch.setattr(run, "products", lambda small: listed)
    rows, faults = run._products(_options(), "cpu", PROFILE)
    assert faults == []
    assert [(r.what.rsplit(" ", 1)[0], r.runner) for r in rows] == [
        ("fp16", "mcomp"), ("fp16", "library"), ("int4 matrix-vector", "mcomp"), ("lacking", "library"),
        ("lacking", "mcomp"),
    ]
    big, other, vector, lost, alone = rows
    assert big.milliseconds == other.milliseconds == 0.25 and big.ratio == 1.0 and other.ratio is None
    assert big.fraction == pytest.approx(2 * 32**3 / 0.25e-3 / 4e12)
    assert vector.fraction == pytest.approx(128 * 128 * 4.25 / 8 / 0.25e-3 / 1e9)
    assert all(r.error is not None and r.error < 2e-3 for r in (big, other, vector, alone))
    assert (lost.milliseconds, lost.note) == (None, "RuntimeError: no such kernel") and alone.ratio is None


def test_wrong_products_are_faults(clock: dict[Any, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "exact", lambda graph, inputs: torch.ones(1))
    _, faults = run._products(_options(only="fp16 32"), "cpu", None)
    assert len(faults) == 1 and "relative error" in faults[0]


def test_what_is_measured_at_full_size() -> None:
    """Sizes of 8192, and matrices for single rows that are larger than the second cache of any chip (an H200's: 50 MB)."""
    listed = products(small=False)
    assert {p.name for p in listed if p.rows == 8192} == {"fp16", "bf16", "int8", "fp8"}
    assert any(p.name == "int4 matrix-vector" and p.moved > 2 * 50e6 for p in listed)
    assert all(kind != "float32" for name, kind, _ in run.variants(128) if name in ("int8", "fp8", "int4"))
    assert {str(dtype) for name, dtype, _ in run.variants(128) if name in ("int8", "fp8", "int4")} <= {
        "torch.float16", "torch.bfloat16"}


def test_networks_have_ratios_and_fractions(clock: dict[Any, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers stand in for what no machine without a GPU runs; int4 has the same groups on both sides."""
    def peer(name: str, ms: float) -> Runner:
        call = lambda: torch.ones(2, 4)  # noqa: E731
        clock[call] = ms
        return Runner(name, call)

    groups: list[int] = []
    kernel = KernelInfo("linear", ("linear",), (), True, flops=10**9, read=1000, write=1000, compute="f16")

    def ours(network: Any, inputs: Any, dtype: torch.dtype, device: str, pipeline: str) -> Runner:
        call = lambda: torch.ones(2, 4)  # noqa: E731
        clock[call] = 0.5
        groups.extend(int(p) for p in pipeline.removesuffix("}").split("group=")[1:])
        return Runner("x", call, (kernel,))

    def torchao(network: Any, inputs: Any, dtype: torch.dtype, device: str, kind: str, group: int) -> Runner:
        if kind == "fp8":
            raise RuntimeError("not on this chip")
        groups.append(group)
        return peer(f"torchao {kind}", 0.75)

    monkeypatch.setattr(run.runners, "ours", ours)
    monkeypatch.setattr(run.runners, "eager", lambda *given: peer(f"eager {given[-1]}", 2.0))
    monkeypatch.setattr(run.runners, "inductor", lambda *given: peer(f"inductor {given[-1]}", 1.0))
    monkeypatch.setattr(run.runners, "torchao", torchao)
    network = run.Network("net", torch.nn.Identity(), lambda batch: (torch.ones(batch, 4),))
    rows, faults = run._network(network, 2, "cpu", _options(), PROFILE)
    assert faults == [] and set(groups) == {run.SMALL_GROUP}
    found = {r.runner: r for r in rows}
    assert found["mcomp float16"].ratio == pytest.approx(0.75 / 0.5)
    assert found["torchao int8"].ratio == pytest.approx(0.75 / 0.75)
    assert found["inductor fp16"].ratio == pytest.approx(0.75 / 1.0)
    assert found["mcomp int4"].fraction == pytest.approx(1e9 / 4e12 * 1e3 / 0.5)
    assert found["eager bf16"].fraction == pytest.approx(1e9 / 4e12 * 1e3 / 2.0)
    assert found["torchao fp8"].note == "RuntimeError: not on this chip" and found["torchao fp8"].milliseconds is None


def test_the_least_time_of_some_work() -> None:
    """Products at their peaks and the rest at that of element-wise loops, or bytes at the bandwidth: what takes longer."""
    def kernel(op: str, flops: int, moved: int, compute: str) -> KernelInfo:
        return KernelInfo(op, (op,), (), True, flops, moved, 0, compute=compute)

    some = [kernel("linear", 8 * 10**9, 10, "i8"), kernel("add", 10**9, 10, "f32")]
    assert run.least(some, PROFILE) == pytest.approx(1.0 + 2.0)
    assert run.least([*some, kernel("add", 0, 10**7, "f32")], PROFILE) == pytest.approx(1e7 / 1e9 * 1e3, rel=1e-3)


def test_runners_take_turns_in_an_order_that_rotates(clock: dict[Any, float]) -> None:
    order: list[str] = []
    listed = []
    for name, ms in (("a", 1.0), ("b", 4.0), ("c", 1e6)):
        call = lambda name=name: order.append(name)  # noqa: E731
        clock[call] = ms
        listed.append(Runner(name, call))
    times = timing.interleave(listed, rounds=3)
    assert times == {"a": [1.0] * 3, "b": [4.0] * 3, "c": [1e6] * 3}
    assert order[-9:] == [*"abc", *"bca", *"cab"]
    assert order[:18] == [name for name in "abc" for _ in range(6)], "each is warmed up, and timed once, before the rounds"
    assert timing.speed(times, "a", "b") == 4.0


def test_the_table_and_the_file(tmp_path: Path) -> None:
    rows = [Row("net", 8, "mcomp int8", 0.5, 0.75, 1e-3, "", 1.5), Row("net", 8, "torchao fp8", note="missing")]
    report.write(tmp_path / "gpu.json", rows, {"device": "made up", "torch": "2"})
    held = json.loads((tmp_path / "gpu.json").read_text())
    assert held["device"] == "made up" and held["rows"][0]["ratio"] == 1.5 and held["rows"][1]["milliseconds"] is None
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("device made up, torch 2\n")
    assert "| net | 8 | mcomp int8 | 0.5000 | 1.50 | 75% | 1.0e-03 |  |" in text
    assert "| net | 8 | torchao fp8 | - | - | - | - | missing |" in text
    assert "times faster" in text

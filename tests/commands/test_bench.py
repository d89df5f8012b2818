"""`mcomp bench --kernels`: every kernel beside what the machine that the model is for can do."""

import json
from pathlib import Path

import pytest

from mcomp.plan.profile import DeviceProfile
from tests.commands.conftest import Mcomp

SLOW = DeviceProfile("slow", 2, (("f32", 1e9), ("scalar", 1e6)), ((1 << 30, 1e9),), 0.5)


def test_kernels_beside_the_peak_of_the_target(mcomp: Mcomp, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []

    def profile(target: str = "cpu", threads: int | None = None) -> DeviceProfile:
        asked.append((target, threads))
        return SLOW

    monkeypatch.setattr("mcomp.plan.profile.device_profile", profile)
    monkeypatch.setattr("mcomp.plan.peak.device_profile", profile)
    rows = json.loads(mcomp("bench", folder / "model.mcomp", "--kernels", "--threads", "2", "--json").out)
    assert asked == [("reference", 2), ("reference", 2)]
    assert [row["layers"] for row in rows] == [["fc1"], ["act"], ["fc2"]]
    assert [row["bound"] for row in rows] == ["bytes", "operations", "bytes"]
    for row, rate in zip(rows, (1e9, 1e6, 1e9), strict=True):
        least = max(row["flops"] / rate, row["bytes"] / 1e9) * 1e6
        assert row["us"] > 0
        assert row["peak_fraction"] == pytest.approx(least / row["us"])
        assert row["predicted_us"] == pytest.approx(least + 0.5)
    table = mcomp("bench", folder / "model.mcomp", "--kernels", "--threads", "2").out
    for word in ("of peak", "fc1", "operations"):
        assert word in table

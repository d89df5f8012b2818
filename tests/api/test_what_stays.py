"""What a result holds on to: its versions, and nothing of the search."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

import mcomp
from mcomp.plan import build
from mcomp.plan.work import Workshop
from tests.api.models import batches, wide

X = batches(1)[0][0]


def test_a_result_keeps_its_front_and_nothing_else_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of picked versions are made when they are asked for, all the same."""
    gone: list[weakref.ref[Any]] = []
    dropped: dict[str, weakref.ref[Any]] = {}
    inner = Workshop.close

    def close(self: Workshop) -> None:
        inner(self)
        gone.extend(weakref.ref(x) for x in (self, self.works[0].calibration, self.captured))
        dropped.update({v.name: weakref.ref(v.built) for v in self.versions})

    monkeypatch.setattr(Workshop, "close", close)
    monkeypatch.setattr(build, "frontier", lambda shop, chosen: [shop.versions[0], chosen])
    fast = mcomp.optimize(
        wide(), (X,), target="reference", objective="size", calibration=batches(), max_error=0.05, progress=False,
    )
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    front = {v.name for v in fast.frontier}
    assert {name for name, ref in dropped.items() if ref() is not None} == front < set(dropped)
    for version in fast.frontier:
        report = fast.pick(version).report()
        assert report.kept.name == version.name and report.pipeline == version.pipeline
        rows = {row.layer: row for row in report.rows}
        assert {"body", "head"} <= set(rows) and rows["body"].measured_us is not None
        assert (rows["body"].measured_before_us is None) is (version.name == "lossless")
        assert rows["body"].weight_bytes_before == 64 * 65 * 4
        assert [s.name for s in report.stages] == [s.name for s in fast.report().stages]
        assert sum(s.kept for s in report.stages) == 1
        assert (len(report.ledger) > 0) is (version.name != "lossless")

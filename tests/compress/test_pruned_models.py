"""A pruned model through the front door: any batch size, smaller, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import torch

import mcomp
from benchmarks.networks import randomize
from tests.compress.networks import NETWORKS


def test_heads_units_and_channels_of_one_model(tmp_path: Path) -> None:
    build, inputs = NETWORKS["gated"]
    torch.manual_seed(0)
    model, args = randomize(build()), inputs()
    calibration = [tuple(torch.randn(16, *x.shape[1:]) for x in args) for _ in range(2)]
    fast = mcomp.optimize(
        model, args, calibration=calibration, pipeline="prune{ratio=0.3,what=[channels,ffn,heads]}", target="reference",
        threads=1, progress=False,
    )
    for x in (args, tuple(torch.randn(5, *a.shape[1:]) for a in args)):
        assert fast(*x).shape == model(*x).shape and torch.isfinite(fast(*x)).all()
    report = fast.report()
    assert {e["rule"] for e in report.ledger} == {"prune"} and report.kept.weight_bytes < report.original.weight_bytes
    again = mcomp.load(fast.save(tmp_path / "model.mcomp"), threads=1)
    assert torch.allclose(again(*args), fast(*args), rtol=1e-3, atol=1e-4)

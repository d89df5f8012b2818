"""Pruned models through the front door: run by the backends, smaller, quantized after, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mcomp
import mcomp.backend
from benchmarks.networks import randomize
from tests.compress.networks import NETWORKS

PIPELINE = "prune{ratio=0.3,what=[channels,ffn,heads]}"


Args = tuple[torch.Tensor, ...]


def _optimized(name: str, pipeline: str, target: str) -> tuple[mcomp.CompiledModel, torch.nn.Module, Args]:
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model, args = randomize(build()), inputs()
    calibration = [tuple(torch.randn(16, *x.shape[1:]) for x in args) for _ in range(2)]
    fast = mcomp.optimize(
        model, args, calibration=calibration, pipeline=pipeline, target=target, threads=1, progress=False
    )
    return fast, model, args


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_stay_right_on_the_reference(name: str) -> None:
    fast, model, args = _optimized(name, PIPELINE, "reference")
    for x in (args, tuple(torch.randn(5, *a.shape[1:]) for a in args)):
        assert fast(*x).shape == model(*x).shape and torch.isfinite(fast(*x)).all()
    report = fast.report()
    assert {e["rule"] for e in report.ledger} == {"prune"} and report.kept.weight_bytes < report.original.weight_bytes


@pytest.mark.skipif(
    mcomp.backend.backend_named("cpu").available() is not None, reason="there is no C++ compiler on this machine"
)
@pytest.mark.parametrize("name", ["mobile", "gated"])
def test_generated_code_runs_what_is_left(name: str, tmp_path: Path) -> None:
    fast, model, args = _optimized(name, f"{PIPELINE},quantize", "cpu")
    plain, _, _ = _optimized(name, f"{PIPELINE},quantize", "reference")
    torch.testing.assert_close(fast(*args), plain(*args), rtol=0.05, atol=0.05)
    again = mcomp.load(fast.save(tmp_path / "model.mcomp"), threads=1)
    assert torch.equal(again(*args), fast(*args)) and fast(*args).shape == model(*args).shape

"""What the time or the user cut short is told, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mcomp.ir import Graph
from mcomp.manager import Context, Pass, PassEffect, PassResult
from mcomp.manager.context import INTERRUPTED, TRAINED
from mcomp.passes.compress.training.trainer import Outcome
from tests.api.models import batches, wide
from tests.plan.shops import shop_of


@dataclass(frozen=True)
class Trained(Pass):
    """A training that ended as it is told."""

    name = "test-trained"
    effect = PassEffect.APPROXIMATE
    stopped: str = ""

    def run(self, graph: Graph, context: Context) -> PassResult:
        outcome = Outcome(steps=3, planned=7, stopped=self.stopped)
        context.shared[TRAINED] = (outcome,)
        context.shared[INTERRUPTED] = outcome.interrupted
        return PassResult(False)


@pytest.mark.parametrize(("stopped", "told"), [
    ("", None), ("the held-out loss no longer fell", None), ("the time was up", "cut short by the time limit"),
    ("interrupted", "interrupted"),
])
@pytest.mark.parametrize("time_limit", [0.0, 3600.0, None])
def test_a_training_that_was_cut_short_is_told(
    stopped: str, told: str | None, time_limit: float | None, tmp_path: Path
) -> None:
    """Whether the time is up once it is done does not matter."""
    shop = shop_of(wide(), batches(1)[0], calibration=batches(), time_limit=time_limit, resume=tmp_path)
    shop.lossless()
    version = shop.make("trained 1", [Trained(stopped)])
    assert version.cut is (told is not None)
    found = [note for note in shop.warnings if "its pipeline gives another model when run again" in note]
    assert found == ([] if told is None else [f"the training of trained 1 was {told}: its pipeline gives another model when "
                                              "run again"])
    assert bool(list(tmp_path.glob("version-*.json"))) is (told is None)

"""prune: names that are of nothing, and wishes that exclude each other, are told."""

from __future__ import annotations

import pytest

from mcomp.errors import PassError
from mcomp.manager import Context, PassManager
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, mlp, random


@pytest.mark.parametrize(("options", "layer", "reason"), [
    ('widths=["fc9.weight:0=8"]', "fc9.weight:0", "no dimension that can shrink has this name"),
    ('widths=["fc9.weight:0=0"]', "fc9.weight:0", "and no branch goes"),
    ('what=branches,widths=["add_7=0"]', "add_7", "no branch that can go has this name"),
    ('what=branches,widths=["fc1.weight:0=8"]', "fc1.weight:0", "nothing is narrowed"),
    ('what=[branches,ffn],widths=["add_7=0"]', "add_7", "no branch that can go has this name"),
    ("what=branches", "mlp", "no branch can go"),
])
def test_names_of_nothing_leave_a_remark(options: str, layer: str, reason: str) -> None:
    graph, context, error = compressed(mlp(), f"prune{{{options}}}", [[random(100, 64)]])
    assert error == 0 and not graph.ledger
    assert [r.layer for r in context.remarks if r.kind == "missed" and reason in r.reason and r.remedy] == [layer]


def test_names_that_are_close_are_told() -> None:
    _, context, _ = compressed(mlp(), 'prune{widths=["fc9.weight:0=8","other=0"]}', [[random(100, 64)]])
    remedies = {r.layer: r.remedy for r in context.remarks if r.kind == "missed"}
    assert "such as fc1.weight:0" in remedies["fc9.weight:0"] and "prune_curves" not in str(remedies)
    assert "such as fc1.weight:0" in remedies["other"] and "branches" in remedies["other"]


@pytest.mark.parametrize("text", ["prune{limit=0}", "quantize{limit=0}", "lowrank{limit=-1}", "treat{limit=0}"])
def test_a_limit_that_leaves_no_batch_is_refused(text: str) -> None:
    name = text.partition("{")[0]
    with pytest.raises(PassError, match=rf"{name}: limit is (0|-1)\n.*1 calibration batch or more"):
        PassManager(text).run(mlp(), Context(calibration=Calibration([[random(10, 64)]])))


@pytest.mark.parametrize(("options", "message"), [
    ('what=branches,widths=["add_7"]', "width 'add_7'"), ('what=blocks,widths=["=3"]', "width '=3'"),
    ('widths=["fc1.weight:0=9999"]', r"has \d+ units, not 9999\n.*write fc1.weight:0= and how many stay, 1 to \d+"),
    ("least=1.5", r"least is 1.5\n.*use a share of 1"), ("least=-0.5", "least is -0.5"),
    ('widths=["fc1.weight:0=many"]', "many"), ("what=[blocks,nm]", "blocks or as nm, not both"),
])
def test_wishes_that_cannot_be_met(options: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        PassManager(f"prune{{{options}}}").run(mlp(), Context(calibration=Calibration([[random(10, 64)]])))

"""Options for single layers: values that cannot be name the layer before anything runs; those that can are followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcomp.errors import PassError
from mcomp.ir import NM
from mcomp.manager import Context, PassManager
from mcomp.runtime.calibration import Calibration
from tests.compress.graphs import compressed, conv, layers, mixed, mlp, random


@pytest.mark.parametrize(("pipeline", "options", "words"), [
    ("quantize", {"bits": 5}, ["bits is 5", "use bits=8"]),
    ("quantize", {"bits": "8"}, ["bits is '8'", "int"]),
    ("quantize{bits=4}", {"group": 40}, ["40 does not divide 96"]),
    ("quantize", {"group": 0}, ["group is 0"]),
    ("quantize", {"activations": "statc"}, ["'statc'", "static"]),
    ("treat{choices=[\"h=int8\"]}", {"bits": 5}, ["bits is 5"]),
    ("prune", {"ratio": 1.5}, ["ratio is 1.5"]),
    ("prune{what=blocks}", {"ratio": -0.5}, ["ratio is -0.5"]),
    ("lowrank", {"ratio": 1.5}, ["ratio is 1.5"]),
    ("lowrank", {"rank": 0}, ["rank is 0"]),
    ("lowrank", {"energy": 2}, ["energy is 2"]),
])
def test_values_that_cannot_be_name_the_layer(pipeline: str, options: dict[str, Any], words: list[str]) -> None:
    def run(**given: Any) -> None:
        context = Context(calibration=Calibration([[random(40, 64)]]), layers={"fc2": options}, **given)
        PassManager(pipeline).run(mlp(), context)

    with pytest.raises(PassError) as caught:
        run()
    for word in (*words, "fc2"):
        assert word in str(caught.value)
    run(exclude=["fc2"])


def test_a_layer_that_is_switched_off_may_have_any_group() -> None:
    for options in ({"layers": {"fc2": {"quantize": False}}}, {"exclude": ["fc2"]}):
        graph, _, _ = compressed(mlp(), "quantize{bits=4,group=64,max_error=1.0}", [[random(40, 64)]], **options)
        assert [e.layer for e in graph.ledger] == ["fc1"]


def test_what_a_layer_has_of_its_own_says_how_much_stays() -> None:
    """Of a ratio for a layer, the scheme with the least error; an energy for a layer in spite of the pass's ratio."""
    images = mixed(12, 8, 8, 12).permute(0, 3, 1, 2).contiguous()
    whole, alone = (
        compressed(conv(outputs=24), pipeline, [[images]], **options)[0].ledger[0].detail for pipeline, options in (
            ("lowrank{ratio=0.5,max_error=1.0}", {}), ("lowrank{max_error=1.0}", {"layers": {"c": {"ratio": 0.5}}}),
        )
    )
    assert whole == alone
    graph, _, _ = compressed(
        mlp(), "lowrank{ratio=0.3,max_error=1.0,gain=2.0}", [[mixed(400, 64)]], layers={"fc2": {"energy": 1.0}}
    )
    first, second = graph.ledger
    assert first.error > 0.01 > second.error


def test_groups_are_for_dense_linear_layers() -> None:
    _, context, _ = compressed(conv(), "quantize{bits=4,group=4,max_error=1.0}", [[random(4, 12, 8, 8)]])
    assert [r.layer for r in context.remarks if "not for groups of inputs" in r.reason and r.remedy] == ["c"]
    pipeline = "prune{what=nm},quantize{bits=4,group=16,max_error=9.0}"
    graph, context, _ = compressed(mlp(), pipeline, [[random(100, 64)]])
    assert all(isinstance(n.operand(1).tensor.encoding, NM) for n in layers(graph))
    assert [r.layer for r in context.remarks if "not for groups of inputs" in r.reason] == ["fc1", "fc2"]


def test_a_group_that_no_longer_divides_leaves_the_layer() -> None:
    pipeline = 'prune{widths=["fc1.weight:0=72"]},quantize{bits=4,group=32,max_error=1.0}'
    graph, context, _ = compressed(mlp(), pipeline, [[random(200, 64)]])
    assert [e.layer for e in graph.ledger if e.rule == "quantize"] == ["fc1"]
    assert any("32 does not divide 72" in r.reason and r.layer == "fc2" for r in context.remarks)


def test_options_of_the_whole_pass_leave_a_remark() -> None:
    _, context, _ = compressed(mlp(), "quantize", [[torch.randn(40, 64)]], layers={"fc2": {"smooth": 0.5}})
    assert [r.layer for r in context.remarks if "smooth is an option of the whole pass" in r.reason] == ["fc2"]

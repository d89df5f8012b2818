"""Files that commands are given: strangers', damaged and odd ones; and files that commands write."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mcomp.commands.common import emit_json
from tests.commands.conftest import Mcomp
from tests.runtime.build import model
from tests.runtime.test_artifact import Header, altered, with_ir


@pytest.mark.parametrize("argv", [
    ("compare", "FILE", "FILE"), ("bisect", "FILE", "--pipeline", "dce"), ("opt", "FILE", "--pipeline", "dce"),
])
def test_a_graph_of_a_file_runs_operators_of_the_list_only(mcomp: Mcomp, tmp_path: Path, argv: tuple[str, ...]) -> None:
    path = model().save(tmp_path / "evil.mcomp")
    call = '%evil = aten._reshape_alias.default %h {args = ["$0", [1000], [1]]} : f32[1000]'
    with_ir(path, "%r = relu %h", f"{call}\n  %r = relu %h")
    ran = mcomp(*[str(path) if a == "FILE" else a for a in argv])
    assert (ran.code, ran.out) == (3, "")
    assert "not on the allow-list" in ran.err
    assert mcomp("inspect", path).code == 0


def test_inspect_a_damaged_report(mcomp: Mcomp, tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray], metadata: dict[str, str], header: Header) -> None:
        tensors["report"] = np.frombuffer(b'{"rows": [1]}', np.uint8)

    path = altered(model().save(tmp_path / "model.mcomp"), change)
    ran = mcomp("inspect", "--report", path)
    assert (ran.code, ran.out) == (3, "")
    assert "its report cannot be read" in ran.err and "Traceback" not in ran.err


def test_json_has_no_numbers_that_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"a": [math.inf, 1.5], "b": (math.nan, -math.inf), "c": {"d": 1}})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": [None, 1.5], "b": [None, None], "c": {"d": 1}}

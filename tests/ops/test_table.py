"""The table of operators that `python -m mcomp.ops` prints."""

from __future__ import annotations

import json

import pytest

from mcomp.ops import all_ops
from mcomp.ops.__main__ import main, table


def test_every_operator_has_a_row() -> None:
    rows = {row["op"]: row for row in table()}
    assert rows.keys() == all_ops().keys()
    assert rows["clamp"]["operands"] == ["x", "low?", "high?"]
    assert rows["gelu"]["attrs"] == ['approximate: str = "none"']
    assert (rows["gelu"]["family"], rows["silu"]["family"]) == ("activation", "activation")
    assert rows["rand"]["effect"] == "random"
    assert rows["permute"]["view"] is True


def test_json_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(all_ops())
    assert main([]) == 0
    text = capsys.readouterr().out
    assert f"{len(all_ops())} operators" in text and "slice_scatter" in text

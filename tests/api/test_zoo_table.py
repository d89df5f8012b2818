"""The table of the zoo: what counts as good, the files, the workers; and models through the compiler."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import machine, zoo
from benchmarks.zoo_check import check
from benchmarks.zoo_pool import check_all
from benchmarks.zoo_table import Row, Table

GOOD = Row("one", "plain", 1.0, 10, 0, 0, 1.0, 1.0, (1e-7, 2e-7), True, (), "", 2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"errors": (1e-7, 2e-3)}, "wrong results: error 2.0e-03"),
        ({"errors": (float("nan"),)}, "wrong results: error nan"),
        ({"errors": ()}, "nothing was compared"),
        ({"failure": "KeyError: x"}, "KeyError: x"),
        ({"eager_modules": 2}, "2 eager modules"),
        ({"native_nodes": 0.9}, "90.0 % of nodes native"),
        ({"native_flops": 0.5}, "50.0 % of FLOPs native"),
        ({"round_trip": False}, "does not parse back"),
    ],
)
def test_what_falls_short_is_named(change: dict[str, object], words: str) -> None:
    assert GOOD.good
    row = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]
    assert not row.good and words in row.explained() and words in row.line()


def test_the_files_hold_failures_too(tmp_path: Path) -> None:
    bad = dataclasses.replace(GOOD, name="two", failure="stopped after 5 seconds")
    table = Table("the command", "cpu", {row.name: row for row in (GOOD, bad)})
    table.write(tmp_path / "zoo")
    again = Table("another", "cpu").resumed(tmp_path / "zoo")
    assert again.rows == table.rows
    text = (tmp_path / "zoo.md").read_text()
    assert "**1 of 2 models" in text and "| two * |" in text and "- two: stopped after 5 seconds" in text
    with pytest.raises(ValueError, match="target cpu, not capture"):
        Table("another", "capture").resumed(tmp_path / "zoo")


def test_rows_that_are_taken_over_keep_what_they_were_made_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = machine.describe(1)
    monkeypatch.setattr(machine, "describe", lambda threads: {**described, "cpu": "The first"})
    Table("one command", "cpu", {"one": GOOD}).write(tmp_path / "zoo")
    for cpu, name in (("The second", "two"), ("The third", "three")):
        monkeypatch.setattr(machine, "describe", lambda threads, cpu=cpu: {**described, "cpu": cpu})
        table = Table(f"command of {name}", "cpu").resumed(tmp_path / "zoo")
        table.rows[name] = dataclasses.replace(GOOD, name=name)
        table.write(tmp_path / "zoo")
    found = json.loads((tmp_path / "zoo.json").read_text())
    assert (found["machine"]["cpu"], found["command"]) == ("The third", "command of three")
    assert [(run["machine"]["cpu"], run["command"]) for run in found["earlier"]] == [
        ("The first", "one command"), ("The second", "command of two"),
    ]
    assert [row["run"] for row in found["rows"]] == [0, 1, None]
    assert "Rows of an earlier run (1): `one command`; The first (" in (tmp_path / "zoo.md").read_text()


def test_a_model_that_takes_too_long_does_not_stop_the_table() -> None:
    (row,) = check_all(["torch-cnn"], "capture", limit=0.0)
    assert row.name == "torch-cnn" and row.failure == "stopped after 0 seconds" and not row.good


def test_a_worker_gives_rows() -> None:
    rows = list(check_all(["torch-mlp", "torch-autoencoder"], "capture", limit=300.0))
    assert [row.name for row in rows] == ["torch-mlp", "torch-autoencoder"]
    assert all(row.good for row in rows), [row.explained() for row in rows]


@pytest.mark.parametrize("name", ["torch-gru", "torch-transformer-encoder", "torch-temporal"])
def test_compiled_models(name: str) -> None:
    row = check(zoo.find(name), "cpu")
    assert row.good, row.explained()

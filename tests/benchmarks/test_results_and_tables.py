"""A result file survives the way to disk, and its tables say what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cpu, machine, picture, table
from benchmarks.results import CaseResult, Entry, Results


def _entry(peer: str, variant: str, rounds: list[float], **fields: object) -> Entry:
    base = {"chosen": "best", "prepare_s": 1.5, "size_bytes": 2_500_000, "versions": {peer: "1.0"}, "tried": []}
    return Entry(peer=peer, variant=variant, rounds_ms=rounds, **(base | fields))  # type: ignore[arg-type]


@pytest.fixture
def results() -> Results:
    case = CaseResult("net", "A net", 1, "top-1 %", 100)
    case.entries = [
        _entry("eager", "fp32", [10.0, 12.0, 11.0], quality=90.0),
        _entry("other", "int8", [2.0, 2.0, 2.0], quality=89.5, relative_error=0.02, idle_cores=0.9),
        _entry("mcomp", "int8", [1.0, 1.0, 1.0], quality=90.25, size_bytes=None),
    ]
    case.entries[1].tried = [{"name": "odd", "error": "ValueError: no"}]
    case.skipped = {"third fp32": "not today"}
    return Results("python -m benchmarks.cpu", machine.describe(2), 3, 0.3, True, [case], {"second": "no data"})


def test_results_survive_saving(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "deep" / "r.json")
    assert Results.read(tmp_path / "deep" / "r.json") == results
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r.json"]


def test_reading_another_format_is_an_error(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "r.json")
    fields = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps(fields | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        Results.read(tmp_path / "r.json")


def test_cases_of_another_run_keep_the_machine_they_ran_on(results: Results) -> None:
    older = Results("earlier", {"cpu": "another"}, 5, 0.1, False, [CaseResult(n, n, 1, "%", 9) for n in ("net", "first")])
    older.cases.append(CaseResult("oldest", "oldest", 1, "%", 9, machine={"cpu": "a third"}, command="earliest"))
    results.add_older(older)
    assert [(c.case, c.machine.get("cpu"), c.command) for c in results.cases] == [
        ("first", "another", "earlier"), ("net", None, ""), ("oldest", "a third", "earliest"),
    ]
    assert results.cases[1].entries


def test_cases_of_another_run_keep_its_rounds_and_what_it_skipped(results: Results) -> None:
    cases = [CaseResult(name, name, 1, "%", 9, skipped={"mcomp int8": "died"}) for name in ("net", "first")]
    skipped = {"openvino": "missing", "second": "x", "third": "y"}
    older = Results("earlier", machine.describe(1), 7, 0.2, True, cases, skipped)
    older.cases.append(CaseResult("oldest", "oldest", 1, "%", 9, machine={"cpu": "a third"}, command="earliest", rounds=9))
    results.add_older(older)
    first, _, oldest = results.cases
    assert (first.rounds, first.burst_s, first.quick) == (7, 0.2, True)
    assert first.skipped == {"openvino": "missing", "mcomp int8": "died"}
    assert (oldest.rounds, oldest.skipped) == (9, {})
    assert results.skipped == {"second": "no data", "third": "y"}


def test_tables_tell_what_cases_of_other_runs_were_made_on(results: Results) -> None:
    other = {**machine.describe(1), "cpu": "Another CPU"}
    older = Results("python -m earlier", other, 7, 0.2, False, [
        CaseResult(name, name, 1, "%", 9, [_entry("other", "int8", [1.0] * 7)], commit="abc123", date="2026-01-31")
        for name in ("first", "last")
    ])
    assert table.origins(results) == []
    results.add_older(older)
    told = (
        f"first, last: `python -m earlier`; {machine.conditions(other)}; 7 rounds of 0.2 s; other 1.0; "
        "2026-01-31, commit abc123"
    )
    assert table.origins(results) == [told]
    assert f"- {told}" in table.markdown(results)
    assert f"- {told}" in picture.table(results)
    assert "Another CPU" not in table.notes(results)[1]


def test_cases_tell_when_and_of_which_commit_they_are(results: Results) -> None:
    results.cases[0].commit, results.cases[0].date = "abc123-dirty", "2026-01-31"
    assert table.notes(results)[1].endswith("; 2026-01-31, commit abc123-dirty")


def test_two_speeds_of_the_machine_are_told(results: Results) -> None:
    assert table.varied(results.cases[0]) == {}
    results.cases[0].entries[0].rounds_ms = [10.0, 13.0, 11.0]
    told = "net: rounds differ by more than 1.2 times, as on a machine of two speeds: eager 1.3."
    assert told in table.notes(results)
    assert f"- {told}" in picture.table(results)


def test_rounds_that_are_missing_are_told(results: Results) -> None:
    results.rounds = 15
    assert "net: 3 of 15 rounds were taken." in table.notes(results)


def test_there_is_no_commit_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    machine.revision.cache_clear()
    assert machine.revision() is None
    machine.revision.cache_clear()


def test_commands_name_no_place_of_this_machine() -> None:
    words = ["--data", "/somewhere", "--models", "a,b", "--json", "/x.json", "--kept", "/kept"]
    assert machine.command_of("cpu", words) == "python -m benchmarks.cpu --data DIR --models a,b --json OUT --kept DIR"


def test_case_sheet_shows_time_ratio_quality_and_size(results: Results) -> None:
    rows = {row[0]: row for row in table.case_sheet(results.cases[0], "other int8").rows}
    assert rows["eager"][1:3] == ("11", "1.00 (1.00-1.00)")
    assert rows["other int8"][2] == "5.50 (5.00-6.00)"
    assert rows["mcomp int8"][3] == "2.00 (2.00-2.00)"
    assert rows["mcomp int8"][4] == "90.25 (+0.25)"
    assert rows["other int8"][5:8] == ("2.0e-02", "2.50", "1.5")
    assert rows["mcomp int8"][6] == "-"


def test_columns_match_rows_with_and_without_a_second_reference(results: Results) -> None:
    for against in (None, "other int8"):
        sheet = table.case_sheet(results.cases[0], against)
        assert {len(row) for row in sheet.rows} == {len(sheet.columns)}
        assert sheet.rich().row_count == 3


def test_markdown_says_what_was_skipped_failed_or_disturbed(results: Results) -> None:
    text = table.markdown(results)
    for expected in ("second: no data", "third fp32: not today", "odd: ValueError: no", "used 0.90 cores", "Quick run"):
        assert expected in text


def test_table_command_prints_a_file(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.save(tmp_path / "r.json")
    assert table.main([str(tmp_path / "r.json")]) == 0
    assert "| mcomp int8 |" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "shown"), [(123.4, "123"), (12.34, "12.3"), (0.1234, "0.123"), (0.01234, "0.0123")])
def test_milliseconds_have_three_digits(value: float, shown: str) -> None:
    assert table.milliseconds(value) == shown


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="unknown models: nothing; known: minilm"):
        cpu.main(["--models", "nothing"])


def test_a_model_without_data_is_reported_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "r.json"
    code = cpu.main(["--models", "resnet20", "--peers", "eager", "--ours", "", "--json", str(output)])
    assert code == 1
    assert "give --data DIR" in Results.read(output).skipped["resnet20"]
    assert "give --data DIR" in capsys.readouterr().out

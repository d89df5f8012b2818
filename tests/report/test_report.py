"""Reports: plain data that prints, survives JSON, and says what was not kept."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from mcomp.errors import McompError
from mcomp.report.render import microseconds, print_report, quantity, share
from mcomp.report.report import Eager, Report, Row, Stage


@pytest.fixture
def report() -> Report:
    return Report(
        target="cpu", objective="latency", model="Net", pipeline="quantize", budget="output error at most 0.05",
        within_budget=True, native_nodes=0.9, native_flops=0.99,
        rows=[
            Row("fc1", "quantize linear", "quantize", "quantize: error 0.87%", 400, 100, 2000, 2100, 3.0, 2.5, 5.0),
            Row("", "tanh", "-", flops_before=100, flops=100, measured_us=1.0, measured_before_us=1.0, native=False),
        ],
        stages=[
            Stage("original", 0.91, None, 1.0, 400), Stage("lossless", None, 1e-7, 0.5, 400),
            Stage("int8", 0.909, 0.01, 0.25, 100, "kept", True),
            Stage("int8, dynamic", None, 0.02, 0.6, 100, "not worth it: 0.83x the speed of lossless"),
        ],
        eager_modules=[Eager("head", "it looks at values", "rewrite it")], opaque_nodes={"aten.foo.default": 2},
        torch_nodes={"tanh": 1},
        remarks=[
            {"kind": "missed", "rule": "quantize", "layer": "head", "reason": "too small", "remedy": "leave it"},
            {"kind": "note", "rule": "quantize", "layer": "fc1", "reason": "not shown", "remedy": ""},
        ],
        evaluations=[{"model": "original", "result": 0.91, "seconds": 0.5}], seconds={"capture": 1.0, "search": 0.01},
        notes=["a sentence"],
    )


def test_everything_is_printed(report: Report) -> None:
    text = str(report)
    for words in (
        "Net for cpu, objective latency: 90.0% of nodes and 99.0% of FLOPs run in generated code", "pipeline: quantize",
        "budget: output error at most 0.05: met", "fc1", "quantize: error 0.87%", "- (torch)", "int8, dynamic",
        "not worth it: 0.83x", "kept", "eager: head: it looks at values (rewrite it)", "aten.foo.default x2", "tanh x1",
        "missed: quantize: head: too small (leave it)", "a sentence", "capture 1.0 s",
    ):
        assert words in text
    assert "not shown" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_are_printed_as_they_are(report: Report, terminal: bool) -> None:
    report.pipeline = "prune{what=[heads,ffn]}"
    report.rows[0].layer, report.rows[0].why = "net[bold]", "a shape in [red]"
    out = io.StringIO()
    print_report(report, Console(file=out, width=200, force_terminal=terminal, color_system=None))
    for text in ("prune{what=[heads,ffn]}", "net[bold]", "a shape in [red]"):
        assert text in out.getvalue()


def total_of(report: Report) -> str:
    line = next(line for line in str(report).splitlines() if line.strip().startswith("total"))
    return " ".join(line.split()[1:])


def test_totals_add_up(report: Report) -> None:
    report.rows[1].predicted_us = 0.5
    assert total_of(report) == "400 B -> 100 B 2.10 K -> 2.20 K 3.5 6.0 -> 3.5"


def test_totals_are_of_the_whole_model(report: Report) -> None:
    report.total = Row("total", "", "", "", 500, 100, 2500, 2200, 4.0, 3.5, 8.0)
    assert total_of(report) == "500 B -> 100 B 2.50 K -> 2.20 K 4.0 8.0 -> 3.5"
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_sums_that_lack_a_part_are_no_totals(report: Report) -> None:
    assert total_of(report) == "400 B -> 100 B 2.10 K -> 2.20 K - 6.0 -> 3.5"
    report.rows[1].measured_before_us = None
    assert total_of(report) == "400 B -> 100 B 2.10 K -> 2.20 K - - -> 3.5"
    report.rows[0].measured_before_us = None
    assert total_of(report) == "400 B -> 100 B 2.10 K -> 2.20 K - 3.5"


def test_a_console_without_a_terminal_gets_plain_wide_text(report: Report) -> None:
    out = io.StringIO()
    print_report(report, Console(file=out, width=40))
    assert "\x1b" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) > 80


def test_json_there_and_back(report: Report) -> None:
    data = json.loads(json.dumps(report.to_json()))
    again = Report.from_json(data)
    assert again == report
    assert again.original.quality == 0.91
    assert again.kept.name == "int8"


def test_fields_of_a_newer_version_are_left_out(report: Report) -> None:
    data = report.to_json()
    data["novelty"] = 1
    for name in ("rows", "stages", "eager_modules"):
        data[name][0]["novelty"] = 1
    assert Report.from_json(data) == report


def test_a_report_of_no_version_says_so() -> None:
    with pytest.raises(McompError, match="does not tell of the original; it has 0"):
        _ = Report().original
    with pytest.raises(McompError, match="does not tell of a version that was kept; it has 1"):
        _ = Report(stages=[Stage("original")]).kept


def test_an_empty_report_prints() -> None:
    assert str(Report())


@pytest.mark.parametrize(("value", "unit", "base", "text"), [
    (None, "", 1000, "-"), (0, "B", 1000, "0 B"), (999, "B", 1000, "999 B"), (1500, "B", 1000, "1.50 KB"),
    (123456, "", 1000, "123.5 K"), (2048, "B", 1024, "2.00 KiB"), (3e9, "", 1000, "3.00 G"), (5e15, "", 1000, "5000.0 T"),
])
def test_quantities(value: float | None, unit: str, base: int, text: str) -> None:
    assert quantity(value, unit, base) == text


def test_shares() -> None:
    assert [share(v) for v in (0.0, 0.5, 0.9994, 0.99951, 0.9999999, 1.0)] == [
        "0.0%", "50.0%", "99.9%", "99.9%", "99.9%", "100.0%",
    ]


def test_microseconds() -> None:
    assert [microseconds(v) for v in (None, 0.04, 12.34, 12345.6)] == ["-", "0.0", "12.3", "12346"]

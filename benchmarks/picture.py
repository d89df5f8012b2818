"""The front as a picture, and as a table: quality on test data beside time and bytes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import CaseResult, Entry, Results
from benchmarks.table import TWO_SPEEDS, doubts, origins, varied

PLAN, INT8, EAGER = "mcomp plan", "mcomp int8", "eager"
_LOOKS = (("mcomp front", "o", "tab:blue"), (PLAN, "*", "tab:red"), (INT8, "s", "black"), ("mcomp", "^", "tab:green"))
_OTHERS = ("x", "tab:gray")
_WIDE = 300.0
_SHOWN = 5.0
"""Points of quality below the uncompressed model's that the picture goes down to."""


def table(results: Results) -> str:
    """Markdown: every runner of every case, what cases of other runs were made on, and what makes times doubtful."""
    lines = [
        "| model | runner | quality | ms | times eager | times our int8 | bytes | also |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in results.cases:
        for entry in case.entries:
            quality = "-" if entry.quality is None else f"{entry.quality:.2f}"
            size = "-" if entry.size_bytes is None else f"{entry.size_bytes:,}"
            lines.append(
                f"| {case.case} | {entry.name} | {quality} | {_ms(entry):.4g} | {_ratio(case, EAGER, entry)} | "
                f"{_ratio(case, INT8, entry)} | {size} | {', '.join(f'{k} {v:.2f}' for k, v in entry.also.items())} |"
            )
    told = [*origins(results), *(line for case in results.cases for line in doubts(case))]
    return "\n".join([*lines, *([""] if told else []), *(f"- {line}" for line in told)])


def _ms(entry: Entry) -> float:
    return statistics.median(entry.rounds_ms) if entry.rounds_ms else float("nan")


def _ratio(case: CaseResult, base: str, entry: Entry) -> str:
    other = case.entry(base)
    if other is None or not entry.rounds_ms or len(other.rounds_ms) != len(entry.rounds_ms):
        return "-"
    return f"{statistics.median(a / b for a, b in zip(other.rounds_ms, entry.rounds_ms)):.2f}"


def draw(results: Results, path: Path) -> Path | None:
    """A row for each case: quality over time, and over bytes. Eager is left out of the picture where it would flatten it.
    Nothing is drawn, and None returned, where no runner has a quality."""
    cases = [c for c in results.cases if any(e.quality is not None for e in c.entries)]
    if not cases:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(cases), 2, figsize=(11, 4 * len(cases)), squeeze=False)
    for row, case in zip(axes, cases):
        title = f"{case.title}\n{(case.machine or results.machine)['cpu']}"
        unsteady = varied(case)
        few = f"; rounds of {len(unsteady)} of {len(case.entries)} differ by more than {TWO_SPEEDS:g} times"
        _panel(row[0], case, [(e, _ms(e)) for e in case.entries], "milliseconds, median of rounds")
        _panel(row[1], case, [(e, float(e.size_bytes)) for e in case.entries if e.size_bytes], "bytes of the artifact")
        for panel, more in zip(row, (few if unsteady else "", "")):
            panel.set_title(title + more, fontsize=9, pad=14)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _panel(axes: Any, case: CaseResult, points: Sequence[tuple[Entry, float]], label: str) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    shown = [(e, x) for e, x in points if e.quality is not None and x == x]
    if not shown:
        return
    for entry, x in shown:
        marker, colour = next(((m, c) for prefix, m, c in _LOOKS if entry.name.startswith(prefix)), _OTHERS)
        axes.plot([x], [entry.quality], marker, color=colour, markersize=12 if marker == "*" else 7)
        axes.annotate(entry.name.removeprefix("mcomp "), (x, entry.quality), fontsize=6, xytext=(4, 3),
                      textcoords="offset points", rotation=20, annotation_clip=True)
    dense = next((e.quality for e, _ in points if e.name == EAGER), None)
    if dense is not None:
        axes.axhline(dense, color="lightgray", linewidth=1)
    axes.set_xscale("log")
    least, most = min(x for _, x in shown), max(x for _, x in shown)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if most < _WIDE * least else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.10g}" if x < 1000 else EngFormatter(sep="")(x)))
    axes.margins(x=0.12, y=0.12)
    axes.xaxis.set_minor_formatter(NullFormatter())
    lowest = min((e.quality for e, _ in shown if e.quality is not None), default=0.0)
    if dense is not None and lowest < dense - _SHOWN:
        axes.set_ylim(dense - _SHOWN, max(e.quality for e, _ in shown if e.quality is not None) + 0.1 * _SHOWN)
    axes.set_xlabel(label)
    axes.set_ylabel(case.unit)

"""Tables of a result file: ``python -m benchmarks.table FILE.json [--against NAME]`` prints markdown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.results import CaseResult, Entry, Results
from benchmarks.timing import Spread, speedup

if TYPE_CHECKING:
    from rich.table import Table

TWO_SPEEDS = 1.2
"""A runner whose slowest round takes more than this times its fastest may have met two speeds of the machine."""
UNLIKE = 1.5
"""A chosen setting whose time when it was chosen and in the rounds differ by more than this may have been the wrong one."""
IDLE_WARNING = 0.2
"""A runner that kept more than this many cores busy between its turns may have disturbed the others."""


@dataclass(frozen=True)
class Sheet:
    """A titled table of text, the first column left-aligned, the others right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [
            f"**{self.title}**",
            "",
            "| " + " | ".join(self.columns) + " |",
            "|" + "|".join(["---", *["---:"] * (len(self.columns) - 1)]) + "|",
            *("| " + " | ".join(row) + " |" for row in self.rows),
        ]
        return "\n".join(lines)

    def rich(self) -> Table:
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table


def milliseconds(value: float) -> str:
    """Three significant digits."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.{3 if value >= 0.1 else 4}f}"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


def _quality(entry: Entry, reference: Entry | None) -> str:
    if entry.quality is None:
        return "-"
    if reference is None or reference is entry or reference.quality is None:
        return f"{entry.quality:.2f}"
    return f"{entry.quality:.2f} ({entry.quality - reference.quality:+.2f})"


def _row(entry: Entry, base: Entry | None, against: Entry | None) -> tuple[str, ...]:
    median = milliseconds(Spread.of(entry.rounds_ms).median) if entry.rounds_ms else "-"
    ratios = [
        _ratio(speedup(entry.rounds_ms, other.rounds_ms)) if other and other.rounds_ms and entry.rounds_ms else "-"
        for other in (base, against)
    ]
    error = "-" if entry.relative_error is None else f"{entry.relative_error:.1e}"
    size = "-" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:.2f}"
    return (entry.name, median, *ratios, _quality(entry, base), error, size, f"{entry.prepare_s:.1f}", entry.chosen)


def case_sheet(case: CaseResult, against: str | None = None) -> Sheet:
    """Every runner of one case beside eager, and beside the runner named `against` where one is named."""
    base = case.entry("eager")
    other = None if against is None else case.entry(against)
    quality = case.unit or "quality"
    columns = ["runner", "ms", "x eager", f"x {against}", quality, "relative error", "MB", "prepare s", "setting"]
    rows = [list(_row(entry, base, other)) for entry in case.entries]
    if against is None:
        columns.pop(3)
        for row in rows:
            row.pop(3)
    samples = f", {case.test_samples} test samples" if case.test_samples else ""
    return Sheet(f"{case.title}, batch {case.batch}{samples}", tuple(columns), tuple(tuple(row) for row in rows))


def overview(results: Results) -> Sheet:
    """Median milliseconds of every runner on every case, quality in brackets."""
    names: list[str] = []
    for case in results.cases:
        names += [entry.name for entry in case.entries if entry.name not in names]

    def cell(entry: Entry | None) -> str:
        if entry is None or not entry.rounds_ms:
            return "-"
        quality = "" if entry.quality is None else f" [{entry.quality:.2f}]"
        return milliseconds(Spread.of(entry.rounds_ms).median) + quality

    rows = tuple(
        (f"{case.title}, batch {case.batch}", *(cell(case.entry(name)) for name in names)) for case in results.cases
    )
    return Sheet("Median ms [quality]", ("model", *names), rows)


def varied(case: CaseResult) -> dict[str, float]:
    """The slowest round as a multiple of the fastest, of runners for which that is more than `TWO_SPEEDS`."""
    found = {entry.name: max(entry.rounds_ms) / min(entry.rounds_ms) for entry in case.entries if entry.rounds_ms}
    return {name: ratio for name, ratio in found.items() if ratio > TWO_SPEEDS}


def doubts(case: CaseResult) -> list[str]:
    """What makes times of a case doubtful."""
    lines: list[str] = []
    ratios = varied(case)
    if ratios:
        shown = ", ".join(f"{name} {ratio:.2g}" for name, ratio in ratios.items())
        beyond = f"rounds differ by more than {TWO_SPEEDS:g} times, as on a machine of two speeds"
        lines.append(f"{case.case}: {beyond}: {shown}.")
    for entry in case.entries:
        before = next((tried.get("milliseconds") for tried in entry.tried if tried["name"] == entry.chosen), None)
        if not entry.rounds_ms:
            continue
        median = Spread.of(entry.rounds_ms).median
        if before and max(before / median, median / before) > UNLIKE:
            lines.append(
                f"{case.case}: {entry.name} took {milliseconds(before)} ms when its setting was chosen, "
                f"{milliseconds(median)} ms in the rounds."
            )
    return lines


def origins(results: Results) -> list[str]:
    """What cases of other runs were made by, on what and when."""
    runs: dict[tuple[str, ...], list[CaseResult]] = {}
    for case in results.cases:
        if case.command or case.machine:
            made = machine.conditions(case.machine or results.machine)
            of = f"{case.rounds} rounds of {case.burst_s:g} s" if case.rounds else ""
            of += ", quick, not for quoting" if case.quick else ""
            runs.setdefault((case.command or results.command, made, of), []).append(case)
    return [
        f"{', '.join(dict.fromkeys(c.case for c in cases))}: "
        + "; ".join(part for part in (f"`{command}`", made, of, _versions(cases), *_when(cases)) if part)
        for (command, made, of), cases in runs.items()
    ]


def _versions(cases: Sequence[CaseResult]) -> str:
    versions = {name: version for case in cases for entry in case.entries for name, version in entry.versions.items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _when(cases: Sequence[CaseResult]) -> list[str]:
    """Dates and commits."""
    found = dict.fromkeys((case.date, case.commit) for case in cases if case.date)
    return [date if commit is None else f"{date}, commit {commit}" for date, commit in found]


def notes(results: Results) -> list[str]:
    """What a reader must know beside the tables: conditions, what was skipped or failed, what may have disturbed."""
    own = [case for case in results.cases if not case.command]
    lines = [
        f"`{results.command}`",
        f"{machine.conditions(results.machine)}, load {results.machine['load_average']:.1f} at the start; {_versions(own)}"
        + "".join(f"; {when}" for when in _when(own)),
        f"{results.rounds} interleaved rounds of {results.burst_s:g} s; ratios: median over rounds (least-greatest).",
        *origins(results),
    ]
    if results.quick:
        lines.append("Quick run: few rounds, one setting per runner, few test samples; not for quoting.")
    lines += [f"Skipped: {what}: {why}" for what, why in results.skipped.items()]
    for case in results.cases:
        lines += [f"Skipped on {case.case}: {what}: {why}" for what, why in case.skipped.items()]
        for entry in case.entries:
            lines += [
                f"Failed setting on {case.case}: {entry.name}, {tried['name']}: {tried['error']}"
                for tried in entry.tried
                if tried["error"]
            ]
            if entry.details.get("native_flops", 1.0) < 1.0 or entry.details.get("eager_modules", 0):
                shown = ", ".join(f"{name} {value:.4g}" for name, value in entry.details.items())
                lines.append(f"{case.case}: {entry.name} runs partly on torch: {shown}")
            if entry.idle_cores > IDLE_WARNING:
                lines.append(f"{case.case}: {entry.name} used {entry.idle_cores:.2f} cores between its turns.")
        lines += doubts(case)
        wanted = case.rounds or (0 if case.command else results.rounds)
        least = min((len(entry.rounds_ms) for entry in case.entries), default=wanted)
        if least < wanted:
            lines.append(f"{case.case}: {least} of {wanted} rounds were taken.")
    return lines


def markdown(results: Results, against: str | None = None) -> str:
    """All tables and notes."""
    parts = [case_sheet(case, against).markdown() for case in results.cases]
    if len(results.cases) > 1:
        parts.append(overview(results).markdown())
    parts.append("\n".join(f"- {line}" for line in notes(results)))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--against", metavar="NAME", help="also show speed relative to this runner")
    chosen = parser.parse_args(arguments)
    print(markdown(Results.read(chosen.file), chosen.against))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

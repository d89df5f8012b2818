"""The rows of the zoo's table, and the files they are kept in."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine

TOLERANCE = 1e-4
SHARE = 0.95
BATCHES = (2, 3, 1)
PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class Row:
    """What became of one model.

    `errors` are relative L2 errors of the results, and of the arguments that the model changes, at each batch size.
    `native_nodes` and `native_flops` are shares, 0 to 1. `round_trip`: printing and parsing gave the same text.
    `seconds`: capture and compilation; `total_seconds`: comparisons too. `run`: the place in the table's `earlier` of the
    run that the row is of; None: the last one.
    """

    name: str
    family: str
    seconds: float = 0.0
    nodes: int = 0
    eager_modules: int = 0
    opaque_nodes: int = 0
    native_nodes: float = 0.0
    native_flops: float = 0.0
    errors: tuple[float, ...] = ()
    round_trip: bool = False
    notes: tuple[str, ...] = ()
    failure: str = ""
    total_seconds: float = 0.0
    run: int | None = None

    @property
    def shortfalls(self) -> list[str]:
        """Which requirements the model misses, in words; empty when it meets them all."""
        short = [self.failure] if self.failure else []
        wrong = [f"{error:.1e}" for error in self.errors if not error <= TOLERANCE]
        short += [f"wrong results: error {', '.join(wrong)}"] if wrong else []
        short += [f"{self.eager_modules} eager modules"] if self.eager_modules else []
        if self.nodes:
            short += [f"{100 * self.native_nodes:.1f} % of nodes native"] if self.native_nodes < SHARE else []
            short += [f"{100 * self.native_flops:.1f} % of FLOPs native"] if self.native_flops < SHARE else []
            short += [] if self.round_trip else ["the text does not parse back to the same graph"]
        return short or ([] if self.errors else ["nothing was compared"])

    @property
    def good(self) -> bool:
        """Whether the model meets every requirement."""
        return not self.shortfalls

    def line(self) -> str:
        """The row as aligned text; a star marks one that falls short."""
        worst = f"{max(self.errors):9.1e}" if self.errors else f"{'-':>9}"
        return (
            f"{self.name:26} {self.family:16} {self.nodes:>6} {self.opaque_nodes:>6} {self.eager_modules:>5} "
            f"{100 * self.native_nodes:>8.1f} {100 * self.native_flops:>8.1f} {worst} {self.total_seconds:>6.1f}"
            f"{'' if self.good else '  * ' + '; '.join(self.shortfalls)[:200]}"
        )

    def explained(self) -> str:
        """The name, what falls short, and the notes of capture and backend."""
        return f"{self.name}: {'; '.join([*self.shortfalls, *self.notes])}"[:700]


def _conditions() -> dict[str, Any]:
    """Machine, versions and commit that rows are made with now."""
    made = machine.describe(1)
    made.pop("load_average")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"machine": made, "versions": versions, "commit": machine.revision()}


def _told(run: Mapping[str, Any]) -> str:
    """Command and conditions of a run in a sentence."""
    made = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    parts = [
        f"`{run['command']}`" if run["command"] else "",
        f"{made['cpu']} ({', '.join(made['isa'])}), Python {made['python']}, {versions}", str(made["compiler"]),
        ", ".join(word for word in (run.get("date"), run.get("commit") and f"commit {run['commit']}") if word),
    ]
    return "; ".join(part for part in parts if part) + "."


@dataclass
class Table:
    """Rows by model name, with the command and the target that they were made with; `earlier`: commands and conditions of
    runs that rows were taken over from."""

    command: str
    target: str
    rows: dict[str, Row] = field(default_factory=dict)
    earlier: list[dict[str, Any]] = field(default_factory=list)

    def resumed(self, path: Path) -> Table:
        """This table with the rows that were written to `path`, if there are any, and what these were made on. ValueError
        for another target."""
        file = path.with_suffix(".json")
        if not file.exists():
            return self
        data = json.loads(file.read_text(encoding="utf8"))
        if data["target"] != self.target:
            raise ValueError(f"{file} is about target {data['target']}, not {self.target}")
        rows = [Row(**{**row, "errors": tuple(row["errors"]), "notes": tuple(row["notes"])}) for row in data["rows"]]
        earlier, last = data.get("earlier", []), {name: data.get(name) for name in ("command", "date", *_conditions())}
        if any(last[name] != now for name, now in _conditions().items()):
            rows = [dataclasses.replace(row, run=len(earlier) if row.run is None else row.run) for row in rows]
            earlier = [*earlier, last]
        return Table(self.command, self.target, {row.name: row for row in rows}, earlier)

    def write(self, path: Path) -> None:
        """Write `path`.json and `path`.md."""
        path.parent.mkdir(parents=True, exist_ok=True)
        now = {"command": self.command, **_conditions(), "date": machine.today()}
        data: dict[str, Any] = {
            **now, "target": self.target, "good": sum(row.good for row in self.rows.values()), "earlier": self.earlier,
            "rows": [asdict(row) for row in self.rows.values()],
        }
        path.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf8")
        path.with_suffix(".md").write_text(self.markdown(now), encoding="utf8")

    def markdown(self, now: dict[str, Any]) -> str:
        """The table as a document. `now`: command and conditions of the last run."""
        rows = list(self.rows.values())
        short = [row for row in rows if not row.good]
        counts = [sum(row.run == place for row in rows) for place in range(len(self.earlier))]
        told = [f"Rows of an earlier run ({count}): {_told(run)}" for count, run in zip(counts, self.earlier) if count]
        lines = [
            f"# The zoo on target `{self.target}`", "",
            f"`{now['command']}`", "",
            _told({**now, "command": None}), "",
            *(line for text in told for line in (text, "")),
            f"**{len(rows) - len(short)} of {len(rows)} models meet every requirement**: error to eager at most "
            f"{TOLERANCE:g} at every batch size of one capture, no eager module, at least {100 * SHARE:g} % of nodes and "
            "of FLOPs in generated code, text that parses back to the same graph. In a model with eager modules, nodes and "
            "shares are those of what was compiled.", "",
            "| model | family | nodes | opaque | eager modules | native nodes | native FLOPs | largest error | seconds |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in rows:
            worst = f"{max(row.errors):.1e}" if row.errors else "-"
            lines.append(
                f"| {row.name}{'' if row.good else ' *'} | {row.family} | {row.nodes} | {row.opaque_nodes} | "
                f"{row.eager_modules} | {100 * row.native_nodes:.1f} % | {100 * row.native_flops:.1f} % | {worst} | "
                f"{row.total_seconds:.0f} |"
            )
        lines += ["", "## What falls short", ""] if short else []
        lines += [f"- {row.explained()}" for row in short]
        return "\n".join(lines) + "\n"

    @staticmethod
    def text(rows: Iterable[Row]) -> str:
        """Rows as aligned text, what falls short explained below."""
        rows = list(rows)
        head = f"{'model':26} {'family':16} {'nodes':>6} {'opaque':>6} {'eager':>5} {'nodes %':>8} {'FLOPs %':>8}"
        notes = [f"* {row.explained()}" for row in rows if not row.good]
        return "\n".join([f"{head} {'error':>9} {'s':>6}", *(row.line() for row in rows), "", *notes])

"""What a run of the benchmark leaves behind, as plain data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS

FORMAT = 1


@dataclass
class Entry:
    """One runner on one case.

    `rounds_ms` holds one median per round, `idle_cores` the most cores it kept busy between two turns.
    """

    peer: str
    variant: str
    chosen: str
    prepare_s: float
    size_bytes: int | None
    versions: dict[str, str]
    tried: list[dict[str, Any]]
    details: dict[str, Any] = field(default_factory=dict)
    quality: float | None = None
    selection_quality: float | None = None
    also: dict[str, float] = field(default_factory=dict)
    relative_error: float | None = None
    rounds_ms: list[float] = field(default_factory=list)
    calls: int = 0
    idle_cores: float = 0.0

    @property
    def name(self) -> str:
        if self.peer == "artifact":
            return f"mcomp {self.variant}"
        alone = self.peer in ("eager", "inductor")
        return self.peer if alone else f"{self.peer} {self.variant}"


@dataclass
class CaseResult:
    """All runners of one case, and those that could not take part, with the reason. `machine`, `command`, `rounds`,
    `burst_s` and `quick`: of this case, where they are not the file's. `commit`: what git calls the code, where it is in a
    repository. `date`: when, in UTC."""

    case: str
    title: str
    batch: int
    unit: str
    test_samples: int
    entries: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    rounds: int = 0
    burst_s: float = 0.0
    quick: bool = False
    commit: str | None = None
    date: str = ""

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)


@dataclass
class Results:
    """A whole run."""

    command: str
    machine: dict[str, Any]
    rounds: int
    burst_s: float
    quick: bool
    cases: list[CaseResult] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def put(self, *cases: CaseResult) -> None:
        """Take cases in, in the place of what there was of them."""
        names = {case.case for case in cases}
        self.cases = [*(other for other in self.cases if other.case not in names), *cases]

    def add_older(self, older: Results) -> None:
        """Take over the cases of another run that this one has not, and why it skipped others; they keep the machine and
        command that they are of."""
        known = {case.case for case in self.cases}
        missing = {what: why for what, why in older.skipped.items() if what in PEERS}
        for case in older.cases:
            if case.case not in known:
                self.cases.append(case if case.command else older._told(case, missing))
        for what, why in older.skipped.items():
            if what not in missing and what not in known:
                self.skipped.setdefault(what, why)
        self.cases.sort(key=lambda case: case.case)

    def _told(self, case: CaseResult, missing: dict[str, str]) -> CaseResult:
        """A case of this run with what the file says of all."""
        return dataclasses.replace(
            case, machine=self.machine, command=self.command, rounds=self.rounds, burst_s=self.burst_s, quick=self.quick,
            skipped={**missing, **case.skipped},
        )

    def joined(self, older: Results | None) -> Results:
        """A copy with the cases of another run that this one has not."""
        whole = dataclasses.replace(self, cases=[*self.cases], skipped={**self.skipped})
        if older is not None:
            whole.add_older(older)
        return whole

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(path.suffix + ".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf8")
        partial.replace(path)

    @staticmethod
    def read_if_there(path: Path | None) -> Results | None:
        """What is at a path; None where there is nothing. Raises ValueError for a file of another format."""
        return Results.read(path) if path is not None and path.exists() else None

    @staticmethod
    def read(path: Path) -> Results:
        """Raises ValueError for a file of another format."""
        fields = json.loads(path.read_text(encoding="utf8"))
        if fields.get("format") != FORMAT:
            raise ValueError(f"{path.name}: format {fields.get('format')!r}, this code reads {FORMAT}")
        cases = [
            CaseResult(**{**case, "entries": [Entry(**entry) for entry in case["entries"]]}) for case in fields["cases"]
        ]
        return Results(**{**fields, "cases": cases})

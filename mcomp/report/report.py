"""The report: what was done to each layer, why, and what it gave. Plain data that prints and converts to JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from mcomp.errors import McompError

_Row = TypeVar("_Row")


@dataclass
class Row:
    """One layer (a module path), or one kernel that serves several.

    Bytes are of weights; times in microseconds for one call at the example shapes; None where nothing was measured.
    """

    layer: str
    ops: str
    done: str
    why: str = ""
    weight_bytes_before: int = 0
    weight_bytes: int = 0
    flops_before: int = 0
    flops: int = 0
    predicted_us: float | None = None
    measured_us: float | None = None
    measured_before_us: float | None = None
    native: bool = True


@dataclass
class Eager:
    """A module that stayed eager, why, and what would change that."""

    path: str
    reason: str
    remedy: str = ""


@dataclass
class Stage:
    """One version of the model that was made: quality in the evaluate function's unit, milliseconds per call, bytes of
    weights; None where it was not measured. `verdict` says why it was kept or not."""

    name: str
    quality: float | None = None
    error: float | None = None
    latency_ms: float | None = None
    weight_bytes: int | None = None
    verdict: str = ""
    kept: bool = False


@dataclass(repr=False)
class Report:
    """What `optimize` did.

    `native_nodes` and `native_flops` are the shares, 0 to 1, that generated code computes. `opaque_nodes` counts nodes
    without an operator of ours, `torch_nodes` all nodes that torch runs. `within_budget` is None without a budget. `total`
    is of the whole model: work of modules that have no row counts, too. `faults` are tracebacks of what failed in mcomp
    itself and was left out.
    """

    target: str = ""
    objective: str = ""
    model: str = ""
    pipeline: str = ""
    rows: list[Row] = field(default_factory=list)
    total: Row | None = None
    eager_modules: list[Eager] = field(default_factory=list)
    opaque_nodes: dict[str, int] = field(default_factory=dict)
    torch_nodes: dict[str, int] = field(default_factory=dict)
    native_nodes: float = 1.0
    native_flops: float = 1.0
    stages: list[Stage] = field(default_factory=list)
    remarks: list[dict[str, str]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    budget: str = ""
    within_budget: bool | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def original(self) -> Stage:
        """The model as it was given. Raises McompError in a report that does not have it."""
        return self._first(self.stages, "the original")

    @property
    def kept(self) -> Stage:
        """The version that was kept. Raises McompError in a report that does not have it."""
        return self._first([s for s in self.stages if s.kept], "a version that was kept")

    def _first(self, stages: list[Stage], what: str) -> Stage:
        if not stages:
            raise McompError(
                f"the report does not tell of {what}; it has {len(self.stages)} versions",
                help="look at its `stages`; the report of a compiled model has all versions",
            )
        return stages[0]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Report:
        """Read what `to_json` wrote; fields that are unknown are left out."""
        known = {k: v for k, v in data.items() if k in Report.__dataclass_fields__}
        known["rows"] = [_fields(Row, r) for r in known.get("rows", [])]
        known["total"] = _fields(Row, known["total"]) if known.get("total") else None
        known["eager_modules"] = [_fields(Eager, e) for e in known.get("eager_modules", [])]
        known["stages"] = [_fields(Stage, s) for s in known.get("stages", [])]
        return Report(**known)

    def __repr__(self) -> str:
        target = f" for {self.target}" if self.target else ""
        kept = "".join(f", {s.name} kept" for s in self.stages if s.kept)
        return f"<Report of {self.model or 'a model'}{target}{kept}: print it, or see to_json()>"

    def __str__(self) -> str:
        from mcomp.report.render import report_text

        return report_text(self)

    def print(self) -> None:
        """Print with colour where the terminal has it."""
        from mcomp.report.render import print_report

        print_report(self)


def _fields(cls: type[_Row], data: dict[str, Any]) -> _Row:
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: v for k, v in data.items() if k in known})

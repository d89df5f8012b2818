"""Tables of the GPU benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NO_FIGURES = "No GPU figure exists yet: nothing was timed on a GPU."


@dataclass(frozen=True)
class Row:
    """One runner on one network and batch, or one product. `milliseconds`: the median. `ratio`: how many times faster than
    the fastest of the others, those that are not ours. `fraction`: of the measured peak or bandwidth that bounds it.
    `error`: relative L2 distance of a network's outputs to fp32 eager, of a product's to exact sums over its operands.
    `note`: why a figure is missing."""

    what: str
    batch: int
    runner: str
    milliseconds: float | None = None
    fraction: float | None = None
    error: float | None = None
    note: str = ""
    ratio: float | None = None


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | batch | runner | ms | times faster | of peak | error | note |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row.what, str(row.batch), row.runner, _number(row.milliseconds, ".4f"), _number(row.ratio, ".2f"),
                 _number(row.fraction, ".0%"), _number(row.error, ".1e"), row.note]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(path: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """The result file, and the table beside it."""
    path.write_text(json.dumps({**facts, "rows": [asdict(r) for r in rows]}, indent=1))
    title = ", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, str))
    path.with_suffix(".md").write_text(f"{title}\n\n{table(rows)}\n")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

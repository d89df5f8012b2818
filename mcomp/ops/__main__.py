"""`python -m mcomp.ops`: a table of every operator and what is there for it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from mcomp.backend import backends, lowered_ops
from mcomp.ops import Op, all_ops
from mcomp.ops.base import ANY_ATTRS, REQUIRED


def describe(op: Op) -> dict[str, Any]:
    """One operator: name, family (module), operands and attributes as text, effect, tolerance, whether a view, whether
    its cost is its own, summary, and the backends with a lowering."""
    operands = [o.name + ("?" if o.optional else "*" if o.variadic else "") for o in type(op).operands]
    attrs = ["*"] if op.attrs is ANY_ATTRS else [
        f"{a.name}: {a.kind}" + ("" if a.default is REQUIRED else f" = {_text(a.default)}") for a in op.attrs
    ]
    return {
        "op": op.name,
        "family": type(op).__module__.rsplit(".", 1)[-1],
        "operands": operands,
        "attrs": attrs,
        "effect": op.effect.value,
        "tolerance": op.tolerance.value,
        "view": op.view,
        "cost": "default" if type(op).cost is Op.cost else "own",
        "lowered": [name for name in sorted(backends()) if op.name in lowered_ops(name)],
        "summary": " ".join((type(op).__doc__ or "").split()),
    }


def _text(value: Any) -> str:
    from mcomp.ir.printer import attr_text

    return attr_text(value)


def table() -> list[dict[str, Any]]:
    """All operators, by family and name."""
    return sorted((describe(op) for op in all_ops().values()), key=lambda row: (row["family"], row["op"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; `--json` for programs."""
    parser = argparse.ArgumentParser(prog="python -m mcomp.ops", description="Every operator and what is there for it.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    rows = table()
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return 0
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{len(rows)} operators", row_styles=["", "dim"])
    columns = ("family", "op", "operands", "attrs", "effect", "tolerance", "view", "cost", "lowered")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(row[c]) for c in columns))
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(shown)
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return ", ".join(value) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())

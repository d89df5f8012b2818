"""`mcomp passes`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from typing import Any

from mcomp.commands.common import emit_json, print_table
from mcomp.manager.passes import Pass, PassEffect


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("name", nargs="?", help="explain this pass")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """List the passes with their effect and options, or print one pass's documentation and options."""
    from mcomp.manager.passes import pass_named, registered_passes

    if arguments.name:
        cls = pass_named(arguments.name)
        text, row = inspect.getdoc(cls) or "", _row(cls)
        if arguments.json:
            emit_json({**row, "documentation": text})
            return 0
        options = f"\n\nOptions and their defaults: {', '.join(row['options'])}" if row["options"] else ""
        print(f"{cls.name} ({_effect(cls)})\n\n{text}{options}")
        return 0
    rows = [_row(cls) for _, cls in sorted(registered_passes().items())]
    if arguments.json:
        emit_json(rows)
        return 0
    print_table("passes", [("pass", "l"), ("effect", "l"), ("what it does", "l"), ("options", "l")], [
        (str(r["name"]), str(r["effect"]), str(r["summary"]), ", ".join(r["options"])) for r in rows
    ])
    return 0


def _row(cls: type[Pass]) -> dict[str, Any]:
    """A pass as data."""
    from mcomp.manager.passes import named_option

    options = [
        f.name if f.default is dataclasses.MISSING else named_option(cls, f.name, f.default)
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
    ]
    summary = (inspect.getdoc(cls) or "").split("\n")[0]
    return {"name": cls.name, "effect": _effect(cls), "options": options, "summary": summary, "from": cls.__module__}


def _effect(cls: type[Pass]) -> str:
    """The effect class; of a pass whose options decide it, the one that it has without options."""
    effect = cls.effect
    return effect.value if isinstance(effect, PassEffect) else f"{cls().effect.value} by default"

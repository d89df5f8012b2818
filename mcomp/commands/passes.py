"""`mcomp passes`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect

from mcomp.commands.common import emit_json, print_table
from mcomp.manager.passes import Pass, PassEffect


def add(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("name", nargs="?", help="explain this pass")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """List the passes with their effect and options, or print one pass's documentation."""
    from mcomp.manager.passes import option_text, pass_named, registered_passes

    if arguments.name:
        cls = pass_named(arguments.name)
        print(f"{cls.name} ({_effect(cls)})\n\n{inspect.getdoc(cls) or ''}")
        return 0
    rows = []
    for name, cls in sorted(registered_passes().items()):
        options = [
            f.name + ("" if f.default is dataclasses.MISSING else f"={option_text(f.default)}")
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        ]
        summary = (inspect.getdoc(cls) or "").split("\n")[0]
        rows.append({"name": name, "effect": _effect(cls), "options": options, "summary": summary, "from": cls.__module__})
    if arguments.json:
        emit_json(rows)
        return 0
    print_table("passes", [("pass", "l"), ("effect", "l"), ("what it does", "l"), ("options", "l")], [
        (str(r["name"]), str(r["effect"]), str(r["summary"]), ", ".join(r["options"])) for r in rows
    ])
    return 0


def _effect(cls: type[Pass]) -> str:
    """The effect class; of a pass whose options decide it, the one that it has without options."""
    effect = cls.effect
    return effect.value if isinstance(effect, PassEffect) else f"{cls().effect.value} by default"

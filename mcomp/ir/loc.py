"""Where a node comes from: module path, source line, and the rewrites it went through."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loc:
    """A place in user code, or a rule applied to such places.

    A leaf has `path` (the module path, `encoder.layer.0.fc1`; empty for the root), `file` and `line`. A fused location
    has `rule` (the pass or rewrite that made the node) and `parts` (the locations it replaced).
    """

    path: str = ""
    file: str = ""
    line: int = 0
    rule: str = ""
    parts: tuple[Loc, ...] = ()

    @property
    def leaves(self) -> tuple[Loc, ...]:
        """The places in user code, without repetition, in order."""
        if not self.rule:
            return (self,) if self else ()
        found: dict[Loc, None] = {}
        for part in self.parts:
            found.update(dict.fromkeys(part.leaves))
        return tuple(found)

    @property
    def paths(self) -> tuple[str, ...]:
        """The module paths, without repetition."""
        return tuple(dict.fromkeys(leaf.path for leaf in self.leaves))

    @property
    def layer(self) -> str:
        """One module path to name the node by: the first of `paths`; empty when unknown."""
        return next((p for p in self.paths if p), "")

    def __bool__(self) -> bool:
        return bool(self.path or self.file or self.rule)

    def __str__(self) -> str:
        if self.rule:
            return f"{_quoted(self.rule)}[{', '.join(map(str, self.parts))}]"
        source = f"{json.dumps(self.file)}:{self.line}" if self.file else ""
        return " ".join(p for p in (_path_text(self.path), source) if p)


_PLAIN = re.compile(r"[A-Za-z0-9_.]+\Z")


def _path_text(path: str) -> str:
    if not path:
        return ""
    return path if _PLAIN.match(path) else json.dumps(path) + "@"


def _quoted(rule: str) -> str:
    return rule if _PLAIN.match(rule) else json.dumps(rule)


UNKNOWN = Loc()


def fused(rule: str, *locs: Loc) -> Loc:
    """The location of a node that `rule` made out of nodes at `locs`. Repetitions and unknown places are dropped."""
    parts: dict[Loc, None] = {}
    for loc in locs:
        if loc.rule == rule:
            parts.update(dict.fromkeys(loc.parts))
        elif loc:
            parts[loc] = None
    return Loc(rule=rule, parts=tuple(parts))

"""The IR as numbered files, before and after passes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from mcomp.ir.graph import Graph
from mcomp.ir.printer import graph_text
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass, PassResult


class Dump(Instrument):
    """Writes `000-start.mir`, `001-after-fold.mir` ... to a folder.

    when: `before` and `after` write around every pass, `change` after passes that changed the graph. `only`: names of
    the passes concerned (default: all). Every file starts with the pipeline step and the rewrites it made, as comments.
    """

    def __init__(
        self, folder: str | Path, when: Literal["before", "after", "change"] = "change", only: tuple[str, ...] = ()
    ) -> None:
        self.folder = Path(folder)
        self.when = when
        self.only = only
        self.written: list[Path] = []
        self._rewrites = 0

    def start(self, graph: Graph, context: Context) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("000-start", graph, "before the first pass", 0)

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        self._rewrites = len(graph.journal)
        if self.when == "before" and self._concerns(item):
            self._write(f"{index:03}-before-{item.name}", graph, f"before pass {index}: {item}", self._rewrites)

    def after(self, item: Pass, index: int, graph: Graph, result: PassResult, context: Context) -> None:
        if not self._concerns(item) or self.when == "before" or (self.when == "change" and not result.changed):
            return
        self._write(f"{index:03}-after-{item.name}", graph, f"after pass {index}: {item}", self._rewrites)

    def _concerns(self, item: Pass) -> bool:
        return not self.only or item.name in self.only

    def _write(self, stem: str, graph: Graph, title: str, since: int) -> None:
        path = self.folder / (re.sub(r"[^A-Za-z0-9_.\-]", "_", stem) + ".mir")
        lines = [f"// {title}", *(f"// {rewrite}" for rewrite in graph.journal[since:])]
        path.write_text("\n".join(lines) + "\n" + graph_text(graph) + "\n")
        self.written.append(path)

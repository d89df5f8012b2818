"""What a search did, kept in a folder, so that the same call goes on where it was killed.

    memory = Memory.open(Path("search"), identity)
    score = memory.recall("score", pipeline)          # None where it is not known
    memory.keep("score", pipeline, {"value": 0.93})
    memory.keep_version(pipeline, graphs, contexts); memory.version(pipeline, contexts)

`search.json` holds plain data; each version's graphs are IR text with their weights beside it. Files are written whole or
not at all. What another call left there (of another model, data or options) is not used and stays: the search is then kept
in a folder below, named after what identifies it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mcomp.errors import McompError
from mcomp.files import replacing, write_whole
from mcomp.ir.graph import Graph, LedgerEntry
from mcomp.ir.store import WeightStore
from mcomp.manager.context import Context, Remark
from mcomp.plan.quality import Evaluator, Score

FORMAT = 1
_NAME = 16
"""Letters of the identity that a search's own folder is named by."""


@dataclass
class Memory:
    """Plain data by kind and key, and graphs by pipeline; without a folder it lasts as long as the search."""

    folder: Path | None = None
    identity: str = ""
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    found: bool = False
    """Whether there was something of this search."""

    @classmethod
    def open(cls, folder: Path | None, identity: str) -> Memory:
        """What is in a folder, or, where it holds another search, in one of this search's own below; empty, with a warning,
        where there is none of this search yet, or it is damaged."""
        memory = cls(folder, identity)
        if folder is None:
            return memory
        try:
            data = json.loads((folder / "search.json").read_text(encoding="utf-8"))
            if data["format"] == FORMAT and data["identity"] == identity:
                memory.records, memory.found = {str(k): dict(v) for k, v in data["records"].items()}, True
            elif folder.name != identity[:_NAME]:
                own = folder / identity[:_NAME]
                if not own.exists():
                    warnings.warn(f"{folder} holds another search (of another model, data, options or mcomp); this one is "
                                  f"kept in {own}", stacklevel=2)
                return cls.open(own, identity)
        except FileNotFoundError:
            memory._write()  # the folder is this search's from now on
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            warnings.warn(f"{folder} cannot be used ({e}); starting anew", stacklevel=2)
        return memory

    def recall(self, kind: str, key: str) -> Any:
        """What was kept; None where nothing was."""
        return self.records.get(kind, {}).get(key)

    def keep(self, kind: str, key: str, value: Any) -> None:
        """Keep plain data, at once. A folder that cannot be written is a warning: the search goes on."""
        self.records.setdefault(kind, {})[key] = value
        self._write()

    def _write(self) -> None:
        if self.folder is None:
            return
        data = {"format": FORMAT, "identity": self.identity, "records": self.records}
        try:
            write_whole(self.folder / "search.json", json.dumps(data))
        except OSError as e:
            warnings.warn(f"the search cannot be kept in {self.folder} ({e})", stacklevel=2)

    # versions

    def keep_version(self, pipeline: str, graphs: Mapping[str, Graph], contexts: Mapping[str, Context]) -> None:
        """Keep what a pipeline made, by module path: graphs with their weights, ledgers, remarks."""
        if self.folder is None:
            return
        from safetensors import SafetensorError

        from mcomp.ir.printer import graph_text
        from mcomp.manager.instruments.reproducer import write_weights

        stem = self.folder / stem_of(pipeline)
        data = {
            "graphs": {path: graph_text(graph, digests=32) for path, graph in graphs.items()},
            "ledgers": {path: [asdict(e) for e in graph.ledger] for path, graph in graphs.items()},
            "remarks": {path: [asdict(r) for r in context.remarks] for path, context in contexts.items()},
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(stem.with_suffix(".safetensors")) as temporary:
                write_weights(temporary, *graphs.values())
            write_whole(stem.with_suffix(".json"), json.dumps(data))
        except (OSError, SafetensorError) as e:
            warnings.warn(f"the search cannot be kept in {self.folder} ({e})", stacklevel=2)

    def version(self, pipeline: str, contexts: Mapping[str, Context]) -> dict[str, Graph] | None:
        """The graphs that a pipeline made, their remarks added to contexts; None where it is not known, or damaged."""
        if self.folder is None or not self.found:
            return None
        from mcomp.ir.parser import parse_graph
        from mcomp.ir.verifier import verify
        from mcomp.manager.instruments.reproducer import read_weights

        stem = self.folder / stem_of(pipeline)
        try:
            data = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
            store = WeightStore()
            read_weights(stem.with_suffix(".safetensors"), store)
            found = {path: parse_graph(text, store) for path, text in data["graphs"].items()}
            remarks = {path: [Remark(**r) for r in data["remarks"][path]] for path in contexts}
            for path, graph in found.items():
                verify(graph)
                graph.ledger = [LedgerEntry(**entry) for entry in data["ledgers"][path]]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, McompError) as e:
            warnings.warn(f"{stem}.json cannot be used ({e}); making it again", stacklevel=2)
            return None
        for path, some in remarks.items():
            contexts[path].remarks += some
        return found

    # scores

    def keep_score(self, key: str, score: Score, evaluator: Evaluator) -> None:
        """Keep the result of the evaluator's last call."""
        samples = None if score.samples is None else score.samples.tolist()
        self.keep("scores", key, {"value": score.value, "samples": samples, "call": evaluator.calls[-1]})

    def score(self, key: str, evaluator: Evaluator) -> Score | None:
        """A result that was kept; its call is added to the evaluator's record."""
        found = self.recall("scores", key)
        if found is None:
            return None
        evaluator.calls.append(found["call"])
        return Score(found["value"], None if found["samples"] is None else np.array(found["samples"]))


def stem_of(pipeline: str) -> str:
    """What the files of a pipeline's version are called."""
    return "version-" + hashlib.sha256(pipeline.encode()).hexdigest()[:16]

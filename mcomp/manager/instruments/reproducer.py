"""On a crash: the IR, the pass that failed, and the weights, in a folder that `mcomp opt` can run."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable
from pathlib import Path

from mcomp.errors import ArtifactError, McompError
from mcomp.files import replacing
from mcomp.ir.graph import Graph
from mcomp.ir.printer import graph_text
from mcomp.ir.store import Weight, WeightStore
from mcomp.manager.context import Context
from mcomp.manager.instrument import Instrument
from mcomp.manager.passes import Pass
from mcomp.runtime.artifact import used_weights


class Reproducer(Instrument):
    """Writes `graph.mir` and `weights.safetensors` (of before the pass that failed), `pipeline.txt`, `error.txt` and
    `manifest.json` to a folder when a pass raises; `written` is then true. With `weights=False` only the manifest names
    them."""

    def __init__(self, folder: str | Path, *, weights: bool = True) -> None:
        self.folder = Path(folder)
        self.weights = weights
        self.written = False
        self._before = ""
        self._digests: list[str] = []

    def before(self, item: Pass, index: int, graph: Graph, context: Context) -> None:
        self._before, self._digests = graph_text(graph, digests=32), used_weights(graph)

    def failed(self, item: Pass, index: int, graph: Graph, error: BaseException, context: Context) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "graph.mir").write_text(self._before + "\n")
        (self.folder / "pipeline.txt").write_text(item.text() + "\n")
        (self.folder / "error.txt").write_text("".join(traceback.format_exception(error)))
        weights = [graph.store.get(d) for d in self._digests if d in graph.store]
        manifest = {
            "pass": item.text(), "index": index, "error": f"{type(error).__name__}: {error}",
            "weights": {w.digest: str(w.type) for w in weights},
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        if self.weights:
            _write(self.folder / "weights.safetensors", weights)
        self.written = True


def write_weights(path: Path, *graphs: Graph) -> None:
    """The weights of graphs as a safetensors file with tensors `<digest>/<part>` and types in the metadata. Raises
    SafetensorError and OSError."""
    _write(path, [g.store.get(d) for g in graphs for d in used_weights(g)])


def _write(path: Path, weights: Iterable[Weight]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    types: dict[str, str] = {}
    for weight in weights:
        types[weight.digest] = str(weight.type)
        tensors |= {f"{weight.digest}/{name}": np.ascontiguousarray(array) for name, array in weight.parts.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"types": json.dumps(types)})


def holds_weights(path: Path) -> bool:
    """Whether a file is one that `write_weights` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as opened:
            return "types" in (opened.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_weights(path: Path, store: WeightStore) -> None:
    """Add the weights of a file that `write_weights` wrote to a store. Raises ArtifactError for any other file."""
    from safetensors import SafetensorError, safe_open

    from mcomp.ir.parser import parse_type
    from mcomp.ir.types import TensorType

    try:
        with safe_open(path, framework="np") as opened:
            for digest, text in json.loads(opened.metadata()["types"]).items():
                type = parse_type(text)
                if not isinstance(type, TensorType):
                    raise ValueError(f"{text} is no tensor's type")
                store.add(type, {n: opened.get_tensor(f"{digest}/{n}") for n in type.encoding.buffers(type)})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, McompError) as e:
        raise ArtifactError(
            f"{path} cannot be read as weights: {e}", code="MC0704",
            help="a reproducer or CompiledModel.dump writes such a file",
        ) from e

"""The `.mcomp` file: one safetensors container with the IR as text, the weights, the plan, source and compiled code.

Loading one runs no code from it, unless the caller trusts its compiled code. Needs numpy and safetensors, no torch.

Contents: tensors `weights/<digest>/<part>`; byte tensors `ir`, `source`, `report`, `code/<isa>` and, optional, `plan`; the
header's metadata hold `format`, `version`, `packed` (see the container) and, under `mcomp`, JSON with the calling convention
and a SHA-256 of every byte tensor. `plan` is JSON: the graph's face, what it asks of sizes, the recipe that runs the
code without the graph, and the hash of the IR that they are of. It is used where the code is, with `trust_code=True`, and
nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcomp.capture import mutation, structure
from mcomp.capture.signature import Signature
from mcomp.errors import ArtifactError, McompError
from mcomp.ir.encoding import Encoding
from mcomp.ir.graph import Graph
from mcomp.ir.store import Weight, WeightStore, check_parts, digest_of
from mcomp.ir.terms import parse_type
from mcomp.ir.types import TensorType
from mcomp.runtime.container import Beside, Container, pack_integers, write

if TYPE_CHECKING:
    from mcomp.report.report import Report
    from mcomp.runtime.compiled import CompiledModel

FORMAT = "mcomp"
VERSION = 2
"""2: integers of less than 8 bits may be packed. Files without them are written as 1, which older versions read."""
MAX_TEXT = 256 << 20


def save(model: CompiledModel, path: str | os.PathLike[str], *, code: bool = True) -> Path:
    """Write a compiled model to `path`, whole or not at all. `code`: include compiled code.

    Raises ArtifactError when the model holds eager parts, when its graph would not read back, or when the file cannot be
    written (a file that was there stays as it was).
    """
    place = Path(path)
    program = model.only_program("saved")
    if not place.parent.is_dir():
        raise ArtifactError(f"{place} could not be written: there is no folder {place.parent}", code="MC0702",
                            help="make the folder first, or choose another place")
    graph = program.graph
    tensors: dict[str, np.ndarray] = {}
    types: dict[str, str] = {}
    packed: dict[str, tuple[tuple[int, ...], int, bool]] = {}
    for digest in used_weights(graph):
        weight = graph.store.get(digest)
        types[digest] = str(weight.type)
        buffers = weight.type.encoding.buffers(weight.type)
        for part, array in weight.parts.items():
            name = f"weights/{digest}/{part}"
            bits = buffers[part].dtype.bits
            dense = pack_integers(array, bits) if bits < 8 else None
            tensors[name] = array if dense is None else dense
            if dense is not None:
                packed[name] = array.shape, bits, array.dtype == np.int8
    blobs: dict[str, bytes] = {
        "ir": _text_of(graph).encode(),
        "source": program.executable.source().encode(),
        "report": json.dumps(model.report().to_json()).encode(),
    }
    if code and (recipe := program.executable.recipe()):
        plan = {
            "face": program.face.to_json(), "sizes": program.checks.to_json(), "recipe": recipe,
            "ir": hashlib.sha256(blobs["ir"]).hexdigest(),
        }
        blobs["plan"] = json.dumps(plan).encode()
    if code:
        blobs |= {f"code/{isa}": data for isa, data in program.executable.binaries().items()}
    header = {
        "target": model.target,
        "signature": program.signature.to_json(),
        "arguments": structure.to_json(program.arguments),
        "results": structure.to_json(program.results),
        "rebinds": mutation.to_json(program.rebinds),
        "weights": types,
        "blobs": {name: hashlib.sha256(data).hexdigest() for name, data in blobs.items()},
    }
    tensors |= {name: np.frombuffer(data, np.uint8) for name, data in blobs.items() if data}
    metadata = {"format": FORMAT, "version": str(VERSION if packed else 1), "mcomp": json.dumps(header)}
    if packed:
        metadata["packed"] = json.dumps(packed)
    return write(place, tensors, metadata)


def _text_of(graph: Graph) -> str:
    """The graph as text that reads back; a file that cannot be loaded would be found out too late."""
    from mcomp.ir.parser import parse_graph
    from mcomp.ir.printer import graph_text

    text = graph_text(graph, digests=32)
    try:
        parse_graph(text, graph.store)
    except McompError as e:
        raise ArtifactError(
            f"the graph would not read back: {e.message}", code="MC0710", ir=e.ir,
            help="rename what the text stumbles over, such as a size or a module",
        ) from e
    return text


def used_weights(graph: Graph) -> list[str]:
    """Digests of the weights that a graph and its nested graphs use, in order of first use."""
    found: dict[str, None] = {}
    for node in graph.walk():
        if node.op.name == "const":
            found[node.attrs["digest"]] = None
    found.update(dict.fromkeys(s.initial for s in graph.input_specs if s.initial))
    return list(found)


class ArtifactReader:
    """An opened `.mcomp` file. Every text and every compiled code is checked against its hash when it is read."""

    def __init__(
        self, path: str | os.PathLike[str], *, opened: Container | None = None, check: Beside | None = None
    ) -> None:
        self.path = Path(path)
        self._container = opened if opened is not None else Container(self.path)
        self._check = check
        self._offsets, metadata = self._container.places, self._container.metadata
        if metadata.get("format") != FORMAT:
            raise ArtifactError(f"{self.path} is no mcomp file", code="MC0701",
                                help="give a file that save(path) of a compiled model wrote")
        version = metadata.get("version", "")
        if not (version.isascii() and version.isdigit() and len(version) < 10):
            raise ArtifactError(f"{self.path} has no version", code="MC0701", help="get the file again, or save it anew")
        if int(version) > VERSION:
            raise ArtifactError(
                f"{self.path} has format version {version}; this mcomp reads up to {VERSION}", code="MC0703",
                help="upgrade mcomp",
            )
        try:
            self.header: dict[str, Any] = json.loads(metadata["mcomp"])
            self.weights: dict[str, str] = {str(k): str(v) for k, v in self.header["weights"].items()}
            self._hashes: dict[str, str] = {str(k): str(v) for k, v in self.header["blobs"].items()}
        except (KeyError, ValueError, AttributeError, TypeError, RecursionError) as e:
            raise self.damaged(f"its header cannot be read ({e})") from e

    @property
    def target(self) -> str:
        """What the model was compiled for."""
        return str(self.header.get("target", "cpu"))

    def damaged(self, why: str) -> ArtifactError:
        """The error for a file that is not what was written."""
        return self._container.damaged(why)

    def blob(self, name: str) -> bytes:
        """A text or compiled code by name; empty when the file has none. Raises ArtifactError when it was altered."""
        if name not in self._hashes:
            return b""
        data = self._container.array(name).tobytes() if name in self._offsets else b""
        if hashlib.sha256(data).hexdigest() != self._hashes[name]:
            raise self.damaged(f"{name} does not have the hash it was written with")
        return data

    def code_names(self) -> list[str]:
        """Instruction sets for which the file holds compiled code."""
        return [n.removeprefix("code/") for n in self._hashes if n.startswith("code/")]

    def plan(self) -> dict[str, Any] | None:
        """The plan that goes with compiled code, for those who trust it; None where the file has none for its IR."""
        text = self.blob("plan")
        if not text:
            return None
        try:
            plan: dict[str, Any] = json.loads(text)
            return plan if plan["ir"] == self._hashes["ir"] else None
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise self.damaged(f"its plan cannot be read ({e})") from e

    def report(self) -> Report:
        """What was done to each layer. Raises ArtifactError."""
        from mcomp.report.report import Report

        try:
            return Report.from_json(json.loads(self.blob("report") or b"{}"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise self.damaged(f"its report cannot be read ({e})") from e

    def store(self) -> WeightStore:
        """The weights. Arrays are mapped from the file, and their digest is checked when they are first used."""
        store = WeightStore()
        for digest, text in self.weights.items():
            type = self._weight_type(text)
            store.add_lazy(type, digest, _LazyParts(self, digest, type))
        return store

    def weight(self, digest: str) -> Weight:
        """One weight, as in the store. Raises KeyError when the file has none with this digest."""
        type = self._weight_type(self.weights[digest])
        return Weight(type, digest, _LazyParts(self, digest, type))

    def array(self, digest: str, part: str) -> np.ndarray:
        """One array of a weight, mapped from the file. `finish_check` says whether it is what was written. Raises KeyError
        when there is none."""
        return self._container.array(f"weights/{digest}/{part}")

    def finish_check(self) -> None:
        """Raise ArtifactError unless every weight has the content it was written with. Waits for the check that was begun
        with the file, or makes it."""
        if self._check is None:
            self._container.check_weights(self.weights)
        else:
            self._check.join()

    def forget_pages(self) -> None:
        """Let the system take back memory that holds parts of the file; it is read again when needed."""
        self._container.forget_pages()

    def _weight_type(self, text: str) -> TensorType:
        try:
            type = parse_type(text)
        except McompError as e:
            raise self.damaged(f"{text!r} is no weight's type") from e
        if not isinstance(type, TensorType) or not type.is_static:
            raise self.damaged(f"{text!r} is no weight's type")
        return type

    def parts(self, digest: str, type: TensorType) -> dict[str, np.ndarray]:
        """The arrays of one weight, checked."""
        encoding: Encoding = type.encoding
        names = encoding.buffers(type)
        missing = [n for n in names if f"weights/{digest}/{n}" not in self._offsets]
        if missing:
            raise self.damaged(f"weight {digest[:8]} lacks its {missing[0]}")
        parts = {n: self._container.array(f"weights/{digest}/{n}") for n in names}
        try:
            check_parts(type, parts)
        except ValueError as e:
            raise self.damaged(f"weight {digest[:8]}: {e}") from e
        check_indices(encoding, type, parts, self)
        if digest_of(type, parts) != digest:
            raise self.damaged(f"weight {digest[:8]} does not have the content it was written with")
        return parts

    def graph(self) -> Graph:
        """The graph, parsed and verified."""
        from mcomp.ir.parser import parse_graph
        from mcomp.ir.verifier import verify

        text = self.blob("ir")
        if len(text) > MAX_TEXT:
            raise self.damaged("its IR is larger than 256 MiB")
        try:
            graph = parse_graph(text.decode(), self.store())
            verify(graph)
        except ArtifactError:
            raise
        except (McompError, UnicodeDecodeError, RecursionError) as e:
            raise self.damaged(f"its IR does not hold together: {e}") from e
        return graph

    def convention(self) -> tuple[Signature, structure.Spec, structure.Spec, tuple[structure.Rebind, ...]]:
        """How the model is called."""
        try:
            return (
                Signature.from_json(self.header["signature"]), structure.from_json(self.header["arguments"]),
                structure.from_json(self.header["results"]), mutation.from_json(self.header["rebinds"]),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as e:
            raise self.damaged(f"its calling convention cannot be read ({e})") from e


class _LazyParts:
    def __init__(self, reader: ArtifactReader, digest: str, type: TensorType) -> None:
        self.reader, self.digest, self.type = reader, digest, type
        self.cached: dict[str, np.ndarray] | None = None

    def __call__(self) -> Mapping[str, np.ndarray]:
        if self.cached is None:
            self.cached = self.reader.parts(self.digest, self.type)
        return self.cached


def check_indices(encoding: Encoding, type: TensorType, parts: Mapping[str, np.ndarray], reader: ArtifactReader) -> None:
    """Raise ArtifactError when index arrays of a sparse encoding point outside of the tensor."""
    from mcomp.ir.encoding import NM, BlockSparse

    if isinstance(encoding, NM) and parts["indices"].size and int(parts["indices"].max()) >= encoding.m:
        raise reader.damaged("an index of an n:m weight is out of range")
    if isinstance(encoding, BlockSparse):
        columns, rows = parts["columns"], parts["rows"]
        limit = type.static_shape[1] // encoding.block[1]
        inside = columns.size == 0 or (int(columns.min()) >= 0 and int(columns.max()) < limit)
        ordered = rows[0] == 0 and rows[-1] == encoding.count and bool(np.all(np.diff(rows) >= 0))
        if not inside or not ordered:
            raise reader.damaged("an index of a block-sparse weight is out of range")

"""The runtimes that are compared, each behind the same interface; mcomp is one of them."""

from __future__ import annotations

import importlib
from types import ModuleType

PEERS: dict[str, str] = {
    "eager": "benchmarks.peers.eager",
    "inductor": "benchmarks.peers.inductor",
    "onnxruntime": "benchmarks.peers.onnx_runtime",
    "openvino": "benchmarks.peers.open_vino",
    "mcomp": "benchmarks.peers.ours",
    "artifact": "benchmarks.peers.artifact",
}
OTHERS = tuple(name for name in PEERS if name not in ("mcomp", "artifact"))
"""Those that are not mcomp."""


def module(name: str) -> ModuleType:
    """The module of a peer.

    It has ``VARIANTS``, ``missing() -> str | None``, ``versions() -> dict[str, str]`` and
    ``candidates(variant, setup) -> list[Candidate]``. Importing it imports no runtime. Raises KeyError for an unknown
    name.
    """
    return importlib.import_module(PEERS[name])

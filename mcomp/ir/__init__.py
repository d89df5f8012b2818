"""The typed graph IR. Names are imported when they are first asked for: loading a compiled model needs few of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.ir.dims import Bounds, Dim, sym
    from mcomp.ir.dtypes import DType
    from mcomp.ir.edit import Editor
    from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Dense, Encoding, Scaled
    from mcomp.ir.graph import Graph, InputSpec, LedgerEntry, Node, OutputSpec, Value
    from mcomp.ir.loc import Loc, fused
    from mcomp.ir.parser import parse_graph
    from mcomp.ir.printer import graph_text
    from mcomp.ir.store import Weight, WeightStore
    from mcomp.ir.types import Layout, ScalarType, TensorType, Type
    from mcomp.ir.verifier import verify

_HOME = {
    "dims": ("Bounds", "Dim", "sym"), "dtypes": ("DType",), "edit": ("Editor",),
    "encoding": ("DENSE", "NM", "Affine", "BlockSparse", "Dense", "Encoding", "Scaled"),
    "graph": ("Graph", "InputSpec", "LedgerEntry", "Node", "OutputSpec", "Value"), "loc": ("Loc", "fused"),
    "parser": ("parse_graph",), "printer": ("graph_text",), "store": ("Weight", "WeightStore"),
    "types": ("Layout", "ScalarType", "TensorType", "Type"), "verifier": ("verify",),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DENSE", "NM", "Affine", "BlockSparse", "Bounds", "DType", "Dense", "Dim", "Editor", "Encoding", "Graph",
    "InputSpec", "Layout", "LedgerEntry", "Loc", "Node", "OutputSpec", "ScalarType", "Scaled", "TensorType", "Type", "Value",
    "Weight", "WeightStore", "fused", "graph_text", "parse_graph", "sym", "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module mcomp.ir has no attribute {name}")
    found = getattr(import_module(f"mcomp.ir.{_MODULES[name]}"), name)
    globals()[name] = found
    return found

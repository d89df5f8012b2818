"""The typed graph IR."""

from mcomp.ir.dims import Bounds, Dim, sym
from mcomp.ir.dtypes import DType
from mcomp.ir.edit import Editor
from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Dense, Encoding
from mcomp.ir.graph import Graph, InputSpec, LedgerEntry, Node, OutputSpec, Value
from mcomp.ir.loc import Loc, fused
from mcomp.ir.parser import parse_graph
from mcomp.ir.printer import graph_text
from mcomp.ir.store import Weight, WeightStore
from mcomp.ir.types import Layout, ScalarType, TensorType, Type
from mcomp.ir.verify import verify

__all__ = [
    "DENSE", "NM", "Affine", "BlockSparse", "Bounds", "DType", "Dense", "Dim", "Editor", "Encoding", "Graph",
    "InputSpec", "Layout", "LedgerEntry", "Loc", "Node", "OutputSpec", "ScalarType", "TensorType", "Type", "Value",
    "Weight", "WeightStore", "fused", "graph_text", "parse_graph", "sym", "verify",
]

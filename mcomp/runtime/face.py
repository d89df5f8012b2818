"""What callers see of a graph: its inputs, outputs and sizes. Kept in an artifact beside the graph, so that a model whose
code is trusted runs before its graph is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcomp.errors import IRError
from mcomp.ir.dims import Bounds
from mcomp.ir.graph import Graph, InputSpec, OutputSpec
from mcomp.ir.terms import parse_type
from mcomp.ir.types import TensorType, Type


@dataclass(frozen=True, slots=True)
class FaceInput:
    """An input: its name and type."""

    name: str
    type: Type

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor's. Raises IRError for scalars."""
        if not isinstance(self.type, TensorType):
            raise IRError(f"%{self.name} is a {self.type}, not a tensor")
        return self.type

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True)
class Face:
    """Inputs and outputs of a graph, and the bounds of its symbols."""

    inputs: tuple[FaceInput, ...]
    input_specs: tuple[InputSpec, ...]
    output_specs: tuple[OutputSpec, ...]
    symbols: dict[str, Bounds]

    @staticmethod
    def of(graph: Graph) -> Face:
        """The face of a graph."""
        inputs = tuple(FaceInput(v.name, v.type) for v in graph.inputs)
        return Face(inputs, tuple(graph.input_specs), tuple(graph.output_specs), dict(graph.symbols))

    def to_json(self) -> Any:
        """Plain data."""
        return {
            "inputs": [[v.name, str(v.type), s.kind, s.target, s.initial] for v, s in zip(self.inputs, self.input_specs)],
            "outputs": [[s.kind, s.target] for s in self.output_specs],
            "symbols": {name: [b.low, b.high] for name, b in self.symbols.items()},
        }

    @staticmethod
    def from_json(data: Any) -> Face:
        """Read what `to_json` gave. Raises KeyError, TypeError, ValueError or ParseError for other data."""
        return Face(
            tuple(FaceInput(str(name), parse_type(type)) for name, type, *_ in data["inputs"]),
            tuple(InputSpec(kind, target, initial) for _, _, kind, target, initial in data["inputs"]),
            tuple(OutputSpec(kind, target) for kind, target in data["outputs"]),
            {str(name): Bounds(low, high) for name, (low, high) in data["symbols"].items()},
        )

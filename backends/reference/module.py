"""A graph as an nn.Module that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mcomp.ir.graph import Graph, Node
from mcomp.ir.types import TensorType
from mcomp.ops.encoded import array_of, decoded
from mcomp.ops.evaluate import Observe, bind_inputs, constant, run_graph


class ReferenceModule(nn.Module):
    """Interprets a graph; its dense floating-point constants are parameters (copies: the graph does not change).

    Constants that share content in the weight store share a parameter. Encoded and integer constants are held fixed;
    gradients pass straight through `quantize`. `trainable` chooses among the floating-point `const` nodes; the others
    are held fixed too. `weights.<n>` names a parameter; `layer_of` tells the constant's own name.
    """

    def __init__(self, graph: Graph, trainable: Callable[[Node], bool] | None = None) -> None:
        super().__init__()
        self.graph = graph
        self.weights = nn.ParameterList()
        self.layer_of: list[str] = []
        self._places: dict[str, int] = {}
        self._fixed: dict[str, Any] = {}
        for node in _constants(graph):
            digest, value = node.attrs["digest"], constant(node)
            if digest in self._places:
                continue
            chosen = trainable is None or trainable(node)
            if chosen and isinstance(value, torch.Tensor) and value.is_floating_point():
                self._fixed.pop(digest, None)
                self._places[digest] = len(self.weights)
                self.weights.append(nn.Parameter(value.clone()))
                self.layer_of.append(node.attrs["name"])
            else:
                self._fixed[digest] = value

    def forward(self, *inputs: Any) -> list[Any]:
        """The outputs of the graph for its inputs, as tensors. Raises CallError when the inputs do not fit."""
        return self.observed(inputs)

    def observed(self, inputs: tuple[Any, ...], observe: Observe | None = None) -> list[Any]:
        """Like calling the module, with every node's results shown to `observe`."""
        symbols = bind_inputs(self.graph, inputs)
        outputs = run_graph(self.graph, inputs, symbols, observe=observe, constants=self._constant)
        return [decoded(o) for o in outputs]

    def trained(self) -> Graph:
        """A clone of the graph with the parameters as they are now; unchanged constants keep their digest."""
        copy = self.graph.clone()
        self._store(copy)
        return copy

    def _store(self, graph: Graph) -> None:
        changed: Mapping[Node, int] = {
            n: self._places[n.attrs["digest"]] for n in graph.nodes
            if n.op.name == "const" and n.attrs["digest"] in self._places
        }
        with graph.edit("train") as e:
            for node, place in changed.items():
                type = node.type
                array = array_of(self.weights[place].detach().to(constant(node).dtype).contiguous())
                weight = graph.store.add(TensorType(type.shape, type.dtype), array)
                if weight.digest != node.attrs["digest"]:
                    e.set_attrs(node, digest=weight.digest)
        for node in graph.nodes:
            for body in node.bodies:
                self._store(body)

    def _constant(self, node: Node) -> Any:
        digest = node.attrs["digest"]
        place = self._places.get(digest)
        return self._fixed[digest] if place is None else self.weights[place]


def _constants(graph: Graph) -> list[Node]:
    return [node for node in graph.walk() if node.op.name == "const"]

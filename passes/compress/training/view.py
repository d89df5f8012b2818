"""A trainable view of a graph: chosen constants as parameters, forward by the operators' meaning, write-back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.types import TensorType
from mcomp.ops.encoded import decoded
from mcomp.ops.evaluate import constant
from mcomp.passes.compress.training.attention import plain_attention
from mcomp.passes.compress.training.forward import Forward, Override
from mcomp.passes.compress.training.normalized import Normalized, normalizable
from mcomp.passes.compress.training.parameters import Trained, parameter
from mcomp.passes.compress.training.rounding import round_activation

TABLE = 1 << 20
"""Elements from which on a table of embeddings is not trained unless asked for: most of it is never looked up."""
_LAYERS = frozenset((
    "linear", "conv", "conv_transpose", "bilinear", "grouped_matmul", "embedding", "layer_norm", "rms_norm", "group_norm",
    "batch_norm", "prelu", "lstm", "gru", "rnn", "matmul",
))
_STATISTICS = {"batch_norm": (1, 2)}
"""Operands that are measured, not trained."""
_ARITHMETIC = ("add", "sub", "mul")
_HUGE = 1e4


class TrainableGraph:
    """A graph whose constants can be trained. The graph itself changes only in `write`.

    `chosen` says which `const` nodes are parameters (default: `is_trainable`); those that cannot be trained (integers) are
    held as they are. Quantization is in the loop: affine, n:m and block-sparse constants keep their encoding (trained in
    float, rounded when used, masks held), `quantize` nodes round and let gradients through. `learn_scales` also trains
    scales: those stored with weights, and those of `quantize` nodes that have one. `outputs` and `inputs` choose what is
    computed and from what (default: what the graph returns, from its inputs). `channels_last`: images are laid out so
    (default: when there are convolutions over images). `originals`: what constants were before they were rounded, by name.
    """

    def __init__(
        self, graph: Graph, *, chosen: Callable[[Node], bool] | None = None, learn_scales: bool = False,
        inputs: Sequence[Value] | None = None, outputs: Sequence[Value] | None = None, channels_last: bool | None = None,
        originals: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.graph = graph
        self.trained: dict[Node, Trained] = {}
        self._fixed: dict[Node, Any] = {}
        self._growth: dict[Node, Tensor] = {}
        self._normalized: dict[Node, Normalized] = {}
        wanted = chosen or is_trainable
        self._overrides: dict[Node, Override] = {}
        overrides = self._overrides
        self._forward = Forward(graph, self._constant, inputs=inputs, outputs=outputs, overrides=overrides)
        nodes = self._forward.nodes
        for node in [n for top in nodes for n in (top, *_nested(top))]:
            if node.op.name == "const" and wanted(node):
                original = (originals or {}).get(node.attrs["name"])
                found = parameter(node, learn_scales=learn_scales, original=original)
                if found is not None:
                    self.trained[node] = found
        for node in nodes:
            if node.op.name == "attention":
                overrides[node] = plain_attention(node)
            if node.op.name != "quantize":
                continue
            if learn_scales and node.attrs["scale"] is not None:
                self._growth[node] = torch.zeros(()).requires_grad_()
            overrides[node] = round_activation(node, self._growth.get(node))
        self._run_with(overrides)
        self.channels_last = of_images(nodes) if channels_last is None else channels_last

    # running

    def __call__(self, inputs: Sequence[Any], symbols: Mapping[str, int] | None = None) -> list[Tensor]:
        """The outputs as dense tensors. Raises as `Forward` does."""
        given = [laid_out(x, self.channels_last) for x in inputs]
        return [decoded(y) for y in self._forward(given, symbols)]

    @property
    def nodes(self) -> list[Node]:
        """The nodes that run, in order."""
        return self._forward.nodes

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self._forward.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        return self._forward.outputs

    def symbols(self, inputs: Sequence[Any]) -> dict[str, int]:
        """The sizes that inputs determine. Raises CallError when they do not fit."""
        return self._forward.symbols(inputs)

    def _constant(self, node: Node) -> Any:
        trained = self.trained.get(node)
        if trained is not None:
            found = trained.value()
            return laid_out(found, self.channels_last)
        if node not in self._fixed:
            self._fixed[node] = laid_out(decoded(constant(node)), self.channels_last)
        return self._fixed[node]

    def normalize(self, inputs: Sequence[Any]) -> int:
        """Normalize what convolutions give for as long as this view is trained (see `Normalized`), as large as they are for
        these inputs; `write` makes them plain again. Returns how many are."""
        places = {n: found for n in self.nodes if (found := normalizable(n, self.trained)) is not None}

        def measured(node: Node) -> Override:
            def convolution(*given: Any) -> Tensor:
                result: Tensor = node.op.reference([decoded(x) for x in given], node.attrs)
                self._normalized[node] = Normalized(node, *places[node], result)
                return result

            return convolution

        self._run_with({**self._overrides, **{node: measured(node) for node in places}})
        with torch.no_grad():
            self(inputs)
        self._run_with({**self._overrides, **self._normalized})
        return len(places)

    def _run_with(self, overrides: Mapping[Node, Override]) -> None:
        self._forward = Forward(
            self.graph, self._constant, inputs=self.inputs, outputs=self.outputs, overrides=overrides
        )

    # parameters

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is optimized, by a name that is stable for a graph."""
        found: dict[str, Tensor] = {}
        for node, trained in self.trained.items():
            for part, tensor in trained.tensors().items():
                found[f"{node.name}:{part}"] = tensor
        for node, growth in self._growth.items():
            found[f"{node.name}:scale"] = growth
        for node, normalized in self._normalized.items():
            found[f"{node.name}:gain"] = normalized.gain
        return found

    def buffers(self) -> dict[str, Tensor]:
        """What else a state has: running statistics, by a name that is stable for a graph."""
        return {
            f"{node.name}:{name}": tensor for node, normalized in self._normalized.items()
            for name, tensor in normalized.running.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that is optimized, and of buffers."""
        return {name: tensor.detach().clone() for name, tensor in {**self.tensors(), **self.buffers()}.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state. Raises KeyError when it is of another graph."""
        with torch.no_grad():
            for name, tensor in {**self.tensors(), **self.buffers()}.items():
                tensor.copy_(state[name])

    def write(self, label: str = "train") -> int:
        """Store what was trained in the graph, in one edit; returns how many constants and scales changed. To be called
        once: afterwards the graph has other constants than those that this view started from."""
        changed = 0
        for normalized in self._normalized.values():
            normalized.fold()
        self._normalized.clear()
        self._run_with(self._overrides)
        for graph in {t.node.graph for t in self.trained.values()} | {self.graph}:
            with graph.edit(label) as editor:
                for node, trained in self.trained.items():
                    if node.graph is not graph:
                        continue
                    weight = graph.store.add(trained.type, trained.parts())
                    if weight.digest != node.attrs["digest"]:
                        editor.set_attrs(node, digest=weight.digest)
                        changed += 1
                for node, growth in self._growth.items():
                    if node.graph is graph and float(growth.detach()) != 0.0:
                        editor.set_attrs(node, scale=node.attrs["scale"] * math.exp(float(growth.detach())))
                        editor.reinfer(node)
                        changed += 1
        return changed


def of_images(nodes: Sequence[Node]) -> bool:
    """Whether there are convolutions over images, which are faster with channels last."""
    return any(n.op.name == "conv" and n.type.rank == 4 for n in nodes)


def laid_out(x: Any, channels_last: bool) -> Any:
    """Tensors of four dimensions with the second one last in memory, where asked for; everything else as it is."""
    if channels_last and isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point():
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _nested(node: Node) -> list[Node]:
    return [n for body in node.bodies for n in body.walk()]


def is_trainable(node: Node) -> bool:
    """Whether a `const` node is something that training may change: a weight or bias of a layer, a gain, an offset or a
    table of positions; not numbers of the computation (masks, epsilons), and no table of `TABLE` elements or more that is
    only looked up."""
    type = node.type
    if not type.dtype.is_float or not type.shape:
        return False
    places = [(user, index) for user, index in node.result.uses]
    if any(_is_weight_of(user, index, type) for user, index in places):
        tables = all(user.op.name == "embedding" for user, _ in places)
        numel = type.numel
        return not (tables and isinstance(numel, int) and numel >= TABLE)
    if not all(user.op.name in _ARITHMETIC for user, _ in places) or type.numel == 1:
        return False
    values = decoded(constant(node))
    return bool(torch.isfinite(values).all()) and float(values.abs().max()) < _HUGE


def _is_weight_of(user: Node, index: int, type: TensorType) -> bool:
    if user.op.name == "matmul":
        return sum(d != 1 for d in type.shape) >= 2
    return user.op.name in _LAYERS and index not in _STATISTICS.get(user.op.name, ())


def untie_vectors(graph: Graph) -> int:
    """Give every layer a vector of its own where layers share one because their contents were equal (biases of zeros);
    returns how many were added. Shared matrices stay shared."""
    added = 0
    for node in [n for n in graph.nodes if n.op.name == "const" and n.type.rank == 1]:
        users = node.result.uses
        if len(users) < 2 or not is_trainable(node):
            continue
        with graph.edit("untie", loc=node.loc) as editor:
            for user, index in users[1:]:
                if user is graph.returns:
                    continue
                copy = editor.const(
                    graph.store.get(node.attrs["digest"]), name=node.attrs["name"], loc=node.loc, before=user
                )
                editor.set_operand(user, index, copy)
                added += 1
    return added
